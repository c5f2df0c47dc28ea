"""A robot with two cameras and proprioception through the whole method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_cameras
from two_cameras import FRONT, JOINTS, WRIST

from worldgymnast.cli.checks import check_observed
from worldgymnast.cli.data_defaults import size_for
from worldgymnast.cli.main import main
from worldgymnast.cli.origins import cameras_of, size_in
from worldgymnast.episodes import formats
from worldgymnast.errors import InputError
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.iterated_sft import IterSftConfig, iter_sft
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import Manifest, load_judge, load_policy, load_world, save_component
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.policy import with_replays
from worldgymnast.types import STATE, Clip, Verdict
from worldgymnast.weights import read_header
from worldgymnast.worldmodel.sampler import LatentWorldModel

SIZE = ["--size", "32x64"]
CAMERAS = ["--image-key", "front", "wrist"]
FIT = ["--fit.steps", "4", "--fit.log-every", "2", "--threads", "1"]
POLICY = ["--policy.width", "16", "--policy.blocks", "1", "--policy.hidden", "32", "--policy.cameras", "front", "wrist"]
WORLD = [
    *("--world.autoencoder.channels", "8", "--world.autoencoder.widths", "8", "8", "16", "16"),
    *("--world.autoencoder.blocks", "0", "0", "0", "0", "--world.transformer.channels", "8"),
    *("--world.transformer.width", "32", "--world.transformer.heads", "2", "--world.transformer.layers", "1"),
    *("--autoencoder.steps", "4", "--clips", "4", "--length", "6", "--frames", "8"),
]
RL = [
    *("--rl.steps", "2", "--rl.starts", "2", "--rl.group-size", "2", "--rl.horizon", "8", "--threads", "1"),
    *("--unscored", "--anyway"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, policy, world model and judge."""
    root = tmp_path_factory.mktemp("robot")
    data = str(two_cameras.write(root / "data"))
    commands = (
        ["sft", data, *CAMERAS, *SIZE, *FIT, *POLICY, "--state", "--out", str(root / "sft")],
        ["train-world", data, *CAMERAS, *SIZE, *FIT, *WORLD, "--state", "--out", str(root / "world")],
        ["train-judge", data, "--world", str(root / "world/world.safetensors"), *FIT, "--out", str(root / "judge")],
    )
    for words in commands:
        assert main(words) == 0, words
    return root


def files(root: Path) -> list[str]:
    return [
        *("--policy", str(root / "sft/policy.safetensors"), "--world", str(root / "world/world.safetensors")),
        *("--judge", str(root / "judge/judge.safetensors"), "--data", str(root / "data")),
    ]


def test_components_know_their_cameras_and_state(trained: Path) -> None:
    policy = load_policy(trained / "sft/policy.safetensors")
    assert tuple(policy.cameras) == ("front", "wrist")
    assert policy.needs == {"front", "wrist", "state"}
    world = load_world(trained / "world/world.safetensors")
    assert world.frame_size == (32, 64)
    assert world.tiling.cameras == (FRONT, WRIST)
    assert world.state_dim == 6
    for name in ("sft/policy", "world/world"):
        manifest = json.loads(read_header(trained / f"{name}.safetensors").metadata["manifest"])
        assert manifest["origin"]["state_names"] == list(JOINTS)


def test_rl_trains_a_policy_with_state_and_two_cameras(trained: Path, tmp_path: Path) -> None:
    assert main(["rl", "debug", *files(trained), *RL, "--out", str(tmp_path / "rl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rl/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "reward" in row][:2] == [0, 1]


def test_demonstrations_are_imitated_as_a_world_imagines_them(trained: Path, tmp_path: Path) -> None:
    world = load_world(trained / "world/world.safetensors")
    data = formats.read(trained / "data", image_key=("front", "wrist"), size=(32, 64), state=True)
    both = with_replays(data, world, seed=0)
    first, again = both.select(np.arange(len(data))), both.select(np.arange(len(data), 2 * len(data)))
    assert (first.frames[first.rows] == data.frames[data.rows]).all()
    for rows in (first.actions[first.rows], again.actions[again.rows]):
        np.testing.assert_array_equal(rows, data.actions[data.rows])
    np.testing.assert_array_equal(again.state[again.rows], data.state[data.rows])
    np.testing.assert_array_equal(again.frames[again.first], data.frames[data.first])
    moved = (again.frames[again.rows] != data.frames[data.rows]).mean()
    assert moved > 0.1
    both = with_replays(data, world, seed=0, length=3)
    pieces, real_starts = both.select(np.arange(len(data), len(both))), []
    for first, length in zip(data.first, data.length, strict=True):
        successes = np.flatnonzero(data.success[first : first + length + 1])
        real_starts += range(first, first + (min(successes[0] + 1, length) if len(successes) else length), 3)
    assert len(pieces) == len(real_starts) > len(data)
    assert pieces.length.max() == 3
    np.testing.assert_array_equal(pieces.frames[pieces.first], data.frames[real_starts])
    begin = ["--begin-with", str(trained / "sft/policy.safetensors"), *FIT]
    results = {}
    for name, more in {"real": [], "imagined": ["--imagined-in", str(trained / "world/world.safetensors")]}.items():
        assert main(["sft", str(trained / "data"), *begin, *more, "--out", str(tmp_path / name)]) == 0
        results[name] = load_policy(tmp_path / name / "policy.safetensors").identity
    assert results["real"] != results["imagined"]
    config = json.loads((tmp_path / "imagined/config.json").read_text())
    assert config["inputs"]["world"] == world.identity


class Parity:
    """Success is an even sum of the last frame, so that groups have both outcomes."""

    name = identity = "parity"
    is_remote = False

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(float(int(clip.frames[-1].astype(int).sum()) % 2)) for clip in clips]


def test_rl_learns_from_state_and_two_cameras(trained: Path, tmp_path: Path) -> None:
    policy = load_policy(trained / "sft/policy.safetensors")
    world = load_world(trained / "world/world.safetensors")
    starts = EpisodeStarts(formats.read(trained / "data", image_key=("front", "wrist"), size=(32, 64)), ["move"], 0.0)
    config = ReinforceConfig(steps=2, starts=2, group_size=4, horizon=8)
    after = finetune(policy, Imagination.of(policy, world, Parity(), 8), starts, tmp_path / "rl", config)
    assert after.policy.identity != policy.identity


def test_eval_world_reports_the_state_error(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval-world", str(trained / "world/world.safetensors"), "--data", str(trained / "data"), "--length", "6"]
    assert main([*words, "--drift", "0", "--threads", "1", "--out", str(tmp_path / "world.json")]) == 0
    assert "State error by axis" in capsys.readouterr().out
    state = json.loads((tmp_path / "world.json").read_text())["state"]
    assert state["axes"] == list(JOINTS)
    assert np.array(state["world"]["raw"]).shape == (7, 6)
    assert state["world"]["overall"]["mean"][0] == pytest.approx(0, abs=1e-5)
    assert state["held"]["overall"]["mean"][-1] > 0.1


@pytest.mark.parametrize(
    "words",
    [
        ["train-judge", "DATA", "--world", "WORLD", *FIT, "--out", "OUT"],
        ["diagnose", "DATA", "--world", "WORLD", "--judge", "JUDGE", "--stride", "2"],
        ["judge", "calibrate", "JUDGE", "--data", "DATA", "--world", "WORLD", "--stride", "2", "--out", "OUT.md"],
        ["eval-world", "WORLD", "--data", "DATA", "--judge", "JUDGE", "--length", "6", "--drift", "0", "--stride", "2"],
        ["export-rerun", "DATA", "--world", "WORLD", "--out", "OUT.rrd"],
    ],
    ids=lambda words: words[0],
)
def test_episodes_are_imagined_again_from_their_true_state(
    words: list[str],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "export-rerun":
        pytest.importorskip("rerun")
    places = {"DATA": trained / "data", "WORLD": trained / "world/world.safetensors", "OUT": tmp_path / "out"}
    places |= {"JUDGE": trained / "judge/judge.safetensors", "OUT.md": tmp_path / "a.md", "OUT.rrd": tmp_path / "a.rrd"}
    begin, states = LatentWorldModel.start, list[torch.Tensor | None]()

    def start(self: LatentWorldModel, frames: torch.Tensor, state: torch.Tensor | None = None) -> Any:
        states.append(state)
        return begin(self, frames, state)

    monkeypatch.setattr(LatentWorldModel, "start", start)
    assert main([str(places.get(word, word)) for word in words]) < 2, capsys.readouterr().err  # 1: a poor judge
    true = formats.read(trained / "data", image_key=("front", "wrist"), size=(32, 64), state=True).state
    assert true is not None
    known = [state for state in states if state is not None and not state.isnan().any()]
    assert len(known) >= (4 if words[0] == "eval-world" else 1)  # replays, shuffled, the state itself, the judge's
    assert all((np.abs(true - row).sum(1) < 1e-4).any() for state in known for row in state.numpy())
    if words[0] not in ("diagnose", "eval-world"):  # decode frames, or measure estimated states too
        assert len(known) == len(states)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["sft", "DATA", *CAMERAS, *SIZE, "--policy.cameras", "front", "wrst"],
            "Did you mean 'wrist'",
        ),
        (
            ["sft", "DATA", "--image-key", "front", *SIZE, "--policy.cameras", "wrist"],
            "camera 'wrist' is not in the frame",
        ),
        (["train-world", "DATA", *CAMERAS, "--size", "30x64"], "--size 32x64"),
        (["train-world", "DATA", "OTHER", *CAMERAS, *SIZE, "--state"], "expected 6 (joint_1.pos"),
        (["sft", "DATA", "--imagined-in", "WORLD", "--size", "64x64"], "--size 32x64"),
        (["sft", "DATA", "--imagined-in", "WORLD", *SIZE, "--image-key", "front"], "found cameras front, but"),
        (
            ["sft", "DATA", "--imagined-in", "STARTER", "--image-key", "front", "--size", "64"],
            "starter/world.safetensors",
        ),
        (["sft", "DATA", "--imagined-in", "missing.safetensors"], "missing.safetensors"),
        (["sft", "DATA", "--size", "0x64"], "--size: found 0, expected 1 to 4096"),
        (["sft", "DATA", "--size", "64by64"], "--size: found '64by64', expected a number or HxW"),
        (["sft", "DATA", "--size", "64x"], "--size: found '64x'"),
    ],
)
def test_conflicts_are_one_line_before_anything_runs(
    command: list[str], said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "OTHER" in command:
        two_cameras.write(tmp_path / "other", 2, names=[f"axis_{i}" for i in range(6)])
    places = {"DATA": str(trained / "data"), "OTHER": str(tmp_path / "other")}
    places |= {"WORLD": str(trained / "world/world.safetensors"), "STARTER": str(starter("world"))}
    assert main([*(places.get(word, word) for word in command), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_policy_with_state_needs_a_world_that_predicts_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(trained / "data")
    assert main(["train-world", data, *CAMERAS, *SIZE, *FIT, *WORLD, "--out", str(tmp_path / "world")]) == 0
    assert "has a state of 6 numbers (joint_1.pos" in capsys.readouterr().out
    words = files(trained)
    words[words.index("--world") + 1] = str(tmp_path / "world/world.safetensors")
    assert main(["rl", "debug", *words, *RL, "--out", str(tmp_path / "rl")]) == 2
    error = capsys.readouterr().err
    assert "does not predict it" in error
    assert f"--state --begin-with {tmp_path}" in error
    # The fix that the message names works: a state head is added to the trained world model.
    more = ["--begin-with", str(tmp_path / "world/world.safetensors"), "--state", *FIT, "--clips", "4", "--length", "6"]
    assert main(["train-world", data, *more, "--out", str(tmp_path / "more")]) == 0
    assert load_world(tmp_path / "more/world.safetensors").state_dim == 6
    more = ["--begin-with", str(tmp_path / "more/world.safetensors"), *more[2:], "--world.state-input"]
    assert main(["train-world", data, *more, "--out", str(tmp_path / "fed")]) == 0
    fed = load_world(tmp_path / "fed/world.safetensors")
    assert isinstance(fed, LatentWorldModel)
    assert fed.config.state_input
    words[words.index("--world") + 1] = str(tmp_path / "fed/world.safetensors")
    assert main(["rl", "debug", *words, *RL, "--out", str(tmp_path / "rl")]) == 0
    capsys.readouterr()
    assert main(["train-world", data, *CAMERAS, *SIZE, *FIT, "--world.state-input", "--out", str(tmp_path / "no")]) == 2
    assert "without a state head" in capsys.readouterr().err


def test_iterated_imitation_of_a_policy_with_state(trained: Path, tmp_path: Path) -> None:
    policy = load_policy(trained / "sft/policy.safetensors")
    world = load_world(trained / "world/world.safetensors")
    demos = formats.read(trained / "data", image_key=("front", "wrist"), size=(32, 64), state=True)
    starts = EpisodeStarts(demos, ["move"], 0.0)
    config = IterSftConfig(rounds=1, starts=2, group_size=2, horizon=8, batch=8, fit=FitConfig(steps=2))
    after = iter_sft(policy, Imagination.of(policy, world, Parity(), 8), starts, demos, tmp_path / "rounds", config)
    assert after.identity != policy.identity
    assert size_in(tmp_path / "rounds/policy.safetensors") == (32, 64)
    assert cameras_of(tmp_path / "rounds/policy.safetensors") == ("front", "wrist")


def test_pictures_of_another_size_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(trained / "data")
    assert main(["sft", data, *CAMERAS, *FIT, *POLICY, "--state", "--out", str(tmp_path / "sft")]) == 0
    assert "2 cameras side by side are resized to 64x128 together" in capsys.readouterr().out
    words = files(trained)
    words[words.index("--policy") + 1] = str(tmp_path / "sft/policy.safetensors")
    assert main(["rl", "debug", *words, *RL, "--out", str(tmp_path / "rl")]) == 2
    error = capsys.readouterr().err
    assert "trained on pictures of 64x73 pixels (camera 'front'), but" in error
    assert not (tmp_path / "rl").exists()
    policy, world = load_policy(tmp_path / "sft/policy.safetensors"), load_world(trained / "world/world.safetensors")
    imagine = Imagination.of(policy, world, load_judge(trained / "judge/judge.safetensors"), 8)
    starts = EpisodeStarts(formats.read(trained / "data", image_key=("front", "wrist"), size=(32, 64)), ["move"], 0.0)
    with pytest.raises(InputError, match="policy: found pictures of 32x"):
        finetune(
            policy, imagine, starts, tmp_path / "python", ReinforceConfig(steps=1, starts=2, group_size=2, horizon=8)
        )


def test_one_rule_for_pictures_of_another_shape(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(trained / "data")
    words = ["sft", data, "--image-key", "front", "--size", "32", *FIT, *POLICY[:6]]
    assert main([*words, "--resize", "pad", "--out", str(tmp_path / "padded")]) == 0
    assert main([*words, "--resize", "crop", "--out", str(tmp_path / "cropped")]) == 0
    capsys.readouterr()
    begin = ["--begin-with", str(tmp_path / "padded/policy.safetensors")]
    assert main(["sft", data, *FIT, *begin, "--resize", "crop", "--out", str(tmp_path / "more")]) == 2
    assert "--resize: found crop" in capsys.readouterr().err
    assert main(["sft", data, *FIT, *begin, "--state", "--out", str(tmp_path / "with_state")]) == 0
    assert STATE in load_policy(tmp_path / "with_state/policy.safetensors").needs
    assert main(["sft", data, *FIT, *begin, "--out", str(tmp_path / "more")]) == 0, "the recorded rule is the default"


def write_small(path: Path, size: int) -> str:
    """Write the file of a Meta-World policy that was trained on frames of that size."""
    config = SmallVLAConfig(width=16, blocks=1, hidden=32, image_sizes=((size, size),))
    policy = SmallVLA(config, load_policy(starter("policy")).action_spec)
    with torch.no_grad():
        policy.head[-1].bias.fill_(size)  # pyright: ignore - two files with different weights
    save_component(path, policy, Manifest())
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["rl", "quickstart", "--policy", "SMALL"],
        ["evaluate", "SMALL", "SMALL", "--env.size", "64"],
        ["evaluate", "SMALL", "OTHER"],
        ["agree", "SMALL", "OTHER"],
        ["best-of", "SMALL"],
        ["dyna", "--policy", "SMALL", "--data", "DATA"],
        ["dyna", "--policy", "SMALL", "--data", "DATA", "--from", "DATA"],
        ["iter-sft", "--policy", "SMALL", "--data", "DATA"],
        ["quickstart", "--policy", "SMALL"],
        ["adapt", "--policy", "SMALL", "--frame", "x.png", "--instruction", "open the drawer"],
        ["rl-simulator", "quickstart", "--policy", "SMALL"],
        ["record-policy", "SMALL", "--env.size", "64"],
        ["check-env", "metaworld", "--policy", "SMALL"],
    ],
    ids=" ".join,
)
def test_a_policy_of_another_frame_size_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "SMALL": write_small(tmp_path / "32.safetensors", 32),
        "OTHER": write_small(tmp_path / "48.safetensors", 48),
    }
    words = [places.get(word, word) for word in command]
    refused = 2
    if command[0] == "check-env":
        refused = 1
    else:
        words += ["--out", str(tmp_path / "out")]
    assert main(words) == refused
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "trained on pictures of " in line]
    assert "--env.size" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("origin", "is_warned"),
    [
        ({"frame_size": [48, 48], "image_key": ["front"]}, True),
        ({"frame_size": [64, 64], "image_key": ["front"]}, False),
        ({"frame_size": [64, 128], "image_key": ["front", "wrist"]}, False),
        ({}, False),
    ],
)
def test_a_policy_that_scales_its_pictures_warns_of_another_size(
    origin: dict[str, Any], is_warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), load_policy(starter("policy")).action_spec)
    save_component(tmp_path / "policy.safetensors", policy, Manifest(origin=origin))
    check_observed(tmp_path / "policy.safetensors", policy, starter("world"), load_world(starter("world")))
    assert ("trained on frames of 48x48 pixels, but" in capsys.readouterr().out) == is_warned


def test_rl_keeps_the_frame_size(trained: Path, tmp_path: Path) -> None:
    """Its file still knows what the policy may see, so a later command can refuse it."""
    assert main(["rl", "debug", *files(trained), *RL, "--out", str(tmp_path / "rl")]) == 0
    before, after = (load_policy(path / "policy.safetensors") for path in (trained / "sft", tmp_path / "rl"))
    assert before.config.image_sizes == after.config.image_sizes != ()
    assert size_in(tmp_path / "rl/policy.safetensors") == (32, 64)


def test_imitation_goes_on_at_one_size(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sft", str(trained / "data"), *FIT, "--begin-with", str(trained / "sft/policy.safetensors")]
    assert main([*words, "--size", "32", "--out", str(tmp_path / "more")]) == 2
    error = capsys.readouterr().err
    assert "policy: trained on pictures of 32x37 pixels (camera 'front'), but the data set gives 32x18" in error
    assert not (tmp_path / "more").exists()


def test_data_check_reads_every_camera(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(trained / "data")]) == 0
    assert "2 cameras; training commands need --image-key front wrist, or one of them" in capsys.readouterr().out
    shutil.copytree(trained / "data", tmp_path / "broken")
    video = next((tmp_path / "broken").rglob(f"*{WRIST}*/**/*.mp4"))
    video.write_bytes(video.read_bytes()[:100])
    assert main(["data", "check", str(tmp_path / "broken")]) == 1
    assert str(video) in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "broken"), "--image-key", "front"]) == 0
    assert "training commands need" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cameras", "size", "said"),
    [
        (None, None, ""),  # the reader asks which
        ("front", 64, "frames of 48x64 pixels are resized to 64x64"),
        (WRIST, 64, "frames of 40x40 pixels are resized to 64x64"),
        ("front,wrist", (64, 128), "2 cameras side by side are resized to 64x128 together"),
        (("front", "wrist"), (64, 128), "2 cameras side by side are resized to 64x128 together"),
        ("all", (64, 128), "2 cameras side by side are resized to 64x128 together"),
    ],
)
def test_the_default_size(
    cameras: Any, size: Any, said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert size_for([trained / "data"], None, cameras) == size
    out = capsys.readouterr().out
    assert said in out
    assert bool(out) == bool(said)


def test_frames_of_whole_tiles_are_kept(tmp_path: Path) -> None:
    two_cameras.write(tmp_path / "data", 1)
    formats.convert(tmp_path / "data", tmp_path / "large", size=128)
    assert size_for([tmp_path / "large"], None, ("front", "wrist")) is None
    assert formats.read(tmp_path / "large", image_key=("front", "wrist")).size == (128, 256)
