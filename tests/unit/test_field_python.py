"""Mistakes of newcomers in Python: one line each, where the object enters."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_builders import episode
from safetensors import SafetensorError

import worldgymnast as wg
from worldgymnast import staging
from worldgymnast.arguments import check_device, check_policies, require_members, require_type
from worldgymnast.cli.environment import check_spelling
from worldgymnast.cli.main import main
from worldgymnast.configs import checked
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import FieldError, InputError
from worldgymnast.judges.combined import EnsembleConfig
from worldgymnast.protocols import Judge, Policy, RealEnvironment, WorldModel
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, MixedStarts, check_frame_size, sampler_of
from worldgymnast.training.judge import require_both_outcomes
from worldgymnast.types import Start, check_frame, require_frame_size
from worldgymnast.weights import load_weights, read_header

FRAME = np.zeros((64, 64, 3), np.uint8)
SCENE = Start(FRAME, "close the door", "door-close")
STARTER = sorted(wg.starter("policy").parent.glob("*.safetensors"))


def episodes(*outcomes: bool) -> EpisodeSet:
    made = [episode(i, steps=4) for i in range(len(outcomes))]
    sets = [wg.Episode(**{**vars(one), "success": np.full(5, s)}) for one, s in zip(made, outcomes, strict=True)]
    return from_episodes(sets)


# ---------------------------------------------------------------- frames

FRAMES: dict[str, tuple[Any, str]] = {
    "channels first": (np.zeros((3, 64, 48), np.uint8), r"shape \[3, 64, 48\], expected .* frame.transpose\(1, 2, 0\)"),
    "gray": (np.zeros((64, 64), np.uint8), r"shape \[64, 64\], expected \[h w 3\]"),
    "RGBA": (np.zeros((64, 64, 4), np.uint8), r"shape \[64, 64, 4\], expected \[h w 3\]"),
    "batch": (np.zeros((1, 64, 64, 3), np.uint8), r"shape \[1, 64, 64, 3\]"),
    "empty": (np.zeros((0, 64, 3), np.uint8), r"shape \[0, 64, 3\]"),
    "floats": (np.zeros((64, 64, 3), np.float32), "dtype float32, expected uint8 from 0 to 255"),
    "signed": (np.zeros((64, 64, 3), np.int64), "dtype int64, expected uint8"),
    "tensor": (torch.zeros(64, 64, 3, dtype=torch.uint8), "frame is Tensor, expected a uint8 NumPy array"),
    "path": ("a.png", "frame is str, expected a uint8 NumPy array"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_no_picture_is_refused(name: str) -> None:
    frame, message = FRAMES[name]
    with pytest.raises(InputError, match=message):
        check_frame(frame)


def test_frames_of_another_size_than_the_worlds_are_refused() -> None:
    small = FixedStarts([Start(FRAME[:48, :32], "close the door")])
    line = "found frames of 48x32 pixels, but the world model imagines 64x64"
    with pytest.raises(InputError, match=line):
        check_frame_size(small, (64, 64))
    with pytest.raises(InputError, match=line):
        check_frame_size(MixedStarts(FixedStarts([SCENE]), small), (64, 64))
    with pytest.raises(InputError, match="imagines 999x64"):
        check_frame_size(sampler_of(episodes(True)), (999, 64))
    check_frame_size(FixedStarts([SCENE]), (64, 64))
    with pytest.raises(InputError, match="scorer: found frames of 48x48"):
        require_frame_size((48, 48), (64, 64), "scorer")


def test_an_imagined_rollout_starts_from_a_frame_of_the_worlds_size() -> None:
    world = wg.load_world(wg.starter("world"))
    env = ImaginedVectorEnv(world, None, rows=1, chunk=2, horizon=2, generator=torch.Generator())
    with pytest.raises(InputError, match="found frames of 48x64 pixels"):
        env.reset(options={"starts": [Start(FRAME[:48], "close the door")]})
    with pytest.raises(InputError, match="found Layout, which has no frame to imagine from"):
        env.reset(options={"starts": [wg.Layout("door-close", 1, "close the door")]})


# ---------------------------------------------------------------- components, starts, devices


@pytest.mark.parametrize("protocol", [Policy, WorldModel, Judge, RealEnvironment])
@pytest.mark.parametrize("value", [object(), None, 3, episodes(True)])
def test_an_object_that_is_no_component_is_told_its_missing_members(protocol: type[Any], value: object) -> None:
    with pytest.raises(InputError, match=f"one: {type(value).__name__} has no .*, which a {protocol.__name__} needs"):
        require_members(value, protocol, "one")


def test_a_class_is_no_instance_and_a_list_no_policies() -> None:
    with pytest.raises(InputError, match="judge: found the class Judge, expected an instance"):
        require_members(Judge, Judge, "judge")
    with pytest.raises(InputError, match=r"start: found int, expected Start\. Give one"):
        require_type(3, Start, "start", "Give one")
    for policies, found in (([], "list"), ({}, "none"), ("a.safetensors", "str")):
        with pytest.raises(InputError, match=f"policies: found {found}, expected policies or their files by name"):
            check_policies(policies)
    check_policies({"before": wg.starter("policy"), "after": "after.safetensors"})


def test_every_source_of_starts_becomes_a_sampler() -> None:
    data, sampler = episodes(True, False), FixedStarts([SCENE])
    assert isinstance(sampler_of(data), EpisodeStarts)
    assert isinstance(sampler_of([SCENE, SCENE]), FixedStarts)
    assert isinstance(sampler_of(SCENE), FixedStarts)
    assert sampler_of(sampler) is sampler
    assert isinstance(sampler_of(data, data.task[0]), EpisodeStarts), "one task by its name"


def test_half_done_starts_need_a_success() -> None:
    assert isinstance(sampler_of(episodes(True, False), middle=0.5), EpisodeStarts)
    with pytest.raises(InputError, match=r"middle: found 0\.5, but no episode succeeds"):
        sampler_of(episodes(False, False), middle=0.5)
    with pytest.raises(InputError, match="middle: found -1, expected a share from 0 to 1"):
        sampler_of(episodes(True), middle=-1)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "gpu", "", "xpu"])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device: found .*Use device='cpu'"):
        check_device(device)
    with pytest.raises(InputError, match=r"^device: "):
        wg.load_policy(wg.starter("policy"), device)
    check_device("cpu")


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("outcomes", [(False, False), (True, True), (False,), (True,)])
def test_a_judge_needs_successes_and_failures(outcomes: tuple[bool, ...]) -> None:
    missing = "failures" if outcomes[0] else "successes"
    with pytest.raises(InputError, match=f"labelled episode.* is a .*Add labelled {missing}"):
        require_both_outcomes(episodes(*outcomes))
    require_both_outcomes(episodes(True, False, True))


# ---------------------------------------------------------------- files


def test_a_result_is_saved_by_itself(tmp_path: Path) -> None:
    policy = wg.load_policy(wg.starter("policy"))
    path = wg.Result(policy, [], {}, tmp_path).save(tmp_path / "new" / "better.safetensors")
    assert wg.load_policy(path).identity == policy.identity


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_that_cannot_be_written_is_told_the_systems_reason(tmp_path: Path) -> None:
    policy = wg.load_policy(wg.starter("policy"))
    (tmp_path / "file").touch()
    beneath = tmp_path / "file" / "x.safetensors"
    reasons = {"/proc/x.safetensors": "No such file", tmp_path: "Is a directory", beneath: "(Not a dir|File exists)"}
    for path, reason in reasons.items():
        with pytest.raises(InputError, match=f"^{path}: cannot be written .{reason}"):
            wg.save(policy, path)
    assert staging.reason(SafetensorError("I/O error: denied (os error 13)")) == os.strerror(13)
    with pytest.raises(InputError, match="int has no state_dict, so it has no weights to save"):
        wg.save(3, tmp_path / "x")


@pytest.mark.parametrize("path", STARTER, ids=lambda path: path.stem)
def test_starter_files_carry_a_hash(path: Path) -> None:
    assert read_header(path).hash is not None


def test_a_flipped_bit_of_the_starter_policy_is_noticed(tmp_path: Path) -> None:
    content = bytearray(wg.starter("policy").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "policy.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="damaged: its content does not match its SHA-256"):
        load_weights(tmp_path / "policy.safetensors")
    assert wg.load_policy(wg.starter("policy")).identity == "0bb3af3f32c9ccd4", "the one that runs have recorded"


# ---------------------------------------------------------------- the command line


def test_a_config_built_without_names_is_refused_by_its_fields_name() -> None:
    @checked
    class Pair:
        first: int
        second: tuple[int, ...] = ()

    with pytest.raises(FieldError, match=r"field 'second\[1\]' of Pair"):
        Pair(1, (2, "3"))  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="field 'judges' of EnsembleConfig: found 1, expected at least 2"):
        EnsembleConfig(("a.json",))


LINES: dict[str, tuple[list[str], str]] = {
    "one judge": (["judge", "ensemble", "J", "--out", "c.json"], "JUDGES: found 1, expected at least 2"),
    "no size": (["train-world", "giant", "D", "--out", "x"], "'giant' is neither a size .embedded, bridge-25m"),
    "no size for help": (["train-world", "giant", "--help"], "'giant' is neither a size .embedded, bridge-25m"),
    "no kind": (
        ["sft", "nosuch", "--out", "x"],
        "sft: 'nosuch' is neither a kind .small-vla, flow-vla or tiny-smolvla",
    ),
    "no kind for help": (["sft", "nosuch", "--help"], "'nosuch' is neither a kind .* nor a data set's folder. Check"),
    "no device": (["sft", "/", "--device", "tpu"], "--device: found 'tpu', expected cpu or cuda. This machine has"),
    "no device of plan": (["plan", "--device", "tpu"], "found 'tpu', expected cpu or cuda. This machine has .* CUDA d"),
    "no choice": (["sft", "/", "--resize", "x", "--out", "y"], "--resize: found 'x', expected crop, pad or squash$"),
    "optional": (
        ["rl", "debug", "--rl.execute", "x"],
        "--rl.execute: found 'x', expected an integer or seconds such as 6s$",
    ),
    "or a word": (
        ["train-world", "/", "--held-out", "x", "--out", "y"],
        "--held-out: found 'x', expected a number or auto",
    ),
    "no folder": (["report", "/no/such"], "/no/such: no such folder. Check the path"),
    "words": (["sft", "D", "--fit.steps", "many", "--out", "x"], "--fit.steps: found 'many', expected an integer"),
    "task": (["adapt", "--task", "drawer-opne", "--out", "x"], "--task: found task 'drawer-opne', .* 'drawer-open'"),
    "family": (["judge"], "judge foreseen, judge cascade FIRST THEN"),
}


@pytest.mark.parametrize("name", LINES)
def test_the_command_line_names_the_mistake(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = LINES[name]
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line), line


def test_only_names_near_a_known_task_are_misspelled() -> None:
    check_spelling("stack-cups")
    check_spelling("")
    with pytest.raises(InputError, match="--task: found task 'door-clsoe', which resembles 'door-close'"):
        check_spelling("door-clsoe")
