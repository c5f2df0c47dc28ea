"""The real environment: Gymnasium's contract, layouts that depend on their seed alone, and chunks over rows."""

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldgymnast.actions import ActionSpecMismatch
from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, MetaWorldConfig, MetaWorldEnv, check_tasks, instructions
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.errors import InputError
from worldgymnast.types import Start

CONFIG = MetaWorldConfig()
CHUNK = 4


@pytest.fixture
def env(gl: None) -> Iterator[MetaWorldEnv]:
    made = MetaWorldEnv(CONFIG)
    yield made
    made.close()


def test_gymnasium_accepts_it(env: MetaWorldEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no spec: it is made by class, not by name
        check_env(env, skip_render_check=True)


def test_the_seed_alone_decides_the_layout(env: MetaWorldEnv) -> None:
    other = MetaWorldEnv(MetaWorldConfig(tasks=("door-close", "drawer-open", "window-open")))
    try:
        expected, info = env.reset(seed=17, options={"task": "drawer-open"})
        assert info == {"success": False, "task": "drawer-open", "layout": 17}
        for seed, task in ((3, "drawer-open"), (4, "door-close"), (5, "drawer-open")):
            other.reset(seed=seed, options={"task": task})
            for _ in range(4):
                other.step(other.action_space.sample())
        found, _ = other.reset(seed=17, options={"task": "drawer-open"})
        np.testing.assert_array_equal(found["image"], expected["image"])
        action = np.array([0.5, -0.5, -1.0, 1.0], np.float32)
        for _ in range(5):
            np.testing.assert_array_equal(other.step(action)[0]["image"], env.step(action)[0]["image"])
    finally:
        other.close()


@pytest.mark.parametrize("task", [*SUITE, *EXTRA_TASKS])
def test_the_first_frame_shows_the_scene_as_it_is(task: str, env: MetaWorldEnv) -> None:
    """Meta-World's own first picture shows drawer and window where they are not."""
    for layout in (5, 6, 5):
        first, _ = env.reset(seed=layout, options={"task": task})
        second = env.step(np.zeros(4, np.float32))[0]
        assert (np.abs(first["image"].astype(int) - second["image"]).max(-1) > 40).mean() < 0.06


def test_another_seed_is_another_layout(env: MetaWorldEnv) -> None:
    frames = [env.reset(seed=seed, options={"task": "drawer-open"})[0]["image"] for seed in (0, 1)]
    assert (frames[0] != frames[1]).mean() > 0.01


def run_expert(env: MetaWorldEnv, task: str, layout: int) -> tuple[list[np.ndarray], list[np.ndarray], list[bool]]:
    """Frames, actions and success labels of one expert episode of the whole horizon."""
    observed, _ = env.reset(seed=layout, options={"task": task})
    frames, actions, success, truncated = [observed["image"]], [], [False], False
    while not truncated:
        actions.append(env.expert_action())
        observed, _, terminated, truncated, info = env.step(actions[-1])
        assert not terminated
        frames.append(observed["image"])
        success.append(info["success"])
    assert len(actions) == env.config.horizon
    return frames, actions, success


@pytest.mark.parametrize("task", SUITE)
@pytest.mark.usefixtures("gl")
def test_the_expert_succeeds(task: str) -> None:
    """Nothing is looked at: every frame but the first is the last."""
    env = MetaWorldEnv(CONFIG, every=CONFIG.horizon)
    outcomes = {layout: any(run_expert(env, task, layout)[2]) for layout in (900_001, 900_002)}
    env.close()
    assert all(outcomes.values()), outcomes


def test_reward_is_paid_once(env: MetaWorldEnv) -> None:
    env.reset(seed=1, options={"task": "button-press"})
    rewards = [env.step(env.expert_action())[1] for _ in range(CONFIG.horizon)]
    assert sum(rewards) == 1.0


@pytest.mark.parametrize(("wrong", "near"), [("drawer-opn", "drawer-open"), ("plate_slide", "plate-slide")])
def test_an_unknown_task_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=f"found '{wrong}'.*did you mean '{near}'"):
        check_tasks((wrong,))
    with pytest.raises(InputError, match=near):
        MetaWorldEnv(MetaWorldConfig(tasks=(wrong,)))


def test_an_unknown_task_at_reset_names_the_nearest(env: MetaWorldEnv) -> None:
    with pytest.raises(InputError, match="did you mean 'window-open'"):
        env.reset(seed=0, options={"task": "windw-open"})


@pytest.mark.parametrize("action", [np.zeros(3, np.float32), np.full(4, np.nan, np.float32)])
def test_a_wrong_action_is_refused(env: MetaWorldEnv, action: np.ndarray) -> None:
    env.reset(seed=0, options={"task": "drawer-open"})
    with pytest.raises(ActionSpecMismatch, match=r"MetaWorldEnv\.step"):
        env.step(action)


def test_every_task_of_the_suite_has_paraphrases() -> None:
    assert len(SUITE) == 6
    for task in SUITE:
        sentences = instructions(task)
        assert len(set(sentences)) == len(sentences) >= 3
    assert instructions("sweep-into") == ("sweep into",)


def chunks_of(actions: list[np.ndarray]) -> np.ndarray:
    """float32 [n k a] of a whole episode."""
    return np.stack(actions).reshape(-1, CHUNK, 4)


def drive(
    rows: int, starts: list[Start], plan: np.ndarray, every: int = 1
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Any]]:
    """Runs `plan` [n b k a] through `vectorize`: the first observation, the info of every step, the flags."""
    vector = vectorize(functools.partial(MetaWorldEnv, CONFIG, every), rows, CHUNK)
    try:
        assert vector.num_envs == rows
        first, _ = vector.reset(options={"starts": starts})
        infos, flags = [], []
        for actions in plan:
            observed, _, terminated, truncated, info = vector.step(actions)
            assert observed["image"].shape == (rows, 64, 64, 3)
            np.testing.assert_array_equal(observed["image"], info["frames"][:, -1])
            infos.append(info)
            flags.append((terminated.copy(), truncated.copy()))
    finally:
        vector.close()
    return first, infos, flags


def test_rows_report_frames_score_and_success_frame(env: MetaWorldEnv) -> None:
    """Row 0 replays the expert and succeeds, row 1 stands still and does not."""
    frames, actions, success = run_expert(env, "drawer-open", 900_001)
    still = np.zeros((CONFIG.horizon // CHUNK, CHUNK, 4), np.float32)
    starts = [Start(frames[0], "open the drawer", "drawer-open", layout) for layout in (900_001, 900_002)]
    first, infos, flags = drive(2, starts, np.stack([chunks_of(actions), still], 1))
    np.testing.assert_array_equal(first["image"][0], frames[0])
    seen = np.concatenate([info["frames"] for info in infos], axis=1)
    assert seen.dtype == np.uint8
    assert seen.shape == (2, CONFIG.horizon, 64, 64, 3)
    np.testing.assert_array_equal(seen[0], np.stack(frames[1:]))
    np.testing.assert_array_equal(np.concatenate([info["success"][0] for info in infos]), success[1:])
    for info, (terminated, truncated) in zip(infos[:-1], flags[:-1], strict=True):
        assert "score" not in info
        assert not terminated.any()
        assert not truncated.any()
    assert flags[-1][1].all()
    assert not flags[-1][0].any()
    assert infos[-1]["score"].tolist() == [1.0, 0.0]
    assert infos[-1]["probability"].tolist() == [1.0, 0.0]
    assert infos[-1]["success_frame"].tolist() == [success.index(True), -1]


def test_one_row_in_this_process_says_the_same(env: MetaWorldEnv) -> None:
    frames, actions, success = run_expert(env, "window-open", 900_002)
    start = Start(frames[0], "open the window", "window-open", 900_002)
    _, infos, _ = drive(1, [start], chunks_of(actions)[:, None])
    np.testing.assert_array_equal(np.concatenate([info["frames"][0] for info in infos]), np.stack(frames[1:]))
    assert infos[-1]["score"].tolist() == [1.0]
    assert infos[-1]["success_frame"].tolist() == [success.index(True)]


def test_looking_once_a_chunk_changes_no_look_and_no_outcome(env: MetaWorldEnv) -> None:
    frames, actions, _ = run_expert(env, "window-open", 900_002)
    start = Start(frames[0], "open the window", "window-open", 900_002)
    plan = chunks_of(actions)[:, None]
    _, watched, _ = drive(1, [start], plan)
    _, looked, _ = drive(1, [start], plan, every=CHUNK)
    for all_frames, last in zip(watched, looked, strict=True):
        assert last["frames"].shape == (1, 1, 64, 64, 3)
        np.testing.assert_array_equal(last["frames"][0, 0], all_frames["frames"][0, -1])
        assert last["success"].tolist() == [[bool(all_frames["success"].any())]]
    assert looked[-1]["score"] == watched[-1]["score"] == 1
    assert looked[-1]["success_frame"] == watched[-1]["success_frame"]


def test_a_chunk_must_end_with_a_look() -> None:
    with pytest.raises(InputError, match=r"every.*found 2, expected a divisor of the policy's chunk"):
        vectorize(functools.partial(MetaWorldEnv, CONFIG, 2), 1, 3)


# ---------------------------------------------------------------- distractors


@pytest.fixture
def cluttered(gl: None) -> Iterator[MetaWorldEnv]:
    made = MetaWorldEnv(MetaWorldConfig(distractors=3))
    yield made
    made.close()


def distractors(env: MetaWorldEnv) -> np.ndarray:
    """Where they are, float [3 3]."""
    return np.array([env.env.data.body(f"distractor{i}").xpos for i in range(3)])


@pytest.mark.parametrize("task", SUITE)
def test_distractors_change_the_picture_and_not_the_task(task: str, env: MetaWorldEnv, cluttered: MetaWorldEnv) -> None:
    plain, _ = env.reset(seed=5, options={"task": task})
    among, _ = cluttered.reset(seed=5, options={"task": task})
    differing = (np.abs(plain["image"].astype(int) - among["image"]).max(-1) > 20).mean()
    assert 0.002 < differing < 0.15
    assert np.allclose(env.env.obj_init_pos, cluttered.env.obj_init_pos)
    assert np.allclose(env.env.tcp_center, cluttered.env.tcp_center, atol=1e-3)
    places = distractors(cluttered)
    assert (np.abs(places[:, 0]) < 0.36).all()
    assert (places[:, 2] > 0.01).all(), "on the table"
    for _ in range(3):
        cluttered.step(np.zeros(4, np.float32))
    assert np.abs(distractors(cluttered) - places).max() < 0.03, "they stay where they are put"


def test_the_layout_alone_decides_the_distractors(cluttered: MetaWorldEnv) -> None:
    frames, places = [], []
    for layout in (5, 6, 5):
        frames.append(cluttered.reset(seed=layout, options={"task": "drawer-open"})[0]["image"])
        places.append(distractors(cluttered))
        cluttered.step(np.ones(4, np.float32))
    assert (frames[0] == frames[2]).all()
    assert (places[0] == places[2]).all()
    assert np.abs(places[0] - places[1]).max() > 0.02


def test_a_distractor_can_be_pushed(cluttered: MetaWorldEnv) -> None:
    cluttered.reset(seed=5, options={"task": "drawer-open"})
    data = cluttered.env.data
    x, y = np.array(cluttered.env.tcp_center)[:2]
    data.qpos[-7:-4] = (x, y + 0.1, 0.05)  # in front of the hand
    before = distractors(cluttered)[2]
    for t in range(12):
        cluttered.step(np.array([0, 1, -1, 1] if t < 6 else [0, 1, 0, 1], np.float32))
    assert np.linalg.norm((distractors(cluttered)[2] - before)[:2]) > 0.03


def test_more_distractors_than_the_table_holds_are_refused() -> None:
    with pytest.raises(InputError, match="'distractors' of MetaWorldConfig: found 9, expected 0 to 5"):
        MetaWorldConfig(distractors=9)


@pytest.mark.usefixtures("gl")
def test_triton_is_loaded_before_gl(tmp_path: Path) -> None:
    """A triton that looks whether Mesa is there already, which would crash the real one."""
    (tmp_path / "triton.py").write_text(
        "maps = open('/proc/self/maps').read()\nassert 'libEGL' not in maps and 'LLVM' not in maps, 'too late'\n"
    )
    code = (
        "import sys; from worldgymnast.envs.metaworld import check_tasks; check_tasks(('drawer-open',))\n"
        "assert 'triton' in sys.modules and 'libEGL' in open('/proc/self/maps').read()"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
