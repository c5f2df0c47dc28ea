"""Run folders survive kills, full disks and changed configs; resume is bit-exact."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import worldgymnast.run as run_module
from worldgymnast.errors import InputError
from worldgymnast.progress import Progress
from worldgymnast.run import (
    Run,
    generator_state,
    load_into,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    save_weights,
    set_generator_state,
    weights_hash,
)

CONFIG = {"rl": {"group_size": 4, "clip": (0.2, 0.28)}, "seed": 0}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- the folder


def test_a_new_folder_records_the_command(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", CONFIG, command="worldgymnast rl metaworld")
    assert json.loads((run.path / "config.json").read_text()) == {
        "rl": {"group_size": 4, "clip": [0.2, 0.28]},
        "seed": 0,
    }
    assert (run.path / "command.txt").read_text() == "worldgymnast rl metaworld\n"
    assert json.loads((run.path / "versions.json").read_text())["torch"] == torch.__version__
    assert run.summary is None
    run.finish({"success": 0.5})
    assert Run(run.path, CONFIG).summary == {"success": 0.5}


def test_another_config_is_refused_with_the_field(tmp_path: Path) -> None:
    Run(tmp_path / "a", CONFIG).close()
    with pytest.raises(InputError) as error:
        Run(tmp_path / "a", {"rl": {"group_size": 8, "clip": (0.2, 0.28)}, "seed": 0})
    assert "field 'rl.group_size': " in one_line(error)
    assert "was started with 4; this command has 8" in one_line(error)
    with pytest.raises(InputError, match=r"field 'rl\.new': .* was started with \"nothing\"; this command has 1"):
        Run(tmp_path / "a", {"rl": {**CONFIG["rl"], "new": 1}, "seed": 0})  # type: ignore[dict-item]


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        Run(tmp_path, CONFIG)
    with pytest.raises(InputError, match="found a file"):
        Run(tmp_path / "thesis.tex", CONFIG)


def test_metrics_come_back_and_nan_is_legal_json(tmp_path: Path) -> None:
    with Run(tmp_path / "a", CONFIG) as run:
        run.log(1, {"loss": 0.1 + 0.2})
        run.log(2, {"loss": float("nan")})
    rows = run.metrics()
    assert [r["step"] for r in rows] == [1, 2]
    assert rows[0]["loss"] == 0.1 + 0.2
    assert rows[1]["loss"] != rows[1]["loss"]
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()
    assert list((run.path / "tensorboard").glob("events.*"))


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_keep_the_newest_and_load_exactly(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", CONFIG)
    assert run.load() is None
    weights = {"w": torch.randn(3, 2), "half": torch.randn(4).bfloat16(), "n": torch.tensor(7)}
    weights["tied"] = weights["w"]
    weights["view"] = weights["w"].T
    for step in (1, 2, 3):
        run.save(step, {k: v + step for k, v in weights.items()}, {"round": step})
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    run.close()
    loaded = Run(run.path, CONFIG).load()
    assert loaded is not None
    assert (loaded.step, loaded.state) == (3, {"round": 3})
    for name, value in weights.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value + 3)
    run.save(3, weights, {"round": 30})
    again = run.load()
    assert again is not None
    assert again.state == {"round": 30}
    assert torch.equal(again.tensors["w"], weights["w"])


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path / "w.safetensors", {"a": base, "b": base, "t": base.T, "row": base[1]}, {"k": "v"})
    tensors, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {"k": "v"}
    assert torch.equal(tensors["b"], base)
    assert torch.equal(tensors["t"], base.T)
    assert torch.equal(tensors["row"], base[1])
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_resume_drops_later_metrics_and_a_truncated_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", CONFIG)
    for step in range(5):
        run.log(step, {"loss": 1 / (1 + step)})
        if step == 2:
            run.save(step + 1, {"w": torch.zeros(1)}, {})
    run.close()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resumed = Run(run.path, CONFIG)
    checkpoint = resumed.load()
    assert checkpoint is not None
    assert [r["step"] for r in resumed.metrics()] == [0, 1, 2]
    for step in (3, 4):
        resumed.log(step, {"loss": 1 / (1 + step)})
    resumed.close()
    assert [(r["step"], r["loss"]) for r in resumed.metrics()] == [(s, 1 / (1 + s)) for s in range(5)]


def test_without_a_checkpoint_the_metrics_start_again(tmp_path: Path) -> None:
    with Run(tmp_path / "a", CONFIG) as run:
        run.log(1, {"loss": 1.0})
    again = Run(run.path, CONFIG)
    assert again.load() is None
    assert again.metrics() == []


def test_a_finished_run_keeps_its_metrics(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", CONFIG)
    run.log(1, {"loss": 1.0})
    run.finish({})
    Run(run.path, CONFIG).load()
    assert len(run.metrics()) == 1


def test_an_unreadable_checkpoint_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "a", CONFIG)
    run.save(1, {"w": torch.ones(1)}, {})
    run.save(2, {"w": torch.ones(1)}, {})
    (run.path / "checkpoints/step-00000002/tensors.safetensors").write_bytes(b"torn")
    found = run.load()
    assert found is not None
    assert found.step == 1
    assert "step-00000002: checkpoint skipped" in capsys.readouterr().err


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", CONFIG)
    run.save(1, {"w": torch.ones(1)}, {})
    folder = run.path / "checkpoints"
    os.replace(folder / "step-00000001", folder / ".old-step-00000001")
    run.close()
    found = Run(run.path, CONFIG).load()
    assert found is not None
    assert found.step == 1


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    run = Run(tmp_path / "a", CONFIG)
    run.save(1, {"w": torch.ones(1)}, {})

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise failure

    monkeypatch.setattr(run_module, "save_file", full)
    with pytest.raises(InputError) as error:
        run.save(2, {"w": torch.ones(1)}, {})
    assert "no space left" in one_line(error)
    assert "MB, then rerun the same command to resume" in one_line(error)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-00000001"]
    found = run.load()
    assert found is not None
    assert found.step == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full exists on Linux only")
def test_a_full_disk_error_of_the_system_is_one_line() -> None:
    with pytest.raises(InputError, match="no space left"), run_module.space_for(Path("/dev/full"), 10):
        Path("/dev/full").write_bytes(b"x")


# ---------------------------------------------------------------- weights


def test_load_into_names_mismatches(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    tensors = {k: v.clone() for k, v in module.state_dict().items()}
    before = weights_hash(module.state_dict())
    del tensors["0.bias"]
    tensors["1.weight"] = torch.zeros(1, 4)
    tensors["ghost"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        load_into(module, tensors, tmp_path / "w.safetensors")
    text = one_line(error)
    assert "missing: 0.bias" in text
    assert "extra: ghost" in text
    assert "misshapen: 1.weight [1, 4] (expected [1, 3])" in text
    assert weights_hash(module.state_dict()) == before
    good = {k: torch.ones_like(v) for k, v in module.state_dict().items()}
    load_into(module, good, "w")
    assert weights_hash(module.state_dict()) == weights_hash(good)


def test_weights_that_are_absent_or_torn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"123")
    with pytest.raises(InputError, match="cannot be read") as error:
        load_weights(tmp_path / "torn.safetensors")
    one_line(error)


def test_the_hash_sees_names_dtypes_shapes_and_every_bit() -> None:
    base = {"a": torch.zeros(2, 2), "b": torch.tensor(1.0)}
    same = {"b": torch.tensor(1.0), "a": torch.zeros(2, 2)}
    assert weights_hash(base) == weights_hash(same)
    others = [
        {**base, "b": torch.tensor(1.0 + 2**-23)},
        {**base, "a": torch.zeros(4)},
        {**base, "a": torch.zeros(2, 2, dtype=torch.int32)},
        {**base, "a": -torch.zeros(2, 2)},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({weights_hash(t) for t in [base, *others]}) == len(others) + 1
    assert len(weights_hash({"h": torch.ones(2).bfloat16()})) == 64


def _train(module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: int) -> None:
    for _ in range(steps):
        x = torch.randn(8, 4, generator=generator)
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def _fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    groups = [{"params": module[0].parameters(), "lr": 0.1 / 3}, {"params": module[2].parameters()}]
    return module, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99)), torch.Generator().manual_seed(seed)


def test_adamw_resumed_from_a_checkpoint_continues_bit_for_bit(tmp_path: Path) -> None:
    module, optimizer, generator = _fresh(0)
    _train(module, optimizer, generator, 5)
    tensors, plain = optimizer_tensors(optimizer)
    run = Run(tmp_path / "a", CONFIG)
    model = {f"model.{k}": v for k, v in module.state_dict().items()}
    run.save(5, {**model, **tensors, "generator": generator_state(generator)}, {"optimizer": plain})
    _train(module, optimizer, generator, 5)

    other, other_optimizer, other_generator = _fresh(1)
    found = run.load()
    assert found is not None
    own = {k.removeprefix("model."): v for k, v in found.tensors.items() if k.startswith("model.")}
    load_into(other, own, run.path)
    load_optimizer_tensors(other_optimizer, found.tensors, found.state["optimizer"])
    set_generator_state(other_generator, found.tensors["generator"])
    assert other_optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert other_optimizer.param_groups[0]["lr"] == 0.1 / 3
    _train(other, other_optimizer, other_generator, 5)
    assert weights_hash(other.state_dict()) == weights_hash(module.state_dict())
    assert weights_hash(optimizer_tensors(other_optimizer)[0]) == weights_hash(optimizer_tensors(optimizer)[0])


# ---------------------------------------------------------------- progress


def test_progress_prints_one_line_at_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training the world", 10, done=4, every=0.0) as progress:
        progress.advance(2, note="loss 0.1")
    text = capsys.readouterr().err
    assert text.startswith("training the world: step 6/10, ")
    assert text.endswith("left, loss 0.1\n")
    with Progress("quiet", 10) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""


def test_progress_says_what_is_under_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stages = iter(["", "updating"])
    with Progress("learning", 10, every=0.0, status=lambda: next(stages)) as progress:
        progress.advance()
        progress.advance(note="reward 0.5")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("left")
    assert second.endswith("left, reward 0.5; updating")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("learning", 10, status=lambda: "groups: 3 queued"):
        pass
    assert "groups: 3 queued" in capsys.readouterr().err, "the bar of a terminal"
