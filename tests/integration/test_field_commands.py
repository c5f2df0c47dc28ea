"""Commands on foreign data: their defaults, and one-line refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import foreign_data
import numpy as np
import pyarrow as pa
import pytest
import torch
from episode_builders import episode
from lamp import Lamp, lamp_episode
from tiny_flags import BRIEF, TINY_JUDGE, TINY_POLICY, TINY_WORLD

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.cli.checks import check_instructions
from worldgymnast.cli.commands.measure import drop_short
from worldgymnast.cli.data_defaults import MAX_HORIZON, frames_for, horizon_of
from worldgymnast.cli.environment import is_metaworld
from worldgymnast.cli.inputs import Components, hold_out
from worldgymnast.cli.main import main
from worldgymnast.cli.origins import check_same_cameras
from worldgymnast.cli.starters import component_files
from worldgymnast.envs.metaworld import SUITE
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.sizes import frame_size
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.progress import Progress
from worldgymnast.protocols import WorldModel
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import Manifest, load_policy, load_world, manifest_of, save_component
from worldgymnast.training.replay import episode_clips, replay, shuffled_actions
from worldgymnast.training.thresholds import MAX_CALIBRATION, resolve_calibration, split_for_calibration
from worldgymnast.worldmodel.sampler import LatentWorldModel

LENGTHS = (12, 25, 9, 1, 14, 18)
SENTENCES = ["pick the cube", "pick the cube", "put it away", "pick the cube", "put it away", "put it away"]

Said = Callable[..., str]


def arm(folder: Path, lens: tuple[int, ...] = LENGTHS, fps: float = 30, marks: bool = True, **more: object) -> Path:
    """A LeRobot v3.0 data set of a 6-joint arm; every other episode succeeds at its last frame."""

    def extra(e: int, n: int) -> dict[str, pa.Array]:
        state = {"observation.state": pa.array([[float(e)] * 6] * n, pa.list_(pa.float32()))}
        return state | ({"next.success": pa.array([i == n - 1 and e % 2 == 0 for i in range(n)])} if marks else {})

    features = {"observation.state": {"dtype": "float32", "shape": [6], "names": None}}
    features |= {"next.success": {"dtype": "bool", "shape": [1], "names": None}} if marks else {}
    more = {"tasks": SENTENCES[: len(lens)], "extra": extra, "feats": features} | more
    foreign_data.v3(folder, lens=lens, d=6, fps=fps, **more)  # pyright: ignore[reportArgumentType]
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm(tmp_path_factory.mktemp("mine") / "mine")


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command; returns what it printed, or where it is to fail its one line."""

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        found = main([str(word) for word in words])
        said = capsys.readouterr()
        assert found == code, said.err
        if code != 2:
            return said.out
        (line,) = [one for one in said.err.splitlines() if one.startswith("worldgymnast: error: ")]
        assert "Traceback" not in said.err + said.out
        return line

    return run


# ---------------------------------------------------------------- starter components beside another robot's


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained components of a 6-joint arm: policy, world and judge."""
    folder, recipe = tmp_path_factory.mktemp("others"), debug()
    spec = ActionSpec(tuple("abcdef"), "unknown", (-1.0,) * 6, (1.0,) * 6, frame="unknown", rate=30.0)
    shape = replace(recipe.world.world.transformer, action_dim=6)
    world = LatentWorldModel(replace(recipe.world.world, transformer=shape), spec, 30.0)
    origin = {"action_spec": spec.to_dict()}
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "world.safetensors", world, Manifest())
    judge = SuccessClassifier(recipe.judge.judge)
    save_component(folder / "judge.safetensors", judge, Manifest(origin=origin))
    return {name: folder / f"{name}.safetensors" for name in ("policy", "world", "judge")}


def flags(files: dict[str, Path], *names: str) -> list[object]:
    return [word for name in names for word in (f"--{name}", files[name])]


COMMANDS = {
    "rl": ["rl", "debug"],
    "adapt": ["adapt", "--frame", "scene.png", "--instruction", "pick the cube"],
    "iter-sft": ["iter-sft", "--data", "DATA"],
    "dyna": ["dyna", "--data", "DATA"],
    "quickstart": ["quickstart"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", [("policy", "world"), ("world",), ("policy",), ("judge",)])
def test_a_starter_part_is_not_taken_beside_another_robots(
    command: str, given: tuple[str, ...], others: dict[str, Path], says: Said, tmp_path: Path
) -> None:
    words = [tmp_path if word == "DATA" else word for word in COMMANDS[command]]
    line = says(*words, *flags(others, *given), "--out", tmp_path / "x", code=2)
    missing = [f"--{name}" for name in ("policy", "world", "judge") if name not in given]
    assert f"error: {' '.join(missing)}: omitted, but the starter components are for Meta-World" in line
    assert not (tmp_path / "x").exists()


def test_a_starter_part_is_not_taken_for_the_positional_policy(
    others: dict[str, Path], says: Said, tmp_path: Path
) -> None:
    policy, twin = others["policy"], tmp_path / "twin.safetensors"
    twin.write_bytes(policy.read_bytes())
    for words in (["best-of", policy], ["agree", policy, twin]):
        assert "--world --judge: omitted" in says(*words, "--out", tmp_path / "x", code=2)


def test_a_starter_part_is_not_taken_for_anothers_data(mine: Path, says: Said, tmp_path: Path) -> None:
    for words, missing in (
        (["train-judge", mine], "--world"),
        (["rl", "debug", "--data", mine, "--unscored"], "--policy --world --judge"),
        (["iter-sft", "--data", mine], "--policy --world --judge"),
    ):
        assert f"{missing}: omitted" in says(*words, "--out", tmp_path / "x", code=2)


def test_starter_parts_go_with_one_another() -> None:
    ours = starter("policy")
    files = component_files(policy=ours, world=None, judge=None)
    assert files == {n: starter(n) for n in ("policy", "world", "judge")}
    assert is_metaworld(load_policy(ours).action_spec)
    assert is_metaworld(metaworld_spec(4))


def test_the_starter_judge_is_not_taken_for_tasks_it_does_not_know(says: Said, tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    line = says("rl", "quickstart", "--env.tasks", "drawer-open", "handle-press", "--out", tmp_path / "x", code=2)
    assert f"--judge: omitted, but the starter judge knows only {', '.join(SUITE)}, not handle-press" in line


def test_the_starter_plate_is_not_taken_for_anothers_camera(mine: Path, says: Said, tmp_path: Path) -> None:
    line = says("scenes", "distract", mine, tmp_path / "x", code=2)
    assert "--plate: omitted, but the starter plate is Meta-World's" in line
    assert not (tmp_path / "x").exists()


def test_nothing_real_is_said_of_another_robot(others: dict[str, Path], says: Said, tmp_path: Path) -> None:
    """There is no real environment of it: the line says so, and what can be done without."""
    every = flags(others, "policy", "world", "judge")
    policy, out = others["policy"], ["--out", tmp_path / "x"]
    real = ["rl", "debug", "--data", tmp_path, *every, "--env.size", 64]
    for words in (real, ["quickstart", *every]):
        line = says(*words, *out, code=2)
        assert "the real environment is Meta-World" in line
        assert "rl PRESET --unscored --data DATA" in line
    world = flags(others, "world", "judge")
    for words, instead in (
        (["evaluate", policy, policy], "run both policies on the robot, label the episodes"),
        (["best-of", policy, *world], "planning is compared on real layouts"),
    ):
        line = says(*words, *out, code=2)
        assert f"{words[0]}: needs a real environment, but --env is omitted" in line
        assert instead in line
    line = says("rl", "debug", *every, "--unscored", *out, code=2)
    assert "--data, --starts: both omitted" in line


# ---------------------------------------------------------------- episodes of unequal length


def lamps(lengths: tuple[int, ...]) -> EpisodeSet:
    return from_episodes([lamp_episode(i, steps=n) for i, n in enumerate(lengths)])


def test_a_replay_of_unequal_episodes_is_what_each_is_alone() -> None:
    mixed = lamps((5, 8, 3, 8, 1))
    found = replay(Lamp(), mixed, seed=0, rows=2)
    assert found.length.tolist() == [5, 8, 3, 8, 1]
    assert len(found.frames) == 5 + 8 + 3 + 8 + 1 + 5
    for e in range(5):
        alone = replay(Lamp(), mixed.select([e]), seed=0)
        assert np.array_equal(found.episode(e).frames, alone.episode(0).frames)
        assert np.array_equal(found.episode(e).actions, mixed.episode(e).actions)
        assert found.episode(e).instruction == mixed.instruction[e]


def test_an_episode_without_an_action_is_replayed_as_its_frame() -> None:
    both = lamps((4, 4))
    single = replace(both, length=np.array([0, 4]))
    found = replay(Lamp(), single, seed=0)
    assert found.length.tolist() == [0, 4]
    assert np.array_equal(found.episode(0).frames, both.episode(0).frames[:1])
    assert len(replay(Lamp(), single.select([0]), seed=0).frames) == 1


def test_equal_episodes_are_imagined_as_ever() -> None:
    """All of one call, in their order, from one generator."""

    class Noisy(Lamp):
        def step(self, state, actions, *, generator, every=1):  # pyright: ignore
            state, frames = super().step(state, actions, generator=generator, every=every)
            return state, frames + torch.randint(0, 9, frames.shape, generator=generator, dtype=torch.uint8)

    episodes, generator = lamps((6,) * 5), torch.Generator().manual_seed(3)
    world: WorldModel = Noisy()
    expected = []
    for i in (0, 2, 4):
        rows = slice(i, i + 2)
        first = torch.from_numpy(np.asarray(episodes.frames[episodes.first[rows]]))
        acts = np.stack([episodes.episode(e).actions for e in range(5)[rows]])
        _, frames = world.step(world.start(first), torch.from_numpy(acts), generator=generator)
        expected += [torch.cat([first[:, None], frames], 1).flatten(0, 1).numpy()]
    found = replay(world, episodes, seed=3, rows=2)
    assert np.array_equal(np.concatenate(expected), found.frames)


def test_a_judge_sees_where_an_episode_ends() -> None:
    """Many succeed at their last frame, which no stride need meet."""
    shown = episode_clips(lamps((5, 8, 3)), 4)
    assert [len(clip.frames) for clip in shown] == [3, 3, 2]
    assert np.array_equal(shown[0].frames, lamps((5,)).episode(0).frames[[0, 4, 5]])


def test_shuffled_actions_of_unequal_episodes_are_whole() -> None:
    episodes = lamps((2, 5))
    first, second = shuffled_actions(episodes, 0)
    assert np.array_equal(first, episodes.episode(1).actions)
    assert np.array_equal(second, episodes.episode(0).actions[[0, 1, 0, 1, 0]])


def test_short_episodes_do_not_shorten_the_measure() -> None:
    lengths = (0, 40, 40, 3, *(40,) * 16)
    made = lamps(tuple(max(1, n) for n in lengths))
    made = replace(made, length=np.array(lengths))
    kept, length = drop_short(made, 30)
    assert (len(kept), length) == (18, 30)
    assert drop_short(lamps((5, 7)), 30)[1] == 5
    with pytest.raises(InputError, match="all 1 episodes have a single frame"):
        drop_short(replace(lamps((2,)), length=np.array([0])), 30)


# ---------------------------------------------------------------- what follows the data


def plain(count: int) -> EpisodeSet:
    """Labelled episodes of another's data: no task, no source, no layout."""
    made = from_episodes([episode(i, steps=1, size=8) for i in range(count)])
    nothing = ("",) * count
    return replace(made, task=nothing, source=nothing, layout=np.full(count, -1), labelled=np.ones(count, bool))


@pytest.mark.parametrize(
    ("labelled", "aside"), [(2, 1), (3, 1), (8, 2), (30, 7), (79, 19), (80, MAX_CALIBRATION), (200, MAX_CALIBRATION)]
)
def test_the_share_that_is_set_aside_follows_the_data(labelled: int, aside: int) -> None:
    train, kept = split_for_calibration(plain(labelled), 0, seed=0)
    assert (len(train), len(kept)) == (labelled - aside, aside)


def test_too_few_episodes_for_a_threshold_are_counted() -> None:
    episodes = plain(6)
    with pytest.raises(InputError, match=r"field 'calibration': found 20 episodes .* has only 6 labeled episodes"):
        split_for_calibration(episodes, 20, 0)
    with pytest.raises(InputError, match=r"found 1 labeled episode, expected at least 2"):
        split_for_calibration(episodes.select([0]), 0, 0)
    assert resolve_calibration(episodes, 0) == 0
    assert resolve_calibration(episodes, 5) == 5


def test_more_held_out_than_there_are_names_the_flag() -> None:
    episodes = plain(4)
    train, held = hold_out(episodes, 3)
    assert (len(train), len(held)) == (1, 3)
    assert len(hold_out(episodes, 0)[0]) == 4
    with pytest.raises(InputError, match="--held-out: cannot hold out 9 of 4 episodes"):
        hold_out(episodes, 9)


def test_episodes_without_a_sentence_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    episodes = plain(3)
    check_instructions([Path("a")], replace(episodes, instruction=("go", "", " ")), required=True)
    assert capsys.readouterr().out == "a: 2 of 3 episodes have no instruction\n"
    check_instructions([Path("a")], episodes, required=True)
    assert not capsys.readouterr().out
    with pytest.raises(InputError, match="a: no episode has an instruction"):
        check_instructions([Path("a")], replace(episodes, instruction=("",) * 3), required=True)


def test_durations_are_those_of_the_same_seconds() -> None:
    """Chunk, window, clip and horizon of 13.3 Hz at 5 Hz (Bridge), 30 Hz (SO-101) and 50 Hz (ALOHA)."""
    expected = {80 / 6: [2, 8, 12, 24], 5: [1, 3, 4, 9], 30: [4, 18, 27, 54], 50: [8, 30, 45, 90]}
    assert {rate: [frames_for(n, rate) for n in (2, 8, 12, 24)] for rate in expected} == expected
    assert frames_for(8, 5, default_rate=5) == 8


def test_the_size_of_frames_is_known_before_they_are_decoded(mine: Path, tmp_path: Path) -> None:
    assert frame_size(mine) == (64, 64)
    info = json.loads((mine / "meta/info.json").read_text())
    for shape, names, found in (
        ([48, 80, 3], ["height", "width", "channels"], (48, 80)),
        ([3, 48, 80], ["channels", "height", "width"], (48, 80)),
        ([3, 48, 80], None, (48, 80)),
        ([0, 0, 3], None, None),
        ("x", None, None),
    ):
        feature = {"dtype": "video", "shape": shape, "names": names}
        (tmp_path / "meta").mkdir(exist_ok=True)
        features = {"observation.images.cam": feature}
        (tmp_path / "meta/info.json").write_text(json.dumps(info | {"features": features}))
        assert frame_size(tmp_path) == found


def test_a_long_step_is_heard_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgymnast.progress._MIN_INTERVAL", 0.02)
    with Progress("thinking", 2, every=0.02) as progress:
        time.sleep(0.2)
        progress.advance()
    assert "thinking: step 0/2, 0 steps/s, unknown time left" in capsys.readouterr().err


# ---------------------------------------------------------------- how long a rollout is


def lasting(lengths: tuple[int, ...], succeeded: tuple[int, ...] = ()) -> EpisodeSet:
    """Episodes of these lengths, some of which succeed at their last frame; labelled where any does."""
    length = np.array(lengths)
    first = np.cumsum(length + 1) - length - 1
    rows = int(length.sum()) + len(length)
    success = np.isin(np.arange(rows), (first + length)[np.array(succeeded, int)])
    frames, actions = np.zeros((rows, 8, 8, 3), np.uint8), np.zeros((rows, 4), np.float32)
    labelled = np.full(len(length), bool(succeeded))
    return replace(plain(len(length)), frames=frames, actions=actions, first=first, length=length, success=success,
                   labelled=labelled)  # fmt: skip


@pytest.fixture(scope="module")
def found(others: dict[str, Path]) -> Components:
    """Components of another's arm at 30 frames per second, the policy's chunk 4."""
    policy, world = load_policy(others["policy"]), load_world(others["world"])
    policy.config = replace(policy.config, chunk=4)
    return Components(policy, world, SuccessClassifier(debug().judge.judge))


@pytest.mark.parametrize(
    ("lengths", "horizon", "said"),
    [
        (None, 56, "--rl.horizon 56 (1.9 s)"),
        ((0, 0), 56, "--rl.horizon 56 (1.9 s)"),
        ((30, 50, 41), 52, "--rl.horizon 52 (1.7 s), within which nine in ten of your episodes end"),
        ((40,) * 19 + (80,), 40, "--rl.horizon 40 (1.3 s), within which nine in ten"),
        ((360, 400), 256, "--rl.horizon 256 (8.5 s); your episodes take up to 13 s (nine in ten): set --rl.h"),
    ],
)
def test_the_horizon_that_is_said_is_taken_and_follows_the_data(
    lengths: tuple[int, ...] | None,
    horizon: int,
    said: str,
    found: Components,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = None if lengths is None else lasting(lengths)
    assert horizon_of(24, "--rl.horizon", found, (), data) == horizon
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"30 frames per second: {said}")
    assert horizon <= MAX_HORIZON
    assert horizon_of(24, "--rl.horizon", found, {"--rl.horizon"}, data) == 24
    assert not capsys.readouterr().out


def test_the_horizon_is_that_of_the_episodes_that_succeeded(found: Components) -> None:
    assert horizon_of(24, "--rl.horizon", found, (), lasting((20, 90, 90), (0,))) == 20
    assert horizon_of(24, "--rl.horizon", found, (), lasting((20, 50, 90), (0, 1))) == 52


# ---------------------------------------------------------------- the same cameras everywhere


def seeing(folder: Path, **cameras: list[str]) -> dict[str, Path]:
    """Judges' files by name, trained on these cameras."""
    files = {name: folder / f"{name}.safetensors" for name in cameras}
    for name, file in files.items():
        save_component(file, SuccessClassifier(debug().judge.judge), Manifest(origin={"image_key": cameras[name]}))
    return files


def test_other_cameras_are_refused_wherever_two_meet(tmp_path: Path) -> None:
    top, wrist = "observation.images.top", "observation.images.wrist"
    files = seeing(tmp_path, both=["top", "wrist"], full=[top, wrist], swapped=["wrist", "top"], one=["top"],
                   commas=["top,wrist"], every=["all"], none=[])  # fmt: skip
    fitting = (files[name] for name in ("both", "full", "commas", "every", "none"))
    check_same_cameras(*fitting, None, requested=(top, wrist))
    for one, other in (("both", "swapped"), ("both", "one"), ("full", "one"), ("every", "one")):
        with pytest.raises(InputError) as refused:
            check_same_cameras(files[one], files["none"], files[other])
        assert f"{files[one]}: found" in str(refused.value)
        assert f"{files[other]} was trained on" in str(refused.value)
    with pytest.raises(InputError, match=r"--image-key: found cameras top, but .*both.* was trained on top wrist"):
        check_same_cameras(files["both"], requested=("top",))


def test_a_described_judge_has_the_cameras_of_all_it_is_made_of(tmp_path: Path) -> None:
    seeing(tmp_path, one=["top"], other=["wrist"], same=["observation.images.top"])
    calibrated, ensemble = tmp_path / "calibrated.json", tmp_path / "ensemble.json"
    calibrated.write_text(json.dumps({"kind": "CalibratedConfig", "judge": "one.safetensors"}))
    for last, fits in (("same.safetensors", True), ("other.safetensors", False)):
        ensemble.write_text(json.dumps({"kind": "EnsembleConfig", "judges": ["calibrated.json", last]}))
        if fits:
            check_same_cameras(ensemble, requested=("top",))
        else:
            with pytest.raises(InputError, match=r"one.safetensors: found cameras top, but .*other.* was trained on"):
                check_same_cameras(ensemble)


def test_every_command_that_reads_frames_compares_cameras(
    mine: Path, others: dict[str, Path], says: Said, tmp_path: Path
) -> None:
    (judge,) = seeing(tmp_path, judge=["wrist"]).values()
    files, data = others | {"judge": judge}, ["--data", mine, "--image-key", "cam"]
    every, out = flags(files, "policy", "world", "judge"), ["--out", tmp_path / "x.json"]
    world = ["--world", others["world"]]
    for words in (
        ["rl", "debug", *every, *data, "--unscored", *out],
        ["rl", "debug", *flags(others, "policy", "world", "judge"), "--audit", judge, *data, "--unscored"],
        ["iter-sft", *every, *data, "--unscored", *out],
        ["adapt", "--frame", "x.png", "--instruction", "go", *every, *data, *out],
        ["eval-world", others["world"], "--judge", judge, *data],
        ["judge", "calibrate", judge, *data],
        ["judge", "compare", judge, others["judge"], *data],
        ["train-judge", mine, *world, "--begin-with", judge, "--image-key", "cam", *out],
    ):
        line = says(*words, code=2)
        assert f"--image-key: found cameras cam, but {judge} was trained on wrist" in line, words


# ---------------------------------------------------------------- what is said


def test_without_a_task_name_results_are_told_apart_by_sentence() -> None:
    episodes = plain(3)
    assert replace(episodes, instruction=("go", "stop", "go")).kinds == ("go", "stop", "go")
    assert replace(episodes, task=("a", "", "b")).kinds == ("a", episodes.instruction[1], "b")
    many = plain(21)
    assert set(replace(many, instruction=tuple(map(str, range(21)))).kinds) == {"no task"}


def test_a_gripper_that_is_one_by_name_is_said() -> None:
    spec = ActionSpec(("elbow.pos", "gripper.pos"), "unknown", (-1.0,) * 2, (1.0,) * 2)
    assert "gripper by name (gripper.pos)," in str(spec)
    assert spec.to_dict()["gripper"] == "none"
    assert "gripper effort," in str(metaworld_spec(4))
    assert "gripper none," in str(replace(spec, axes=("elbow.pos", "wrist.pos")))


@pytest.mark.parametrize("words", [["rl", "debug"], ["sft", "DATA"], ["reproduce", "debug"]])
def test_what_a_command_notes_for_itself_is_no_flag(
    words: list[str], says: Said, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert "--given" not in capsys.readouterr().out
    assert "--given" in says(*words, "--given", "x", "--out", tmp_path / "x", code=2)
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- the README's walk


def test_a_robots_owner_walks_from_data_to_a_finetuned_policy(mine: Path, says: Said, tmp_path: Path) -> None:
    """No flag that is not the README's decides anything but how long it takes."""
    sft, world, judge = (tmp_path / name for name in ("sft", "world", "judge"))
    says("data", "check", mine)
    said = says("sft", mine, "--out", sft, *BRIEF, *TINY_POLICY)
    assert "30 frames per second: --policy.chunk 4 (0.13 s), --after-success 7 (0.23 s)" in said
    said = says("train-world", mine, "--out", world, *BRIEF, *TINY_WORLD, "--held-out", 1)
    assert "--length 48 (1.6 s), --world.transformer.window 18 (0.6 s)" in said
    made = load_world(world / "world.safetensors")
    assert (made.frame_size, made.action_spec.dim, made.fps) == ((64, 64), 6, 30)
    assert made.config.transformer.action_dim == 6
    assert manifest_of(world / "world.safetensors")["origin"]["instructions"] == ["pick the cube", "put it away"]
    says("train-judge", mine, "--world", world / "world.safetensors", "--out", judge, *BRIEF, *TINY_JUDGE)
    recorded = json.loads((judge / "config.json").read_text())
    assert (recorded["stride"], recorded["late"], recorded["calibration"]) == (4, 18, 0)
    files = {n: tmp_path / folder / f"{n}.safetensors" for n, folder in
             (("policy", "sft"), ("world", "world"), ("judge", "judge"))}  # fmt: skip
    every = flags(files, "policy", "world", "judge")
    measured = ["--drift", 3, "--rows", 4, "--jitter.futures", 1, "--threads", 1, "--held-out", 1, "--trained"]
    said = says("eval-world", files["world"], "--judge", files["judge"], "--data", mine, *measured)
    assert "1 of 5 episodes have fewer than" in said or "Drift over 3" in said
    words = ["--data", mine, "--world", files["world"], "--threads", 1, "--out", tmp_path / "judged.json"]
    says("judge", "calibrate", files["judge"], *words, code=1)  # untrained, and each episode is judged to its end
    assert "real" in json.loads((tmp_path / "judged.json").read_text())
    few = ["--rl.steps", 1, "--rl.starts", 2, "--rl.group-size", 2, "--unscored", "--threads", 1]
    said = says("rl", "debug", *every, "--data", mine, "--out", tmp_path / "rl", *few)
    assert "--rl.horizon 16 (0.53 s), within which nine in ten of your episodes end" in said
    assert json.loads((tmp_path / "rl/config.json").read_text())["rl"]["horizon"] == 16
    assert load_policy(tmp_path / "rl/policy.safetensors").config.chunk == 4
    assert "calibrated on" not in said
    said = says("rl", "debug", *every, "--data", mine, "--out", tmp_path / "rl-1", *few, "--rl.execute", 1)
    assert "calibrated on a frame every 0.13 s, but sees one every 0.033 s" in said


@pytest.mark.parametrize("command", ["sft", "train-world"])
def test_paths_and_flags_that_are_wrong_are_one_line(command: str, mine: Path, says: Said, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "x"]
    assert "no such folder" in says(command, mine.with_name("mien"), *out, code=2)
    assert "is a file, expected a folder" in says(command, tmp_path / "file", *out, code=2)
    assert "empty: found []" in says(command, tmp_path / "empty", *out, code=2)
    assert "observation.images.cma" in says(command, mine, "--image-key", "observation.images.cma", *out, code=2)


def test_flags_that_contradict_the_data_say_what_the_data_are(mine: Path, says: Said, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "x"]
    line = says("train-world", mine, "--world.transformer.action-dim", 7, *out, code=2)
    assert "--world.transformer.action-dim: found 7, but the data's actions have 6 numbers. Omit it" in line
    line = says("train-world", mine, "--world.transformer.grid", 8, 8, *out, code=2)
    assert "--world.transformer.grid: found 8 8, which is for frames of 128x128 pixels, but the data have 64x64" in line
    assert "multiples of 16" in says("train-world", mine, "--size", 50, *out, code=2)
    assert "--shares: found 1 2 for 1 datasets" in says("train-world", mine, "--shares", 1, 2, *out, code=2)
    assert "--held-out: cannot hold out 6 of 3 episodes of task 'pick the cube'" in says(
        "train-world", mine, "--held-out", 6, *out, code=2
    )


def test_frames_that_are_not_square_are_squashed_and_it_is_said(says: Said, tmp_path: Path) -> None:
    images = lambda e, n: pa.array(  # noqa: E731
        [{"bytes": foreign_data.png(f), "path": None} for f in foreign_data.episode(e, n, h=48, w=80)]
    )
    wide = arm(tmp_path / "wide", (3, 4), images=images)
    info = json.loads((wide / "meta/info.json").read_text())
    info["features"]["observation.images.cam"]["shape"] = [48, 80, 3]
    (wide / "meta/info.json").write_text(json.dumps(info))
    said = says("sft", wide, "--out", tmp_path / "sft", *BRIEF, *TINY_POLICY)
    assert "frames of 48x80 pixels are resized to 64x64, height and width separately" in said
    assert manifest_of(tmp_path / "sft/policy.safetensors")["origin"]["frame_size"] == [64, 64]


def test_meta_world_keeps_its_numbers(says: Said, tmp_path: Path) -> None:
    made = [episode(i, steps=4, size=64, spec=metaworld_spec(6), fps=80 / 6) for i in range(2)]
    lerobot.write(tmp_path / "data", [replace(e, task="drawer-open", source="expert") for e in made])
    few = ["--demonstrations", 1, *BRIEF, *TINY_POLICY]
    said = says("sft", tmp_path / "data", "--out", tmp_path / "sft", *few)
    assert "frames per second" not in said
    assert json.loads((tmp_path / "sft/config.json").read_text())["policy"]["chunk"] == 2
