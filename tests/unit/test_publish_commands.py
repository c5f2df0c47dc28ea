"""import-policy and export-policy: a user with a checkpoint writes no JSON by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_cameras
from flow_folders import STATE, lerobot, openpi, write
from openvla_folder import BLOCKS, HEADS, write_folder
from safetensors.torch import load_file, save_file
from tiny_vla import KINDS, write_tokenizer

from worldgymnast.actions import libero_spec
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.registry import Manifest, load_policy, save_component
from worldgymnast.testing import observation

Says = Callable[..., str]
TINY = {"smolvla": ("head=8", "vision_heads=2"), "pi0": ("head=4", "vision_heads=2")}
TINY["pi05"] = TINY["pi0"]
TOWERS = (f"tower_heads=[{HEADS},{HEADS}]", f"tower_blocks={json.dumps(BLOCKS)}")


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """Runs a command; returns its one line on stderr."""

    def run(*words: object, code: int = 2) -> str:
        assert main([str(word) for word in words]) == code
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1, said
        return said[0]

    return run


def checkpoint(kind: str, layout: Any, folder: Path) -> Path:
    """Folder of a checkpoint without description and tokenizer."""
    folder.mkdir(exist_ok=True)
    files = layout(kind, folder)
    del files["policy.json"]
    (folder / "tokenizer.json").unlink()
    return write(folder, files)


def tokenizer(folder: Path) -> str:
    folder.mkdir()
    return write_tokenizer(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lerobot_checkpoint_needs_the_actions_and_a_tokenizer(kind: str, tmp_path: Path, says: Says) -> None:
    folder, out = checkpoint(kind, lerobot, tmp_path / "base"), tmp_path / "policy.json"
    given = ["import-policy", folder, "--out", out, "--set", *TINY[kind]]
    line = says(*given)
    assert "its files do not say what its 7 action numbers mean (--action-spec libero|bridge|FILE|DATA)" in line
    assert ("PaliGemma's tokenizer" in line) == (kind != "smolvla"), "SmolVLA's config.json names its own"
    assert not out.exists()
    words = tokenizer(tmp_path / "words")
    said = says(*given, "--action-spec", "libero", "--tokenizer", words, code=0)
    assert "cameras ['front', 'wrist']" in said
    fields = json.loads(out.read_text())
    assert fields["kind"] == "FlowCheckpoint"
    assert (fields["cameras"], fields["chunk"], fields["reads_state"]) == (["front", "wrist"], 3, True)
    assert fields["relative_axes"] == []
    policy: Any = load_policy(out)
    assert policy.action_spec == libero_spec(1)
    policy.act(observation(policy, (48, 64), STATE), temperature=0.0, generator=None)


def test_an_openpi_checkpoint_needs_what_only_its_code_says(tmp_path: Path, says: Says) -> None:
    folder, out = checkpoint("pi05", openpi, tmp_path / "base"), tmp_path / "base" / "policy.json"
    given = ["import-policy", folder, "--out", out, "--action-spec", "libero", "--set", *TINY["pi05"]]
    line = says(*given)
    for flag in ("--cameras NAME...", "--tokenizer NAME", "--set prompt=VALUE", "--set relative_axes=VALUE"):
        assert flag in line
    assert "--action-spec" not in line
    given += ["prompt=pi05", "relative_axes=[0,1,2]", "--cameras", "front", "wrist"]
    says(*given, "--tokenizer", tokenizer(tmp_path / "words"), code=0)
    assert json.loads(out.read_text())["checkpoint"] == ".", "the description lies in the folder of the checkpoint"
    policy: Any = load_policy(folder)
    assert policy.config.relative_axes == (0, 1, 2)


@pytest.mark.parametrize(("trainer", "asked"), [("openvla", "crop"), ("openvla-oft", ""), ("simplevla-rl", "")])
def test_an_openvla_needs_the_code_that_trained_it(trainer: str, asked: str, tmp_path: Path, says: Says) -> None:
    folder, out = write_folder(tmp_path / "base"), tmp_path / "policy.json"
    given = ["import-policy", folder, "--out", out, "--key", "bridge_dataset", "--set", *TOWERS]
    line = says(*given)
    assert "openvla, openvla-oft, simplevla-rl (--trained-by NAME)" in line
    assert "--set crop=VALUE" in line
    given += ["--trained-by", trainer]
    if asked:
        assert f"--set {asked}=VALUE" in says(*given)
        given += ["--set", *TOWERS, "crop=none"]
    says(*given, code=0)
    policy: Any = load_policy(out)
    is_old = trainer == "openvla"
    assert policy.config.decoding == ("autoregressive" if is_old else "parallel")
    assert policy.chunk == (1 if is_old else 5)
    assert policy.config.crop == {"openvla": "none", "openvla-oft": "jpeg_lanczos_center"}.get(trainer, "center")


def test_an_openvla_with_several_statistics_needs_a_key(tmp_path: Path, says: Says) -> None:
    folder = write_folder(tmp_path / "base", heads=True)
    path = folder / "dataset_statistics.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({"one": known["bridge_dataset"], "two": known["bridge_dataset"]}))
    line = says("import-policy", folder, "--out", tmp_path / "p.json", "--trained-by", "openvla-oft")
    assert "which statistics: one of one, two (--key NAME)" in line
    line = says("import-policy", folder, "--out", tmp_path / "p.json", "--trained-by", "openvla-oft", "--key", "one")
    assert "what its action numbers mean (--action-spec" in line


def test_wrong_flags_and_folders_are_refused(tmp_path: Path, says: Says) -> None:
    folder, out = checkpoint("smolvla", lerobot, tmp_path / "base"), tmp_path / "policy.json"
    start = ["import-policy", folder, "--out", out]
    assert "--action-spec: found 'mine', expected libero, bridge" in says(*start, "--action-spec", "mine")
    assert "expected FIELD=VALUE" in says(*start, "--set", "chunk")
    assert "chunks" in says(*start, "--action-spec", "libero", "--set", "chunks=3")
    assert "found a, expected a file that ends in .json" in says("import-policy", folder, "--out", "a")
    out.write_text("{}")
    assert "already exists" in says(*start)


@pytest.mark.parametrize("name", ["/no/such", "no/such/folder", "./nosuch", "~/nosuch", "a b"])
def test_a_path_that_is_no_name_on_the_hub_is_not_asked_for_there(name: str, tmp_path: Path, says: Says) -> None:
    line = says("import-policy", name, "--out", tmp_path / "p.json")
    assert f"{Path(name)}: found no such folder, expected that of a checkpoint, or its name on the hub" in line
    assert "repo_type" not in line


def test_what_is_no_checkpoint_is_named(tmp_path: Path, says: Says) -> None:
    place, out = tmp_path / "place", tmp_path / "p.json"
    place.write_text("{}")
    assert f"{place}: found a file, expected the folder of a checkpoint" in says("import-policy", place, "--out", out)
    place.unlink()
    place.mkdir()
    assert f"{place}: is an empty folder" in says("import-policy", place, "--out", out)
    (place / "notes.txt").write_text("mine")
    assert f"{place}: found no config.json of a supported policy" in says("import-policy", place, "--out", out)
    (place / "config.json").write_text('{"model_type": "llama"}')
    line = says("import-policy", place, "--out", out)
    assert 'its config.json is of type "llama", expected one of openvla, smolvla, pi0, pi05' in line
    for kind in ("smolvla", "pi0", "pi05"):
        (place / "config.json").write_text(json.dumps({"type": kind}))
        line = says("import-policy", place, "--out", out)
        assert f"{place}: found no weights, expected model.safetensors or" in line
        assert "Download the whole checkpoint" in line
    (place / "config.json").write_text('{"model_type": "openvla"}')
    line = says("import-policy", place, "--out", out)
    assert f"{place / 'preprocessor_config.json'}: found no such file; copy it from the checkpoint" in line


@pytest.mark.parametrize("kind", [*KINDS, "openvla"])
def test_damaged_files_of_others_are_downloaded_again(kind: str, tmp_path: Path, says: Says) -> None:
    """Nobody can train a published checkpoint again."""
    folder, out = tmp_path / "base", tmp_path / "policy.json"
    if kind == "openvla":
        write_folder(folder, heads=True)
        flags = ["--trained-by", "openvla-oft", "--set", *TOWERS]
    else:
        checkpoint(kind, lerobot, folder)
        flags = ["--tokenizer", tokenizer(tmp_path / "words"), "--set", *TINY[kind]]
    says("import-policy", folder, "--out", out, "--action-spec", "libero", *flags, code=0)
    shard = max(folder.glob("model*.safetensors"), key=lambda file: file.stat().st_size)
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    line = says("sft", tmp_path, "--begin-with", out, "--out", tmp_path / "x")
    assert f"{shard}: cannot be read as safetensors weights" in line
    assert line.endswith("Download or copy it again")
    tensors = load_file_of(content, tmp_path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].flatten()[0] = float("nan")
    save_file(tensors, shard)
    line = says("sft", tmp_path, "--begin-with", out, "--out", tmp_path / "x")
    assert "1 numbers that are NaN or infinite" in line
    assert line.endswith("The file is damaged. Download or copy it again")


def load_file_of(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "whole.safetensors").write_bytes(content)
    return load_file(folder / "whole.safetensors")


def test_actions_come_from_a_json_file_a_component_or_a_data_set(tmp_path: Path, says: Says) -> None:
    folder = checkpoint("smolvla", lerobot, tmp_path / "base")
    (tmp_path / "spec.json").write_text(json.dumps(libero_spec(1).to_dict()))
    given = ["import-policy", folder, "--set", *TINY["smolvla"], "--tokenizer", tokenizer(tmp_path / "words")]
    says(*given, "--action-spec", tmp_path / "spec.json", "--out", tmp_path / "a.json", code=0)
    save_component(tmp_path / "other.safetensors", load_policy(tmp_path / "a.json"), Manifest())
    says(*given, "--action-spec", tmp_path / "other.safetensors", "--out", tmp_path / "b.json", code=0)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    data = two_cameras.write(tmp_path / "data", 1)
    line = says(*given, "--action-spec", data, "--out", tmp_path / "c.json")
    assert "statistics of 7 action axes, but 'action_spec' has 6" in line
    files = lerobot("smolvla", tmp_path / "base")
    for name in [name for name in files if name.endswith("processor.safetensors")]:
        files[name] |= {key: files[name][key][:6] for key in files[name] if key.startswith("action.")}
    del files["policy.json"]
    write(folder, files)
    says(*given, "--action-spec", data, "--out", tmp_path / "c.json", code=0)
    assert json.loads((tmp_path / "c.json").read_text())["action_spec"]["axes"] == list(two_cameras.SPEC.axes)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_a_base_model_are_measured_on_data(
    kind: str, tmp_path: Path, says: Says, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of most owners: a base model without statistics, and a LeRobot data set of their own robot."""
    folder, data = checkpoint(kind, lerobot, tmp_path / "base"), two_cameras.write(tmp_path / "data", 6)
    for file in folder.glob("policy_*processor*"):
        file.unlink()
    out = tmp_path / "policy.json"
    given = ["import-policy", folder, "--out", out, "--tokenizer", tokenizer(tmp_path / "words"), "--set", *TINY[kind]]
    assert "the scale of the actions, as in base models" in says(*given)
    assert main([str(word) for word in (*given, "--statistics", data)]) == 0
    assert "measured actions of 6 episodes" in capsys.readouterr().err
    episodes = [two_cameras.episode(index) for index in range(6)]
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    states = np.concatenate([episode.state for episode in episodes if episode.state is not None]).astype(np.float64)
    measured = json.loads((tmp_path / "policy.norm_stats.json").read_text())["norm_stats"]
    np.testing.assert_allclose(measured["actions"]["std"], actions.std(0), rtol=1e-5)
    np.testing.assert_allclose(measured["state"]["q99"], np.quantile(states, 0.99, axis=0), rtol=1e-5)
    policy: Any = load_policy(out)
    assert policy.action_spec.axes == two_cameras.SPEC.axes
    low, high = np.quantile(actions, 0.01, axis=0), np.quantile(actions, 0.99, axis=0)
    wanted = (high - low) / 2 if kind == "pi05" else actions.std(0)
    np.testing.assert_allclose(policy.action_scale, wanted, rtol=1e-4)
    policy.act(observation(policy, (48, 64), 6), temperature=0.0, generator=None)
    assert "already exists" in says(*given, "--statistics", data)


def test_statistics_of_relative_actions_are_not_measured(tmp_path: Path, says: Says) -> None:
    folder, data = checkpoint("pi0", lerobot, tmp_path / "base"), two_cameras.write(tmp_path / "data", 2)
    for file in folder.glob("policy_*processor*"):
        file.unlink()
    words = ["--set", *TINY["pi0"], "relative_axes=[0,1]", "--tokenizer", tokenizer(tmp_path / "words")]
    out = tmp_path / "policy.json"
    assert main([str(w) for w in ("import-policy", folder, "--out", out, "--statistics", data, *words)]) == 2
    assert not list(tmp_path.glob("policy*")), "the flags can be corrected, and the command run again"


def test_folders_and_hub_names_without_description_lead_to_the_command(tmp_path: Path) -> None:
    folder = checkpoint("smolvla", lerobot, tmp_path / "base")
    with pytest.raises(InputError, match=f"worldgymnast import-policy {folder} --out policy.json"):
        load_policy(folder)
    with pytest.raises(InputError, match=r"on the hub.*import-policy lerobot/smolvla_base --out policy\.json"):
        load_policy(Path("lerobot/smolvla_base"))
    with pytest.raises(InputError, match="found no file, expected weights"):
        load_policy(tmp_path / "policy.safetensors")


def test_a_trained_policy_goes_back(tmp_path: Path, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = checkpoint("pi0", lerobot, tmp_path / "base"), tmp_path / "policy.json"
    words = tokenizer(tmp_path / "words")
    flags = ["--action-spec", "libero", "--tokenizer", words, "--set", *TINY["pi0"], "lora_rank=2"]
    says("import-policy", folder, "--out", out, *flags, code=0)
    policy: Any = load_policy(out)
    with torch.no_grad():
        policy.model.action_out_proj.bias += 0.5
    file = tmp_path / "policy.safetensors"
    save_component(file, policy, Manifest())
    assert main(["export-policy", str(file), "--base", str(out), "--out", str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "back")
    back: Any = load_policy(tmp_path / "back")
    torch.testing.assert_close(back.model.action_out_proj.bias, policy.model.action_out_proj.bias, atol=4e-3, rtol=4e-3)
    assert "already exists" in says("export-policy", file, "--base", out, "--out", tmp_path / "back")
    assert "found no such file" in says(
        "export-policy", file, "--base", tmp_path / "none.json", "--out", tmp_path / "y"
    )
    assert not (tmp_path / "y").exists()
