"""Tiny vision-language models with random weights, as folders that transformers loads like the published ones.

The classes, the processors and the chat templates are those of the published models; only the sizes are small (under
1 MB) and the tokenizer learned its words from the judges' prompts. They know nothing, or one thing (`taught`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast.judges.local import LocalVLM, LocalVLMConfig
from worldgymnast.judges.prompt import ANSWER_PREFIX, RUBRICS, question
from worldgymnast.types import Clip

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>")  # fmt: skip
_SMOL = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>")

_QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 8192, "initializer_range": 0.15,
         "bos_token_id": None, "eos_token_id": None}  # fmt: skip
_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
           "initializer_range": 0.15}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

INSTRUCTIONS: tuple[str, ...] = ("open the drawer", "push the green button", "close the door")


def _tokenizer(special: tuple[str, ...], end: str, template: str) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    letters = Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token=special[0], pad_token=special[0], eos_token=end,
        additional_special_tokens=list(special), chat_template=template,
    )  # fmt: skip
    asked = [part for rubric in RUBRICS.values() for part in question(rubric, clip((0, 0)), "", 2)]
    words = [part for part in asked if isinstance(part, str)]
    return letters.train_new_from_iterator([*words, *INSTRUCTIONS, f"Frame {ANSWER_PREFIX}"], 600)


def _save(folder: Path, model: Any, tokenizer: Any, image_processor: Any, end: str) -> Path:
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(end)
    model.generation_config.do_sample = True  # as Qwen publishes them; without it a server ignores the temperature
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    return folder


def _ids(tokenizer: Any) -> dict[str, Any]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {field: tokenizer.convert_tokens_to_ids(token) for field, token in names.items()}


def _qwen_images(patch: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = 2 * patch
    return Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": side * side, "longest_edge": 64 * side * side},
    )  # fmt: skip


def qwen2_5_vl(folder: Path) -> Path:
    """A Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = _tokenizer(_QWEN, "<|im_end|>", _QWEN_TEMPLATE)
    config = Qwen2_5_VLConfig(
        text_config=_TEXT | {"vocab_size": len(tokenizer), "rope_parameters": _ROPE},
        vision_config=_VISION | {"patch_size": 14, "fullatt_block_indexes": [1]},
        **_ids(tokenizer),
    )
    torch.manual_seed(0)
    return _save(folder, Qwen2_5_VLForConditionalGeneration(config), tokenizer, _qwen_images(14), "<|im_end|>")


def qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = _tokenizer(_QWEN, "<|im_end|>", _QWEN_TEMPLATE)
    rope = _ROPE | {"mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_TEXT | {"vocab_size": len(tokenizer), "head_dim": 16, "rope_parameters": rope},
        vision_config=_VISION | {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        **_ids(tokenizer),
    )
    torch.manual_seed(0)
    return _save(folder, Qwen3VLForConditionalGeneration(config), tokenizer, _qwen_images(16), "<|im_end|>")


def smolvlm(folder: Path) -> Path:
    """A SmolVLM: pictures of 32x32 pixels, in one piece."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = _tokenizer(_SMOL, "<end_of_utterance>", _SMOL_TEMPLATE)
    pad = tokenizer.pad_token_id
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "initializer_range": 0.15}  # fmt: skip
    config = SmolVLMConfig(
        text_config=_TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": pad},
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **{"pad_token_id": pad},
    )
    torch.manual_seed(0)
    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    saved = _save(folder, SmolVLMForConditionalGeneration(config), tokenizer, images, "<end_of_utterance>")
    (saved / "processor_config.json").write_text('{"image_seq_len": 4, "processor_class": "SmolVLMProcessor"}')
    return saved


def clip(bright: Sequence[int] | np.ndarray, seed: int = 0, side: int = 28) -> Clip:
    """Noise frames [t side side 3], dark or bright; for the model that `taught` makes, a bright last one is success."""
    frames = np.random.default_rng(seed).integers(0, 80, (len(bright), side, side, 3), dtype=np.uint8)
    lift = (150 * np.asarray(bright, np.uint8))[:, None, None, None]
    return Clip(frames + lift, INSTRUCTIONS[seed % 3])


def taught(
    folder: Path, steps: int = 80, show: Callable[[Sequence[int], int, int], Clip] = clip, max_loss: float | None = 0.1
) -> Path:
    """A Qwen2.5-VL that learned one thing, in some 5 s: it writes `Final Score: 1` where the last picture is bright.

    Whatever else was shown, it writes `Final Score: 0`. It has seen 2 to 9 frames, and the rubrics with scores 0 and 1.

    Args:
        folder: to write.
        steps: of training.
        show: makes the clips, like `clip`.
        max_loss: largest loss of a token at the end; None for any.
    """
    criteria = dict.fromkeys(INSTRUCTIONS, "it moves")
    asked = LocalVLMConfig(str(qwen2_5_vl(folder)), pixels=28, frames=9, criteria=criteria)
    judges = [LocalVLM(replace(asked, rubric=rubric)) for rubric in ("binary-v1", "partial-v1")]
    model, tokenizer = judges[0].model.train(), judges[0].processor.tokenizer
    answers = torch.tensor([[*tokenizer.encode(f"Final Score: {s}"), tokenizer.eos_token_id] for s in (0, 1)])
    draw = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    worst = 1.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.01 * min(1, 2 - 2 * step / steps)
        bright = [draw.integers(0, 2, draw.integers(2, 10)) for _ in range(8)]
        inputs = judges[step % 2].inputs([show(b, 8 * step + i, 28 + step // 2 % 2 * 28) for i, b in enumerate(bright)])
        answer = answers[[int(b[-1]) for b in bright]]
        more = {"input_ids": answer, "attention_mask": torch.ones_like(answer),
                "mm_token_type_ids": torch.zeros_like(answer)}  # fmt: skip
        longer = {k: torch.cat([v, more[k]], 1) if k in more else v for k, v in inputs.items()}
        logits = model(**longer, use_cache=False, logits_to_keep=answer.shape[1] + 1).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), answer, reduction="none")
        optimizer.zero_grad()
        (loss.mean() + loss[:, -2].mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        worst = loss.detach().max().item()
    assert max_loss is None or worst < max_loss, f"the tiny model did not learn: a token still costs {worst:.2f}"
    model.save_pretrained(folder)
    return folder
