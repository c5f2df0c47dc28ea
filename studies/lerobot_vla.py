"""Finetuned SmolVLA, pi0 and pi0.5 go back to lerobot: its own classes load the exports and give the same actions.

`lerobot_vla.sh` runs the steps. `prepare` and `compare` run in lerobot's own environment (Python 3.12,
`pip install "lerobot[dataset,training,smolvla,pi,peft]"`), `actions` in this project's:

    python studies/lerobot_vla.py prepare pi0 data/mine base  # lerobot writes a checkpoint of the tiny test weights
    python -m studies.lerobot_vla actions policy.safetensors actions.safetensors
    python studies/lerobot_vla.py compare pi0 out actions.safetensors

The sizes of SmolVLA follow from its config and the language model's folder. Those of pi0 and pi0.5 are fixed in
lerobot's code: `get_gemma_config` knows gemma_300m and gemma_2b only, and `PaliGemmaWithExpertModel.__init__` writes
down a vocabulary of 257,152 and the vision tower. Only these numbers are replaced here, the code that uses them is not.
"""

from __future__ import annotations

import string
import sys
from functools import partial
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "vla"
CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 240, 320
STEPS, HORIZON = 4, 4
TASKS = ("put the red block in the left bin", "put the red block in the right bin")
_TEXT = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 8}
_TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "model_type": "llama"}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION |= {"image_size": 64, "patch_size": 16}
_TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOWER |= {"patch_size": 14, "projection_dim": 24}
_WORDS = 300
"""Vocabulary of the tiny pi0 and pi0.5."""


# ---------------------------------------------------------------- in lerobot's environment


def prepare(kind: str, data: Path, folder: Path) -> None:
    """Write a checkpoint by lerobot: the tiny weights of the tests in float32, and the statistics of a data set."""
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.utils.feature_utils import dataset_to_policy_features
    from safetensors.torch import load_file

    meta = LeRobotDatasetMetadata("owner/mine", root=data)
    features = dataset_to_policy_features(meta.features)
    ends = {"output_features": {"action": features.pop("action")}, "input_features": features}
    words = folder.with_name(f"{folder.name}-words")
    write_words(kind, words)
    policy_type, config_type, processors = classes(kind, words)
    settings: dict[str, Any] = {"chunk_size": HORIZON, "n_action_steps": HORIZON, "device": "cpu", **ends}
    if kind == "smolvla":
        settings |= {"resize_imgs_with_padding": (64, 64), "num_steps": STEPS, "num_vlm_layers": 4}
        settings |= {"vlm_model_name": str(words)}
    else:
        settings |= {"image_resolution": (56, 56), "num_inference_steps": STEPS}
    config = config_type(**settings)
    policy = policy_type(config)
    tensors = load_file(DATA / kind / "share_model.safetensors")
    policy.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    policy.save_pretrained(folder)
    for processor in processors(config, dataset_stats=meta.stats):
        processor.save_pretrained(folder)
    print(f"{folder}: {policy_type.__name__}, {sum(map(len, tensors.values())):,} rows, written by lerobot {version()}")


def compare(kind: str, folder: Path, file: Path) -> None:
    """Load an export by lerobot and compare its actions with those in the file; exit with 1 if they differ."""
    import torch
    from lerobot.configs import PreTrainedConfig
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
    from safetensors.torch import load_file

    policy_type, _, _ = classes(kind, folder)
    if is_adapter := (folder / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel

        settings = PeftConfig.from_pretrained(str(folder))
        base = policy_type.from_pretrained(settings.base_model_name_or_path)
        policy: Any = PeftModel.from_pretrained(base, str(folder), config=settings)
        assert PreTrainedConfig.from_pretrained(folder).use_peft
    else:
        policy = policy_type.from_pretrained(folder)
    before = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
    after = PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename="policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    stored = load_file(file)
    largest = 0.0
    for row, task in enumerate(TASKS):
        batch = {f"observation.images.{name}": stored[name][row].permute(2, 0, 1) / 255 for name in CAMERAS}
        batch = before(batch | {"observation.state": stored["state"][row], "task": task})
        chunk = policy.predict_action_chunk(batch, noise=stored["noise"][row : row + 1])
        largest = max(largest, float((after(chunk)[0] - stored["actions"][row]).abs().max() / stored["scale"].max()))
    changed = float((stored["actions"] - stored["base"]).abs().max() / stored["scale"].max())
    what = "adapter" if is_adapter else "merged"
    print(
        f"{kind}, {what}: actions by lerobot {version()} and here differ by at most {largest:.1e} of the scale; "
        f"training had changed them by {changed:.1e}"
    )
    if not largest <= 1e-5 < changed or torch.isnan(stored["actions"]).any():
        sys.exit(f"{kind}, {what}: expected a difference of at most 1e-5, and a change above it")


def classes(kind: str, words: Path) -> tuple[Any, Any, Any]:
    """Classes of policy and config of lerobot, and its function that makes the processors; pi0 with tiny sizes."""
    if kind == "smolvla":
        from lerobot.policies.smolvla import modeling_smolvla, processor_smolvla

        return (
            modeling_smolvla.SmolVLAPolicy,
            modeling_smolvla.SmolVLAConfig,
            processor_smolvla.make_smolvla_pre_post_processors,
        )
    import importlib

    module: Any = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    made: Any = importlib.import_module(f"lerobot.policies.{kind}.processor_{kind}")
    tokenizer = made.TokenizerProcessorStep
    if not isinstance(tokenizer, partial):  # its name is fixed, and PaliGemma's is not free to copy
        made.TokenizerProcessorStep = lambda **fields: tokenizer(**fields | {"tokenizer_name": str(words)})
    tiny: Any = module.GemmaConfig
    sizes = {"gemma_2b": (24, 2, 48, 8, 1, 4), "gemma_300m": (16, 2, 32, 8, 1, 4)}
    module.get_gemma_config = lambda variant: tiny(*sizes[variant])
    paligemma, gemma = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM

    def small_paligemma(config: Any) -> Any:
        config.text_config.vocab_size = _WORDS
        for name, value in _TOWER.items():
            setattr(config.vision_config, name, value)
        return paligemma(config=config)

    def small_gemma(config: Any) -> Any:
        config.vocab_size = _WORDS
        return gemma(config=config)

    module.PaliGemmaForConditionalGenerationWithPiGemma = small_paligemma
    module.PiGemmaForCausalLM = small_gemma
    name = kind.upper()
    return (
        getattr(module, f"{name}Policy"),
        getattr(module, f"{name}Config"),
        getattr(made, f"make_{kind}_pre_post_processors"),
    )


def write_words(kind: str, folder: Path) -> None:
    """Write a tokenizer of single characters, for SmolVLA with the config and processor of its language model."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", "<unk>", *string.printable]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    special: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    if kind != "smolvla":
        tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        return
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    names = ("image_token", "fake_image_token", "global_image_token", "end_of_utterance_token")
    special["extra_special_tokens"] = {name: f"<{name}>" for name in names}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    SmolVLMProcessor(SmolVLMImageProcessor(), fast, SmolVLMVideoProcessor()).save_pretrained(folder)
    settings: dict[str, Any] = {"scale_factor": 2, "image_token_id": 199, "pad_token_id": 0}
    config = SmolVLMConfig(text_config=_TEXT, vision_config=_VISION, **settings)
    config.save_pretrained(folder)


def version() -> str:
    """Version of lerobot."""
    from importlib.metadata import version as version_of

    return version_of("lerobot")


# ---------------------------------------------------------------- in this project's environment


def actions(path: Path, base: Path, file: Path) -> None:
    """Write observations, noise and the actions of a policy and of its base for them."""
    import torch
    from safetensors.torch import save_file

    from worldgymnast.registry import load_policy
    from worldgymnast.types import Observation

    policy: Any = load_policy(path)
    before: Any = load_policy(base)
    generator = torch.Generator().manual_seed(5)
    size = (len(TASKS), HEIGHT, WIDTH, 3)
    images = {name: torch.randint(256, size, generator=generator, dtype=torch.uint8) for name in CAMERAS}
    state = policy.state_offset + policy.state_scale * torch.randn(
        len(TASKS), policy.config.state_dim, generator=generator
    )
    obs = Observation(images=images, instruction=TASKS, state=state)
    found, old = (one.act(obs, temperature=0.0, generator=None) for one in (policy, before))
    values = {"state": state, "noise": found.sample["chain"][:, 0], "actions": found.actions, "base": old.actions}
    values["scale"] = policy.action_scale
    save_file({name: value.contiguous() for name, value in (images | values).items()}, file)


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "prepare":
        prepare(words[0], Path(words[1]), Path(words[2]))
    elif command == "compare":
        compare(words[0], Path(words[1]), Path(words[2]))
    else:
        actions(*map(Path, words))
