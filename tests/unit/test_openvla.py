"""OpenVLA as a policy: ratios, sampling, imitation, files; and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from openvla_folder import COMMON, ONE_BY_ONE, PARALLEL, facts, vectors, weights, write_folder
from safetensors.torch import save_file
from test_openvla_parity import chunk_of, close, look, regression_look
from torch import Tensor

from worldgymnast.actions import BRIDGE
from worldgymnast.errors import FieldError, InputError
from worldgymnast.policies.lora import add_adapters, save_adapter
from worldgymnast.policies.openvla import OpenVLA, adapted_layers
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.policies.openvla_config import OpenVLAConfig
from worldgymnast.policies.openvla_tokens import Statistics, decode, draw, encode
from worldgymnast.precision import autocast
from worldgymnast.registry import Manifest, export_policy, load_policy, save_component
from worldgymnast.testing import ContractError, check_policy, check_sight
from worldgymnast.types import ActionChunk, Observation
from worldgymnast.weights import load_weights, save_weights

KINDS = {"parallel": PARALLEL, "autoregressive": ONE_BY_ONE}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "checkpoint")


def loaded(folder: Path, kind: str = "parallel", **changes: Any) -> OpenVLA:
    return OpenVLACheckpoint(checkpoint=str(folder), **{**COMMON, **KINDS[kind], **changes}).load()


def regression(tmp_path: Path, **changes: Any) -> OpenVLA:
    cameras = {"head": "l1", "cameras": ("image", "wrist")}
    return loaded(write_folder(tmp_path / "regression", heads=True), **cameras, **changes)


def sampled(policy: OpenVLA, obs: Observation, seed: int = 0, temperature: float = 1.6) -> ActionChunk:
    return policy.act(obs, temperature=temperature, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- reinforcement learning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16 weights"])
def test_the_ratio_is_1_before_the_first_update(folder: Path, kind: str, precision: str) -> None:
    policy = loaded(folder, kind, weights="bfloat16" if precision == "bf16 weights" else "float32")
    with autocast("bf16" if precision == "bf16" else "fp32", CPU):
        chunk = sampled(policy, look())
        fresh = policy.logprobs(look(), chunk)
    assert torch.equal(fresh, chunk.logprobs)
    assert chunk.logprobs.dtype == torch.float32
    assert len(chunk.logprobs.unique()) > 3


def test_the_ratio_of_the_regression_head_is_1(tmp_path: Path) -> None:
    policy = regression(tmp_path, noise=0.05)
    obs = regression_look(policy)
    chunk = sampled(policy, obs, temperature=1.0)
    assert torch.equal(policy.logprobs(obs, chunk), chunk.logprobs)
    assert isinstance(chunk.sample, Tensor)
    mean = policy.regress(obs)
    close(chunk.logprobs, torch.distributions.Normal(mean, 0.05).log_prob(chunk.sample).detach(), 1e-4)


def test_tokens_are_drawn_from_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    drawn = draw(probabilities.log().expand(20000, 4), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 20000
    close(shares, probabilities, 0.01)
    assert shares[1] == 0


def test_autoregressive_sampling_reads_its_own_tokens(folder: Path) -> None:
    policy = loaded(folder, "autoregressive")
    chunk = sampled(policy, look())
    assert isinstance(chunk.sample, Tensor)
    changed = chunk.sample.clone()
    changed[:, 0, 0] = 31800
    other = policy.logprobs(look(), chunk_of(changed.flatten(1), 1.6))
    assert not torch.allclose(other[:, 0, 1:], chunk.logprobs[:, 0, 1:], atol=1e-3)


def test_parallel_slots_do_not_read_each_other(folder: Path) -> None:
    policy = loaded(folder)
    tokens = vectors()["sampled_tokens"].clone()
    before = policy.logprobs(look(), chunk_of(tokens, 1.6))
    tokens[:, 0] = 31800
    after = policy.logprobs(look(), chunk_of(tokens, 1.6))
    assert torch.equal(before.flatten(1)[:, 1:], after.flatten(1)[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_policies(folder: Path, kind: str) -> None:
    check_policy(loaded(folder, kind), frame_size=(64, 64))


def test_the_contract_of_policies_with_a_regression_head(tmp_path: Path) -> None:
    check_policy(regression(tmp_path, noise=0.05), frame_size=(48, 64), state_size=7)


def test_gradients_reach_every_part(folder: Path) -> None:
    policy = loaded(folder)
    policy.logprobs(look(), sampled(policy, look())).mean().backward()
    without = [name for name, weight in policy.named_parameters() if weight.grad is None]
    assert without == []


def test_checkpointing_changes_no_number(folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = loaded(folder, checkpointing=checkpointing)
        chunk = sampled(policy, look())
        passes = []
        layers = [policy.language_model.model.layers[0].mlp, policy.vision_backbone.featurizer.blocks[0].mlp]
        for layer in layers:
            layer.register_forward_pre_hook(lambda *_, calls=passes: calls.append(1))
        policy.logprobs(look(), chunk).mean().backward()
        assert len(passes) == (4 if checkpointing else 2), "a recomputed layer runs twice"
        gradients.append({name: weight.grad for name, weight in policy.named_parameters()})
    plain, recomputed = gradients
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_frozen_weights_are_not_trainable_state(folder: Path) -> None:
    policy = loaded(folder)
    policy.vision_backbone.requires_grad_(False)
    state = policy.trainable_state()
    assert state
    assert not any(name.startswith("vision_backbone") for name in state)


# ---------------------------------------------------------------- dtype and identity


def test_bfloat16_weights_keep_float32_rotary_frequencies(folder: Path) -> None:
    policy = loaded(folder, weights="bfloat16")
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}
    assert policy.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_identity_depends_on_the_config_but_not_on_places(folder: Path, tmp_path: Path) -> None:
    policy = loaded(folder)
    assert policy.identity == loaded(write_folder(tmp_path / "elsewhere", shards=3)).identity
    assert policy.identity != loaded(folder, attention="causal").identity


# ---------------------------------------------------------------- imitation


def imitation(policy: OpenVLA, actions: Tensor, mask: Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"obs": look().rows(torch.arange(len(actions))), "actions": actions, "mask": mask, "generator": generator}


@pytest.mark.parametrize("kind", KINDS)
def test_imitation_is_cross_entropy_over_the_vocabulary_with_the_stop_token(folder: Path, kind: str) -> None:
    policy = loaded(folder, kind)
    k = policy.chunk
    actions = policy.config.statistics.unnormalize(
        decode(vectors()["sampled_tokens"][:2, : k * 7], 32000).unflatten(1, (k, 7))
    )
    mask = torch.ones(2, k, dtype=torch.bool)
    tokens = encode(policy.config.statistics.normalize(actions.float()), 32000).flatten(1)
    loss, metrics = policy.loss(imitation(policy, actions.float(), mask))
    hidden = policy.slots(*policy.prefix(look().rows(torch.arange(2))), tokens)
    logprobs = F.log_softmax(policy.language_model.lm_head(hidden), -1)
    labels = torch.cat([tokens, torch.full((2, 1), 2)], 1)
    close(loss, -logprobs.gather(-1, labels[..., None]).mean(), 1e-4)
    assert 0 <= metrics["token_accuracy"] <= 1


def test_imitation_ignores_masked_actions(folder: Path) -> None:
    policy, mask = loaded(folder), torch.ones(1, 5, dtype=torch.bool)
    mask[:, 3:] = False
    actions = torch.zeros(1, 5, 7)
    first, _ = policy.loss(imitation(policy, actions, mask))
    actions[:, 3:] = 0.1
    second, _ = policy.loss(imitation(policy, actions, mask))
    assert torch.equal(first, second)


def test_imitation_learns_what_is_shown(folder: Path) -> None:
    policy = loaded(folder, chunk=1)
    tokens = torch.randint(31760, 31990, (1, 1, 7), generator=torch.Generator().manual_seed(0))
    shown = policy.config.statistics.unnormalize(decode(tokens, 32000)).float()
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    batch = imitation(policy, shown, torch.ones(1, 1, dtype=torch.bool))
    for _ in range(120):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    greedy = policy.act(look().rows(torch.tensor([0])), temperature=0.0, generator=None)
    assert isinstance(greedy.sample, Tensor)
    assert (greedy.sample == tokens).float().mean() > 0.9


def test_imitation_of_the_regression_head_is_the_l1_error(tmp_path: Path) -> None:
    policy = regression(tmp_path)
    obs, actions = regression_look(policy), torch.full((1, 5, 7), 0.05)
    loss, _ = policy.loss({"obs": obs, "actions": actions, "mask": torch.ones(1, 5, dtype=torch.bool)})
    target = policy.config.statistics.normalize(actions).float()
    close(loss, (policy.regress(obs) - target).abs().mean(), 1e-6)


# ---------------------------------------------------------------- statistics


def test_statistics_without_mask_scale_every_axis() -> None:
    statistics = Statistics(key="x", bounds="q99", epsilon=0, low=(-2.0, 0.0), high=(2.0, 1.0), mask=(True, False))
    close(statistics.unnormalize(torch.tensor([1.0, 0.25])), torch.tensor([2.0, 0.25]).double(), 1e-12)
    close(statistics.normalize(torch.tensor([1.0, 0.25])), torch.tensor([0.5, 0.25]).double(), 1e-8)


def test_statistics_that_contradict_themselves() -> None:
    with pytest.raises(FieldError, match="low <= high"):
        Statistics(key="x", bounds="q99", epsilon=0, low=(1.0,), high=(0.0,), mask=(True,))
    with pytest.raises(FieldError, match="one per action axis"):
        Statistics(key="x", bounds="q99", epsilon=0, low=(0.0,), high=(1.0,), mask=())


# ---------------------------------------------------------------- files


def test_shards_are_read_by_their_index(folder: Path, tmp_path: Path) -> None:
    sharded = write_folder(tmp_path / "sharded", shards=3)
    assert not (sharded / "model.safetensors").exists()
    assert torch.equal(loaded(sharded).logits(look()), loaded(folder).logits(look()))


def test_a_description_in_the_folder_loads_by_the_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not say how actions are decoded"):
        load_policy(folder)
    description = {"kind": "OpenVLACheckpoint", "checkpoint": ".", **COMMON, **PARALLEL}
    (folder / "policy.json").write_text(json.dumps(description))
    policy = load_policy(folder)
    assert isinstance(policy, OpenVLA)
    assert policy.action_spec.is_same_kind(BRIDGE)
    assert policy.action_spec.high[0] == pytest.approx(0.0563367, abs=1e-6)
    assert policy.identity == load_policy(folder / "policy.json").identity
    beside = tmp_path / "beside.json"
    beside.write_text(json.dumps({**description, "checkpoint": folder.name}))
    assert load_policy(beside).identity == policy.identity


def test_a_component_file_needs_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    policy, path = loaded(folder), tmp_path / "policy.safetensors"
    save_component(path, policy, Manifest())
    again = load_policy(path)
    assert isinstance(again, OpenVLA)
    assert again.identity == policy.identity
    assert {buffer.device.type for buffer in again.buffers()} == {"cpu"}
    assert torch.equal(again.logits(look()), policy.logits(look()))
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(InputError, match="was saved with"):
        load_policy(path).act(look(), temperature=0.0, generator=None)


def test_a_component_file_keeps_its_dtypes(folder: Path, tmp_path: Path) -> None:
    policy, path = loaded(folder, weights="bfloat16", lora_rank=2), tmp_path / "policy.safetensors"
    save_component(path, policy, Manifest())
    again = load_policy(path)
    assert isinstance(again, OpenVLA)
    assert {n: w.dtype for n, w in again.named_parameters()} == {n: w.dtype for n, w in policy.named_parameters()}
    assert set(again.trainable_state()) == set(policy.trainable_state())
    assert torch.equal(again.logits(look()), policy.logits(look()))
    tensors, meta = load_weights(path)
    save_weights(path, {**tensors, "projector.fc2.bias": tensors["projector.fc2.bias"] * torch.nan}, meta)
    with pytest.raises(InputError, match=r"projector\.fc2\.bias.*NaN"):
        load_policy(path)


def test_a_lora_adapter_is_merged(folder: Path) -> None:
    adapter, generator = folder / "lora_adapter", torch.Generator().manual_seed(0)
    adapter.mkdir()
    target = "language_model.model.layers.0.self_attn.q_proj"
    down, up = torch.randn(4, 16, generator=generator), torch.randn(16, 4, generator=generator)
    parts = {f"base_model.model.{target}.lora_A.weight": down, f"base_model.model.{target}.lora_B.weight": up}
    save_file(parts, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    merged = dict(loaded(folder, adapter="lora_adapter").named_parameters())
    plain = dict(loaded(folder).named_parameters())
    close(merged[f"{target}.weight"], plain[f"{target}.weight"] + 2 * up @ down, 1e-6)
    assert [name for name in plain if not torch.equal(plain[name], merged[name])] == [f"{target}.weight"]
    save_file({k.replace("q_proj", "x_proj"): v for k, v in parts.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"x_proj\.weight"):
        loaded(folder, adapter="lora_adapter")


# ---------------------------------------------------------------- LoRA and export


def shifted(policy: OpenVLA, scale: float = 0.05) -> OpenVLA:
    """The policy with other trainable weights."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += scale * torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return policy


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(folder: Path) -> None:
    plain, adapted = loaded(folder), loaded(folder, lora_rank=4)
    assert torch.equal(plain.logits(look()), adapted.logits(look()))
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in adapted.trainable_state())
    assert len(adapted.trainable_state()) == 2 * len(adapted_layers(plain))
    assert adapted.identity == loaded(folder, lora_rank=4).identity != plain.identity
    check_policy(adapted)


def test_an_adapter_at_full_size_has_the_published_number_of_weights() -> None:
    statistics = Statistics(key="x", bounds="q99", epsilon=0, low=(-1.0,) * 7, high=(1.0,) * 7, mask=(True,) * 7)
    config = OpenVLAConfig(
        decoding="parallel", attention="bidirectional", stop_token=True, support="actions", crop="center",
        statistics=statistics, chunk=5, lora_rank=32,
    )  # fmt: skip
    with torch.device("meta"):
        policy = OpenVLA(config, BRIDGE)
    total = sum(weight.numel() for weight in policy.parameters())
    trained = sum(weight.numel() for weight in policy.trainable_state().values())
    assert total - trained == 7_498_156_704, "the published 7,541,237,184 without the tensors that have no effect"
    assert 105e6 < trained < 111e6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_merges_to_the_same_policy(folder: Path, dtype: str) -> None:
    policy = shifted(loaded(folder, lora_rank=4, weights=dtype))
    save_adapter(policy, folder / "mine", str(folder))
    names = load_weights(folder / "mine" / "adapter_model.safetensors")[0]
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    again = loaded(folder, adapter="mine")
    tolerance = 1e-4 if dtype == "float32" else 0.1
    close(again.logits(look()), policy.logits(look()), tolerance)
    assert (again.logits(look()) - loaded(folder).logits(look())).abs().max() > 0.3


def test_an_exported_policy_loads_like_a_published_one(folder: Path, tmp_path: Path) -> None:
    policy = shifted(loaded(folder, lora_rank=4), 0.01)
    export_policy(policy, str(folder), tmp_path / "out")
    names = load_weights(tmp_path / "out" / "model.safetensors")[0]
    assert {name: value.shape for name, value in names.items()} == {n: v.shape for n, v in weights().items()}
    assert {value.dtype for value in names.values()} == {torch.bfloat16}
    close(loaded(tmp_path / "out").logits(look()), policy.logits(look()), 0.05)
    described: Any = load_policy(tmp_path / "out")
    assert torch.equal(described.logits(look()), loaded(tmp_path / "out").logits(look()))
    with pytest.raises(InputError, match="exists already"):
        export_policy(policy, str(folder), tmp_path / "out")


def test_an_export_without_training_is_bit_exact(folder: Path, tmp_path: Path) -> None:
    assert not export_policy(loaded(folder), str(folder), tmp_path / "out")
    found = load_weights(tmp_path / "out" / "model.safetensors")[0]
    assert all(torch.equal(found[name], value) for name, value in weights().items())


@pytest.mark.parametrize("adapter_only", [False, True])
def test_the_regression_head_is_exported_and_trained_beside_an_adapter(tmp_path: Path, adapter_only: bool) -> None:
    policy = regression(tmp_path, lora_rank=4)
    assert any(name.startswith("action_head.") for name in policy.trainable_state())
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if name.startswith("action_head."):
                weight += 0.1
    save_component(tmp_path / "policy.safetensors", policy, Manifest())
    stored: Any = load_policy(tmp_path / "policy.safetensors")
    export_policy(stored, str(tmp_path / "regression"), tmp_path / "out", adapter_only=adapter_only)
    again: Any = load_policy(tmp_path / "out")
    obs = regression_look(policy)
    close(again.regress(obs), policy.regress(obs), 0.03)  # the head is published in bfloat16
    assert (policy.regress(obs) - regression(tmp_path / "plain").regress(obs)).abs().max() > 0.1


def test_an_adapter_alone_is_loaded_from_its_folder(folder: Path, tmp_path: Path) -> None:
    policy = shifted(loaded(folder, lora_rank=4))
    export_policy(policy, str(folder), tmp_path / "out", adapter_only=True)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    again: Any = load_policy(tmp_path / "out")
    close(again.logits(look()), policy.logits(look()), 1e-4)
    assert (again.logits(look()) - loaded(folder).logits(look())).abs().max() > 0.3


def test_an_export_to_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    policy = loaded(folder, lora_rank=4)
    stored = weights()
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    other = write_folder(tmp_path / "other")
    save_file(stored | {name: stored[name] * 1.5}, other / "model.safetensors")
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj\.weight' differs"):
        export_policy(policy, str(other), tmp_path / "out")
    write_folder(other)
    path = other / "dataset_statistics.json"
    path.write_text(path.read_text().replace("0.", "0.0"))
    with pytest.raises(InputError, match="are not those of the policy"):
        export_policy(policy, str(other), tmp_path / "out")
    with pytest.raises(InputError, match="trained without LoRA"):
        export_policy(loaded(folder), str(folder), tmp_path / "out", adapter_only=True)
    assert not (tmp_path / "out").exists()


def test_lora_of_no_linear_layer_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no linear layer projector\.fc9"):
        add_adapters(loaded(folder), ["projector.fc1", "projector.fc9"], 4, 8.0)


def test_a_copy_is_independent(folder: Path) -> None:
    policy = loaded(folder)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        other.language_model.model.norm.weight.zero_()
    assert policy.identity != other.identity
    assert torch.equal(
        policy.act(look(), temperature=0.0, generator=None).logprobs,
        loaded(folder).act(look(), temperature=0.0, generator=None).logprobs,
    )


# ---------------------------------------------------------------- refusals


def rewritten(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "llm_backbone_id", "vicuna-v15-7b"),
        ("config.json", "vision_backbone_id", "siglip-vit-so400m"),
        ("config.json", "use_fused_vision_backbone", False),
        ("config.json", "n_action_bins", 128),
        ("config.json", "image_resize_strategy", "letterbox"),
        ("config.json", "model_type", "llava"),
        ("preprocessor_config.json", "interpolations", ["bilinear", "bilinear"]),
        ("preprocessor_config.json", "image_resize_strategy", "resize-crop"),
    ],
)
def test_other_architectures_and_preprocessing_are_refused(folder: Path, file: str, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{file}: field '{field}'") as caught:
        loaded(rewritten(folder, file, **{field: value}))
    assert "\n" not in str(caught.value)


def test_colors_are_those_of_the_checkpoint(folder: Path) -> None:
    rounded = [0.484375, 0.455078125, 0.40625]
    rewritten(folder, "preprocessor_config.json", means=[rounded, [0.5] * 3])
    policy = loaded(folder)
    assert policy.config.means[0] == tuple(rounded)
    frame = torch.full((1, 224, 224, 3), 255, dtype=torch.uint8)
    pixels = policy.pixels(Observation.of(frame, ["x"]))[0, :, 0, 0]
    close(pixels[:3], (1 - torch.tensor(rounded)) / torch.tensor([0.229, 0.224, 0.225]), 1e-6)


@pytest.mark.parametrize("colors", [{"means": [[0, 0], [0, 0]]}, {"stds": None}, {"stds": [[0, 1, 1], [1, 1, 1]]}])
def test_colors_that_are_none(folder: Path, colors: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(colors))}"):
        loaded(rewritten(folder, "preprocessor_config.json", **colors))


def test_a_processor_that_is_missing(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json.*copy it from the checkpoint"):
        loaded(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "bidirectional"}, "expected causal"),
        ({"stop_token": True}, "expected false"),
        ({"head": "l1"}, "found no action_head"),
        ({"noise": 0.1}, "expected 0"),
        ({"key": "bridge_orig"}, "no key 'bridge_orig'.*bridge_dataset"),
        ({"tokenizer": "other.json"}, "found no tokenizer"),
        ({"checkpoint": "/nowhere"}, "found no such folder"),
    ],
)
def test_contradictions_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(folder, "autoregressive", **changes) if "checkpoint" not in changes else loaded(Path("/nowhere"))


def test_a_choice_among_statistics_must_be_made(folder: Path) -> None:
    known = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").write_text(
        json.dumps({**known, "libero_goal_no_noops": known["bridge_dataset"]})
    )
    with pytest.raises(InputError, match="2 keys and no choice"):
        loaded(folder)
    assert loaded(folder, key="libero_goal_no_noops").action_spec.unit == "5cm+0.5rad"


def test_the_file_of_statistics_replaces_those_of_the_config(folder: Path) -> None:
    known = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": known["bridge_dataset"]}))
    assert loaded(folder).config.statistics.key == "bridge_orig"
    (folder / "dataset_statistics.json").unlink()
    assert loaded(folder).config.statistics.key == "bridge_dataset"


def test_without_a_mask_every_axis_is_normalized(folder: Path) -> None:
    path = folder / "dataset_statistics.json"
    known = json.loads(path.read_text())
    del known["bridge_dataset"]["action"]["mask"]
    path.write_text(json.dumps(known))
    assert loaded(folder).config.statistics.mask == (True,) * 7


def test_bounds_are_quantiles_or_extremes(folder: Path) -> None:
    known = json.loads((folder / "dataset_statistics.json").read_text())["bridge_dataset"]["action"]
    assert loaded(folder, bounds="minmax").config.statistics.high == tuple(known["max"])
    assert loaded(folder, bounds="q99").config.statistics.high == tuple(known["q99"])
    del known["q01"]
    (folder / "dataset_statistics.json").write_text(json.dumps({"bridge_dataset": {"action": known}}))
    with pytest.raises(InputError, match="field 'q01'"):
        loaded(folder)


def test_an_unknown_robot_needs_an_action_spec(folder: Path) -> None:
    known = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").write_text(json.dumps({"taco_play": known["bridge_dataset"]}))
    with pytest.raises(InputError, match="Set 'action_spec'"):
        loaded(folder)
    assert loaded(folder, action_spec=BRIDGE.to_dict()).action_spec == BRIDGE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("projector.fc2.bias"), r"missing: projector\.fc2\.bias"),
        (lambda t: t.update({"projector.fc9.bias": torch.zeros(1)}), r"extra: projector\.fc9\.bias"),
        (lambda t: t.update({"projector.fc2.bias": torch.zeros(3)}), r"misshapen: projector\.fc2\.bias \[3\]"),
        (lambda t: t.pop("vision_backbone.featurizer.pos_embed"), "found no tensor"),
    ],
)
def test_an_inventory_of_tensors(folder: Path, change: Any, message: str) -> None:
    tensors = dict(weights())
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        loaded(folder)


def test_a_shard_that_is_not_the_index_s(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sharded", shards=2)
    (folder / "model-00001-of-00002.safetensors").write_bytes(
        (folder / "model-00002-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="has other tensors than"):
        loaded(folder)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the checkpoint ran",)


def test_code_in_an_extra_part_does_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": _Trap()}, folder / "action_head--1_checkpoint.pt")
    with pytest.raises(InputError, match="cannot be read as tensors alone"):
        loaded(folder)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("part", ["noisy_action_projector", "vision_backbone"])
def test_other_heads_are_refused(folder: Path, part: str) -> None:
    torch.save({"x": torch.zeros(1)}, folder / f"{part}--1_checkpoint.pt")
    with pytest.raises(InputError, match="diffusion head or FiLM"):
        loaded(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"]["▁bow"] = 777
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="first at token 14"):
        loaded(folder)


def test_sentences_are_lower_case_without_a_full_stop(folder: Path) -> None:
    tokenizer = loaded(folder).tokenizer
    sentence = facts()["prompt_instructions"][0]
    assert tokenizer.ids(sentence.title() + ".") == tokenizer.ids(sentence)


def test_a_deterministic_head_is_not_sampled(tmp_path: Path) -> None:
    policy = regression(tmp_path)
    obs = regression_look(policy)
    with pytest.raises(InputError, match="deterministic"):
        sampled(policy, obs)
    with pytest.raises(InputError, match="deterministic"):
        policy.logprobs(obs, policy.act(obs, temperature=0.0, generator=None))


def test_a_state_of_another_width_is_refused(tmp_path: Path) -> None:
    policy = regression(tmp_path)
    obs = regression_look(policy)
    with pytest.raises(InputError, match="7 numbers, found one of 6"):
        policy.act(Observation(obs.images, obs.instruction, torch.zeros(1, 6)), temperature=0.0, generator=None)


# ---------------------------------------------------------------- the self-test of images


def described(folder: Path, kind: str = "parallel", **changes: Any) -> Path:
    """Write the description of a checkpoint into its folder."""
    fields = {**COMMON, **KINDS[kind], **changes}
    (folder / "policy.json").write_text(json.dumps({"kind": "OpenVLACheckpoint", "checkpoint": ".", **fields}))
    return folder / "policy.json"


def blinded(folder: Path) -> Path:
    """Write a checkpoint whose projector from images to words is zero."""
    write_folder(folder)
    tensors = {name: value.clone() for name, value in weights().items()}
    for name in tensors:
        if name.startswith("projector.fc3."):
            tensors[name].zero_()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_blind_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    seeing = load_policy(described(write_folder(tmp_path / "seeing"), kind))
    check_sight(seeing)
    file = described(blinded(tmp_path / "blind"), kind)
    with pytest.raises(InputError, match="so the policy is blind") as refused:
        load_policy(file)
    assert "\n" not in str(refused.value)
    assert "set 'self_test' to false" in str(refused.value)
    with pytest.raises(InputError, match="blind"):
        load_policy(file.parent)
    untested = load_policy(file, is_tested=False)
    with pytest.raises(ContractError, match="OpenVLA: found the same output"):
        check_sight(untested)
    assert load_policy(described(file.parent, kind, self_test=False)).chunk == KINDS[kind]["chunk"]


def test_the_regression_head_sees(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "regression", heads=True)
    policy = load_policy(described(folder, head="l1", cameras=["image", "wrist"]))
    check_sight(policy, policy.config.state_dim)


def test_a_checkpoint_without_statistics_is_refused(folder: Path) -> None:
    (folder / "dataset_statistics.json").unlink()
    settings = json.loads((folder / "config.json").read_text())
    del settings["norm_stats"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError) as refused:
        load_policy(described(folder))
    assert "\n" not in str(refused.value)
    assert "config.json" in str(refused.value)
    assert "statistics" in str(refused.value)
