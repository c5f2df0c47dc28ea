"""Published SmolVLA, pi0 and pi0.5 checkpoints load from the layouts of lerobot and openpi, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_folders import ACTION, STATE, Files, lerobot, openpi, statistics, write
from safetensors.torch import load_file
from tiny_vla import DATA, KINDS
from torch import Tensor

from worldgymnast.actions import ActionSpec, libero_spec
from worldgymnast.configs import from_dict
from worldgymnast.envs.libero import published_config
from worldgymnast.errors import InputError
from worldgymnast.policies.experts import Inputs
from worldgymnast.policies.flow_checkpoint import FlowCheckpoint
from worldgymnast.policies.prompts import load_tokenizer
from worldgymnast.registry import Manifest, load_policy, origin_of, save_component
from worldgymnast.testing import check_policy, observation

kinds = pytest.mark.parametrize("kind", KINDS)


def velocity(policy: Any, kind: str) -> tuple[Tensor, Tensor]:
    """First velocity on the inputs of the vectors, and that of the original code."""
    v = load_file(DATA / kind / "share_vectors.safetensors")
    inputs = Inputs([v[f"image{i}"] for i in range(3)], v["image_masks"], v["tokens"], v["token_mask"], v["state"])
    with torch.no_grad():
        hidden = policy.model.hidden(policy.model.context(inputs), v["noise"], torch.ones(2))
        return policy.model.velocity(hidden), v["ode_velocities"][:, 0]


@kinds
def test_a_checkpoint_of_lerobot_loads_as_published(kind: str, tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, lerobot(kind, tmp_path)))
    torch.testing.assert_close(*velocity(policy, kind), atol=2e-5, rtol=1e-5)
    assert policy.cameras == ("front", "wrist")
    assert (policy.chunk, policy.config.horizon, policy.config.sampler.steps) == (3, 4, 4)
    assert policy.config.prompt == kind
    assert policy.config.prompt_length == (200 if kind == "pi05" else 48)
    assert policy.needs == {"front", "wrist", "state"}
    check_policy(policy, (48, 64), state_size=STATE)


@kinds
def test_statistics_of_lerobot_normalize_states_and_actions(kind: str, tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, lerobot(kind, tmp_path)))
    low, high = statistics(ACTION)["mean"], statistics(ACTION)["std"]
    obs = observation(policy, (48, 64), STATE)
    chunk = policy.act(obs, temperature=0.0, generator=None)
    x = chunk.sample["chain"][:, -1, :3, :ACTION]
    wanted = (x + 1) / 2 * (high - low) + low if kind == "pi05" else x * high + low
    torch.testing.assert_close(chunk.actions, wanted)
    low, high = statistics(STATE)["mean"], statistics(STATE)["std"]
    assert obs.state is not None
    state = 2 * (obs.state - low) / (high - low) - 1 if kind == "pi05" else (obs.state - low) / high
    torch.testing.assert_close(policy.preprocess(obs).state[:, :STATE], state)


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_checkpoint_of_openpi_loads_as_published(kind: str, tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, openpi(kind, tmp_path, prompt=kind)))
    torch.testing.assert_close(*velocity(policy, kind), atol=2e-5, rtol=1e-5)
    assert policy.config.resize == "antialiased"
    assert policy.chunk == 4
    low, high = statistics(32)["mean"][:ACTION], statistics(32)["std"][:ACTION]
    scale = (high - low + 1e-6) / 2 if kind == "pi05" else high + 1e-6
    torch.testing.assert_close(policy.action_scale, scale)
    torch.testing.assert_close(policy.action_offset, low + scale if kind == "pi05" else low)
    check_policy(policy, (48, 64), state_size=STATE)


def test_pi05_of_openpi_without_the_state_in_its_prompt_needs_none(tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, openpi("pi05", tmp_path, prompt="pi0")))
    assert policy.needs == {"front", "wrist"}
    check_policy(policy, (48, 64))


def test_cameras_have_the_names_of_the_data(tmp_path: Path) -> None:
    files = lerobot("smolvla", tmp_path)
    features = files["config.json"]["input_features"]
    features["observation.image"] = features.pop("observation.images.front")
    renames = {"rename_map": {"observation.images.hand": "observation.images.wrist"}}
    files["policy_preprocessor.json"]["steps"].insert(
        0, {"registry_name": "rename_observations_processor", "config": renames}
    )
    policy: Any = load_policy(write(tmp_path, files))
    assert policy.cameras == ("hand", "image"), "in the order of config.json"


def test_the_state_can_be_left_out(tmp_path: Path) -> None:
    files = lerobot("smolvla", tmp_path, reads_state=False)
    without_state_statistics(files)
    policy: Any = load_policy(write(tmp_path, files))
    assert policy.needs == {"front", "wrist"}


def test_actions_are_relative_to_the_state_where_the_files_say_so(tmp_path: Path) -> None:
    names = [*(f"joint_{i}.pos" for i in range(ACTION - 1)), "gripper.pos"]
    files = lerobot("pi0", tmp_path)
    files["policy_preprocessor.json"]["steps"][0]["config"] = {
        "enabled": True, "exclude_joints": ["Gripper", "joint_3", "joint_4", "joint_5"], "action_names": names,
    }  # fmt: skip
    back = {"registry_name": "absolute_actions_processor", "config": {"enabled": True}}
    files["policy_postprocessor.json"]["steps"].append(back)
    policy: Any = load_policy(write(tmp_path / "named", files))
    assert policy.config.relative_axes == (0, 1, 2)
    files["policy.json"]["relative_axes"] = [1]
    policy = load_policy(write(tmp_path / "described", files))
    assert policy.config.relative_axes == (1,)


def test_a_checkpoint_in_shards_loads_as_in_one_file(tmp_path: Path) -> None:
    whole = load_policy(write(tmp_path / "whole", lerobot("smolvla", tmp_path)))
    files = lerobot("smolvla", tmp_path)
    tensors = files.pop("model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    files |= {file: {name: tensors[name] for name in part} for file, part in parts.items()}
    places = {name: file for file, part in parts.items() for name in part}
    files["model.safetensors.index.json"] = {"weight_map": places}
    assert load_policy(write(tmp_path / "shards", files)).identity == whole.identity


def test_statistics_among_the_weights_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    wanted: Any = load_policy(write(tmp_path / "new", lerobot("smolvla", tmp_path)))
    files = {name: files for name, files in lerobot("smolvla", tmp_path).items() if "processor" not in name}
    for name in ("mean", "std"):
        files["model.safetensors"] |= {
            f"normalize_inputs.buffer_observation_state.{name}": statistics(STATE)[name],
            f"normalize_targets.buffer_action.{name}": torch.full((ACTION,), torch.inf),
            f"unnormalize_outputs.buffer_action.{name}": statistics(ACTION)[name],
        }
    assert load_policy(write(tmp_path / "old", files)).identity == wanted.identity


@kinds
def test_a_loaded_policy_is_saved_as_one_file(kind: str, tmp_path: Path) -> None:
    fields = {"sampler": {"method": "flow_noise", "steps": 3}, "fixed": "bfloat16"}
    policy: Any = load_policy(write(tmp_path, lerobot(kind, tmp_path, **fields)))
    assert policy.config.sampler.steps == 3
    save_component(tmp_path / "saved.safetensors", policy, Manifest(origin={"fps": 20.0}))
    again: Any = load_policy(tmp_path / "saved.safetensors")
    assert again.identity == policy.identity
    assert {name: w.dtype for name, w in again.state_dict().items()} == {
        name: w.dtype for name, w in policy.state_dict().items()
    }
    assert origin_of(again) == {"fps": 20.0}
    obs = observation(policy, (48, 64), STATE)
    actions = [each.act(obs, temperature=0.0, generator=None).actions for each in (policy, again)]
    assert torch.equal(*actions)


def test_a_new_adapter_is_saved_with_its_policy(tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, lerobot("pi0", tmp_path, lora_rank=2, fixed="bfloat16")))
    assert policy.config.lora_rank == 2
    save_component(tmp_path / "saved.safetensors", policy, Manifest())
    again: Any = load_policy(tmp_path / "saved.safetensors")
    assert again.identity == policy.identity
    assert set(again.trainable_state()) == set(policy.trainable_state())
    assert {weight.dtype for name, weight in again.named_parameters() if "embed_tokens" in name} == {torch.bfloat16}


def test_the_place_of_the_tokenizer_is_no_part_of_the_identity(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    one, two = (load_policy(write(place, lerobot("pi0", place))) for place in places)
    assert one.identity == two.identity


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    plain: Any = load_policy(write(tmp_path / "plain", lerobot("smolvla", tmp_path)))
    name = "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj"
    down, up = torch.randn(2, 24), torch.randn(32, 2)
    files = lerobot("smolvla", tmp_path, adapter="lora") | {
        "lora/adapter_config.json": {"peft_type": "LORA", "r": 2, "lora_alpha": 4},
        "lora/adapter_model.safetensors": {
            f"base_model.model.{name}.lora_A.weight": down,
            f"base_model.model.{name}.lora_B.weight": up,
        },
    }
    merged: Any = load_policy(write(tmp_path / "merged", files))
    before, after = (policy.get_parameter(f"{name}.weight") for policy in (plain, merged))
    torch.testing.assert_close(after - before, 2 * up @ down)


# ---------------------------------------------------------------- refusals


def config(**fields: Any) -> Callable[[Files], None]:
    return lambda files: files["config.json"].update(fields)


def described(**fields: Any) -> Callable[[Files], None]:
    return lambda files: files["policy.json"].update(fields)


def drop(name: str) -> Callable[[Files], None]:
    return lambda files: files["model.safetensors"].pop(name)


def put(name: str, tensor: Tensor) -> Callable[[Files], None]:
    return lambda files: files["model.safetensors"].update({name: tensor})


def without_processors(files: Files) -> None:
    for name in [name for name in files if "processor" in name]:
        del files[name]


def another_step(files: Files) -> None:
    files["policy_preprocessor.json"]["steps"][0]["config"]["enabled"] = True


def other_statistics(files: Files) -> None:
    name = next(name for name in files if name.startswith("policy_postprocessor_"))
    files[name] = {key: tensor + 1 for key, tensor in files[name].items()}


def without_state_statistics(files: Files) -> None:
    for name in [name for name in files if name.endswith("processor.safetensors")]:
        files[name] = {key: tensor for key, tensor in files[name].items() if key.startswith("action.")}


REFUSALS: dict[str, tuple[Callable[[Files], None], str]] = {
    "missing tensor": (drop("model.action_out_proj.bias"), "missing: model.action_out_proj.bias"),
    "extra tensor": (put("model.value_head.weight", torch.zeros(1)), "extra: model.value_head.weight"),
    "shape": (
        put("model.action_out_proj.bias", torch.zeros(3)),
        r"model.action_out_proj.bias \[3\] \(expected \[32\]\)",
    ),
    "kind": (config(type="pi0"), 'names "pi0", but the weights are those of smolvla'),
    "no kind": (lambda files: files["config.json"].pop("type"), "neither 'type'"),
    "layers": (config(num_vlm_layers=16), "'num_vlm_layers': found 16, but the weights have 4"),
    "image": (config(resize_imgs_with_padding=[512, 512]), "'resize_imgs_with_padding'"),
    "expert layers": (config(num_expert_layers=2), "'num_expert_layers': found 2"),
    "cross attention": (config(self_attn_every_n_layers=3), "layers.1.self_attn.k_proj.weight|layers.2.self_attn"),
    "special tokens": (config(add_image_special_tokens=True), "'add_image_special_tokens': found true"),
    "history": (config(n_obs_steps=2), "'n_obs_steps': found 2, expected 1"),
    "chunk": (config(chunk_size="many"), "'chunk_size': found many|'chunk_size': found \"many\""),
    "chunk too long": (described(chunk=5), "'chunk' of SmolVLAConfig: found 5"),
    "no cameras": (config(input_features={}), "names no cameras"),
    "no statistics": (without_processors, "has no statistics of actions"),
    "normalization": (config(normalization_mapping={"ACTION": "LOG"}), 'normalization LOG is not supported|"LOG"'),
    "relative actions": (another_step, "relative to the state, but its files do not name the axes"),
    "other relative actions": (config(use_relative_actions=True), "files disagree whether actions are relative"),
    "step": (
        lambda files: files["policy_preprocessor.json"]["steps"].append({"registry_name": "rotate"}),
        'found step "rotate", which is not reproduced',
    ),
    "images": (config(normalization_mapping={"VISUAL": "MEAN_STD"}), "images are normalized by .MEAN_STD"),
    "modes": (
        lambda files: files["policy_preprocessor.json"]["steps"][1]["config"].update(norm_map={"STATE": "MIN_MAX"}),
        "normalization_mapping.STATE': found .MEAN_STD., but the processors have MIN_MAX",
    ),
    "state": (without_state_statistics, "reads the state, but has no statistics of it"),
    "two statistics": (other_statistics, "differs from the other processor's"),
    "heads": (described(head=7), "no multiples of heads 7 wide"),
    "action spec": (described(action_spec={}), "'action_spec"),
    "fewer axes": (
        described(action_spec={**libero_spec(1).to_dict(), "axes": ["x"], "low": [0.0], "high": [1.0]}),
        "1",
    ),
    "field": (described(chunks=3), "unknown, expected a field of FlowCheckpoint; did you mean 'chunk'"),
    "place": (described(checkpoint="nowhere/at/all"), "found no such folder"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, said = REFUSALS[case]
    files = lerobot("smolvla", tmp_path)
    change(files)
    with pytest.raises(InputError, match=said) as caught:
        load_policy(write(tmp_path, files))
    assert "\n" not in str(caught.value)


def test_the_description_in_the_docs_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "flow-experts.md").read_text()
    fields = json.loads(page.split("```json")[1].split("```")[0])
    assert fields.pop("kind") == "FlowCheckpoint"
    described = from_dict(FlowCheckpoint, fields, "docs")
    assert ActionSpec.from_dict(described.action_spec) == libero_spec(1)
    assert described.cameras == published_config("spatial").cameras


def test_a_folder_without_a_description_says_how_to_write_one(tmp_path: Path) -> None:
    for i, files in enumerate((lerobot("pi05", tmp_path), openpi("pi0", tmp_path))):
        del files["policy.json"]
        with pytest.raises(InputError, match='"kind": "FlowCheckpoint"'):
            load_policy(write(tmp_path / str(i), files))


def test_checkpoints_of_openpi_that_leave_a_choice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="discrete_state_input"):
        load_policy(write(tmp_path / "prompt", openpi("pi05", tmp_path)))
    files = openpi("pi0", tmp_path)
    del files["policy.json"]["relative_axes"]
    with pytest.raises(InputError, match=r"DeltaActions.*Set 'relative_axes'"):
        load_policy(write(tmp_path / "relative", files))
    files["policy.json"]["relative_axes"] = []
    files["assets/other/norm_stats.json"] = files["assets/physical-intelligence/libero/norm_stats.json"]
    with pytest.raises(InputError, match="Set 'asset' to one of: other, physical-intelligence/libero"):
        load_policy(write(tmp_path / "asset", files))
    files["policy.json"]["asset"] = "other"
    load_policy(write(tmp_path / "chosen", files))
    files["policy.json"]["tokenizer"] = ""
    with pytest.raises(InputError, match="contains no tokenizer"):
        load_policy(write(tmp_path / "tokenizer", files))
    (tmp_path / "jax" / "params").mkdir(parents=True)
    write(tmp_path / "jax", {"policy.json": files["policy.json"]})
    with pytest.raises(InputError, match="JAX checkpoint"):
        load_policy(tmp_path / "jax")


def test_an_output_layer_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    files = lerobot("pi0", tmp_path)
    name = "model.paligemma_with_expert.paligemma.lm_head.weight"
    files["model.safetensors"][name] = files["model.safetensors"][name] + 1
    with pytest.raises(InputError, match="its output layer differ"):
        load_policy(write(tmp_path, files))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    policy: Any = load_policy(write(tmp_path, lerobot("smolvla", tmp_path)))
    save_component(tmp_path / "saved.safetensors", policy, Manifest())
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    again: Any = load_policy(tmp_path / "saved.safetensors")
    load_tokenizer.cache_clear()
    with pytest.raises(InputError, match="SHA-256"):
        again.act(observation(again, (48, 64), STATE), temperature=0.0, generator=None)


@kinds
def test_a_blind_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    files = lerobot(kind, tmp_path)
    weights_file = "model.safetensors"
    tensors = dict(files[weights_file])
    for name in tensors:
        if "connector.modality_projection" in name or "multi_modal_projector" in name:
            tensors[name] = torch.zeros_like(tensors[name])
    files[weights_file] = tensors
    with pytest.raises(InputError, match="so the policy is blind") as refused:
        load_policy(write(tmp_path, files))
    assert "\n" not in str(refused.value)
    files["policy.json"] = {**files["policy.json"], "self_test": False}
    assert load_policy(write(tmp_path, files)).chunk == 3
