"""Trained policies go back to the layout of their base: SmolVLA, pi0 and pi0.5 (OpenVLA: test_openvla.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_folders import ACTION, STATE, Files, lerobot, openpi, statistics, write
from safetensors.torch import load_file
from tiny_vla import KINDS
from torch import Tensor

from worldgymnast.actions import libero_spec
from worldgymnast.errors import InputError
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.registry import Manifest, export_policy, load_policy, save_component
from worldgymnast.testing import observation

CASES = [*((kind, lerobot) for kind in KINDS), ("pi0", openpi), ("pi05", openpi)]
cases = pytest.mark.parametrize(("kind", "layout"), CASES)
LORA: Files = {"lora_rank": 2, "trained": "expert"}


def precise(files: Files) -> Files:
    """Weights in float32, so that an export rounds nothing."""
    files["model.safetensors"] = {name: tensor.float() for name, tensor in files["model.safetensors"].items()}
    return files


def base(kind: str, layout: Any, folder: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    extra = {"prompt": "pi05"} if layout is openpi and kind == "pi05" else {}
    return write(folder, precise(layout(kind, folder, **extra, **fields)))


def trained(folder: Path) -> Any:
    """Policy of a folder with other trainable weights, loaded again from its own file."""
    policy: Any = load_policy(folder)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.trainable_state().values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    file = folder.parent / f"{folder.name}.safetensors"
    save_component(file, policy, Manifest())
    return load_policy(file)


def actions(policy: Any) -> Tensor:
    return policy.act(observation(policy, (48, 64), STATE), temperature=0.0, generator=None).actions


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(actions(found), actions(expected), atol=1e-5, rtol=1e-5)


@cases
@pytest.mark.parametrize("fields", [{}, LORA, {"trained": "all"}], ids=["expert", "lora", "all"])
def test_an_exported_policy_loads_like_its_base(kind: str, layout: Any, fields: Files, tmp_path: Path) -> None:
    folder = base(kind, layout, tmp_path / "base", **fields)
    policy = trained(folder)
    assert (actions(policy) - actions(load_policy(folder))).abs().max() > 0.01, "training changed the actions"
    assert not export_policy(policy, str(folder), tmp_path / "out")
    same(load_policy(tmp_path / "out"), policy)
    found, published = (load_file(path / "model.safetensors") for path in (tmp_path / "out", folder))
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in published.items()
    }
    unused = [name for name in found if "gemma_expert.lm_head" in name or "vlm.lm_head" in name]
    assert unused
    assert all(torch.equal(found[name], published[name]) for name in unused)
    kept = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    kept -= {Path("policy.json"), Path("model.safetensors"), Path("tokenizer.json")}
    assert all((tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in kept)


@cases
def test_an_export_without_training_is_bit_exact(kind: str, layout: Any, tmp_path: Path) -> None:
    extra = {"prompt": "pi05"} if (kind, layout) == ("pi05", openpi) else {}
    (tmp_path / "base").mkdir()
    folder = write(tmp_path / "base", layout(kind, tmp_path / "base", fixed="bfloat16", **extra))
    export_policy(load_policy(folder), str(folder / "policy.json"), tmp_path / "out")
    found, published = (load_file(path / "model.safetensors") for path in (tmp_path / "out", folder))
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], value) for name, value in published.items())


@cases
def test_adapters_alone_are_written_beside_the_modules_trained_with_them(
    kind: str, layout: Any, tmp_path: Path
) -> None:
    folder = base(kind, layout, tmp_path / "base", **LORA)
    policy = trained(folder)
    out = tmp_path / "out"
    export_policy(policy, str(folder), out, adapter_only=True)
    parts = load_file(out / "adapter_model.safetensors")
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder)
    assert "model.action_in_proj" in settings["modules_to_save"]
    assert "base_model.model.model.action_in_proj.bias" in parts
    assert not (out / "model.safetensors").exists()
    assert ((out / "config.json").exists(), json.loads((out / "config.json").read_text()).get("use_peft")) == (
        True,
        True if layout is lerobot else None,
    )
    same(load_policy(out), policy)


def test_a_coarser_base_rounds_what_was_trained_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    folder = write(tmp_path / "base", lerobot("smolvla", tmp_path / "base"))
    policy: Any = load_policy(folder)
    with torch.no_grad():
        for weight in policy.trainable_state().values():
            weight *= 1 + 1e-6
    (note,) = export_policy(policy, str(folder), tmp_path / "out")
    assert note.startswith("100.0 % of the ")
    assert "rounded back" in note


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_without_statistics_gets_those_of_the_policy(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    files = precise(lerobot(kind, folder, statistics="norm_stats.json"))
    for part in ("pre", "post"):
        name = next(n for n in files if n.startswith(f"policy_{part}processor_"))
        del files[name]
        step = files[f"policy_{part}processor.json"]["steps"][-1]
        del step["state_file"]
        step["config"] = {"features": {}, "norm_map": {}}
    entries = {"state": statistics(STATE), "actions": statistics(ACTION)}
    numbers = {key: {name: value.tolist() for name, value in entry.items()} for key, entry in entries.items()}
    write(folder, files | {"norm_stats.json": {"norm_stats": numbers}})
    policy = trained(folder)
    export_policy(policy, str(folder), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["output_features"]["action"] == {"type": "ACTION", "shape": [ACTION]}
    assert "statistics" not in json.loads((tmp_path / "out" / "policy.json").read_text())
    same(load_policy(tmp_path / "out"), policy)


def test_the_statistics_of_openpi_are_those_that_the_description_names(tmp_path: Path) -> None:
    folder = base("pi0", openpi, tmp_path / "base", statistics="mine.json")
    (stored,) = folder.rglob("norm_stats.json")
    numbers = json.loads(stored.read_text())
    numbers["norm_stats"]["actions"]["std"] = [2.0] * 32
    (folder / "mine.json").write_text(json.dumps(numbers))
    policy = trained(folder)
    export_policy(policy, str(folder), tmp_path / "out")
    (found,) = (tmp_path / "out").rglob("norm_stats.json")
    assert json.loads(found.read_text()) == numbers
    same(load_policy(tmp_path / "out"), policy)


def test_learned_noise_is_left_out(tmp_path: Path) -> None:
    folder = base("smolvla", lerobot, tmp_path / "base", sampler={"method": "flow_noise", "steps": 4})
    policy = trained(folder)
    (note,) = export_policy(policy, str(folder), tmp_path / "out")
    assert "flow_noise" in note
    same(load_policy(tmp_path / "out"), policy)


def test_a_merged_adapter_of_the_base_stays_merged(tmp_path: Path) -> None:
    folder = base("pi0", lerobot, tmp_path / "base", **LORA)
    first = trained(folder)
    export_policy(first, str(folder), tmp_path / "adapter", adapter_only=True)
    described = json.loads((tmp_path / "adapter" / "policy.json").read_text()) | {"lora_rank": 2}
    (tmp_path / "adapter" / "policy.json").write_text(json.dumps(described))
    second = trained(tmp_path / "adapter")
    export_policy(second, str(tmp_path / "adapter"), tmp_path / "out")
    same(load_policy(tmp_path / "out"), second)
    with pytest.raises(InputError, match="its description merges the adapter"):
        export_policy(second, str(tmp_path / "adapter"), tmp_path / "none", adapter_only=True)


# ---------------------------------------------------------------- refusals


def changed(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_another_base_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    policy = trained(base("pi0", lerobot, tmp_path / "base"))
    other = base("pi05", lerobot, tmp_path / "other")
    with pytest.raises(InputError, match="so it is not what the policy began with"):
        export_policy(policy, str(other), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "base.safetensors", "other"]


def test_fixed_weights_tell_bases_of_one_kind_apart(tmp_path: Path) -> None:
    policy = trained(base("smolvla", lerobot, tmp_path / "base"))
    files = precise(lerobot("smolvla", tmp_path / "base"))
    name = "model.vlm_with_expert.vlm.model.text_model.layers.2.mlp.up_proj.weight"
    files["model.safetensors"][name] += 1e-3
    other = write(tmp_path / "other", files)
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.up_proj\.weight' differs .* which training kept fixed"):
        export_policy(policy, str(other), tmp_path / "out")


def test_other_statistics_and_settings_are_refused(tmp_path: Path) -> None:
    folder = base("pi0", lerobot, tmp_path / "base")
    policy = trained(folder)
    changed(folder, "config.json", chunk_size=5)
    with pytest.raises(InputError, match="its files give horizon 5, but the policy has 4"):
        export_policy(policy, str(folder), tmp_path / "out")
    changed(folder, "config.json", chunk_size=4)
    policy.action_scale *= 1.01
    with pytest.raises(InputError, match="its statistics of actions are not those of the policy"):
        export_policy(policy, str(folder), tmp_path / "out")


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    folder = base("smolvla", lerobot, tmp_path / "base")
    policy = load_policy(folder)
    with pytest.raises(InputError, match="trained without LoRA, so it has no adapters"):
        export_policy(policy, str(folder), tmp_path / "out", adapter_only=True)
    (tmp_path / "full").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_policy(policy, str(folder), tmp_path / "full")
    small = SmallVLA(SmallVLAConfig(width=8, blocks=1), libero_spec(1))
    with pytest.raises(InputError, match="SmallVLA has no published layout"):
        export_policy(small, str(folder), tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        export_policy(policy, str(tmp_path / "nowhere"), tmp_path / "out")


def test_a_policy_of_another_package_takes_part(tmp_path: Path) -> None:
    class Foreign(SmallVLA):
        def export(self, base: str, out: Path, *, adapter_only: bool = False) -> list[str]:
            (out / "weights.txt").write_text(f"{base} {adapter_only}")
            return ["a note"]

    policy = Foreign(SmallVLAConfig(width=8, blocks=1), libero_spec(1))
    assert export_policy(policy, "theirs", tmp_path / "out", adapter_only=True) == ["a note"]
    assert (tmp_path / "out" / "weights.txt").read_text() == "theirs True"
