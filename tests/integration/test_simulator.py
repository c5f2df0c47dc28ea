"""The wrong twin of the real environment: equal without faults, wrong by one number, with a dense reward."""

import functools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from worldgymnast.envs.metaworld import SUITE, MetaWorld, MetaWorldConfig, MetaWorldEnv
from worldgymnast.envs.simulator import SPREAD, SimulatorConfig, SimulatorEnv
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.errors import InputError
from worldgymnast.measure.real import score_real
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.rl.objective import ObjectiveConfig, has_signal
from worldgymnast.rl.rollout import densify_rewards
from worldgymnast.surrogates.imagination import score_in
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.types import IMAGE, ActionChunk, Rollout, RolloutGroup, Start, Verdict

FAITHFUL = SimulatorConfig(mismatch=0, randomisation=0)
ACTION = np.array([0.5, -0.5, -1.0, 1.0], np.float32)


def shown(config: SimulatorConfig | None, layout: int, task: str = "drawer-open", steps: int = 5) -> list[np.ndarray]:
    """Frames of one episode; without a config those of the real environment."""
    env = MetaWorldEnv() if config is None else SimulatorEnv(config)
    try:
        frames = [env.reset(seed=layout, options={"task": task})[0]["image"]]
        return frames + [env.step(ACTION)[0]["image"] for _ in range(steps)]
    finally:
        env.close()


@pytest.mark.usefixtures("gl")
def test_gymnasium_accepts_it() -> None:
    env = SimulatorEnv()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(env, skip_render_check=True)
        env.reset(seed=1, options={"task": "door-close"})
        assert 0 <= env.step(ACTION)[4]["progress"] <= 1
    finally:
        env.close()


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("task", SUITE)
def test_without_faults_it_is_the_real_environment(task: str) -> None:
    np.testing.assert_array_equal(shown(FAITHFUL, 3, task), shown(None, 3, task))


@pytest.mark.usefixtures("gl")
def test_its_faults_grow_with_one_number_and_do_not_stay_in_the_model() -> None:
    real = np.stack(shown(None, 3)).astype(float)
    wrong = [
        float(np.abs(np.stack(shown(SimulatorConfig(mismatch=m, randomisation=0), 3)) - real).mean())
        for m in (0.25, 1, 3)
    ]
    assert 0 < wrong[0] < wrong[1] < wrong[2]
    env = SimulatorEnv(SimulatorConfig(mismatch=0, randomisation=1))
    try:  # many scenes later the same layout is the same scene
        first = env.reset(seed=5, options={"task": "drawer-open"})[0]["image"]
        for layout in range(6, 12):
            env.reset(seed=layout, options={"task": "drawer-open"})
        again = env.reset(seed=5, options={"task": "drawer-open"})[0]["image"]
    finally:
        env.close()
    np.testing.assert_array_equal(first, again)
    assert (first != real[0]).mean() > 0.1


def test_a_mismatch_is_alike_in_all_layouts_and_randomisation_is_not() -> None:
    fixed = SimulatorConfig(mismatch=1, randomisation=0)
    drawn = SimulatorConfig(mismatch=0, randomisation=1)
    assert set(fixed.deviation(0)) == set(SPREAD)
    for name in SPREAD:
        np.testing.assert_array_equal(fixed.deviation(0)[name], fixed.deviation(1)[name])
        np.testing.assert_allclose(replace(fixed, mismatch=2).deviation(0)[name], 2 * fixed.deviation(0)[name])
        assert (drawn.deviation(0)[name] != drawn.deviation(1)[name]).all()
        assert (replace(fixed, seed=1).deviation(0)[name] != fixed.deviation(0)[name]).all()
    many = np.stack([drawn.deviation(layout)["camera"] for layout in range(400)])
    np.testing.assert_allclose(many.std(), SPREAD["camera"][0], rtol=0.1)


@pytest.mark.usefixtures("gl")
def test_actions_come_late() -> None:
    """With the delay alone, nothing has moved in the control steps that it takes."""
    config = SimulatorConfig(MetaWorldConfig(hold=2), mismatch=1, randomisation=0)
    still = {name: np.zeros_like(value) for name, value in config.deviation(0).items()}

    def hand(delay: float) -> float:
        class Late(SimulatorConfig):
            def deviation(self, layout: int) -> dict[str, np.ndarray]:
                del layout
                return still | {"delay": np.array([delay])}

        env = SimulatorEnv(Late(MetaWorldConfig(hold=2)))
        try:
            env.reset(seed=1, options={"task": "drawer-open"})
            begun = env.env.data.mocap_pos.copy()
            env.step(ACTION)
            return float(np.abs(env.env.data.mocap_pos - begun).max())
        finally:
            env.close()

    assert hand(-2.2) == 0
    assert 0 < hand(1.0) < hand(0.0)


@pytest.mark.usefixtures("gl")
def test_a_policy_does_the_same_in_a_faithful_simulation_as_for_real() -> None:
    torch.manual_seed(0)
    env = MetaWorldConfig(tasks=("drawer-close", "door-close"), horizon=4)
    policy = SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), env.action_spec)
    starts = MetaWorld(env).layouts(2, 11)
    real = vectorize(functools.partial(MetaWorldEnv, env), 1, 2)
    simulation = Simulation(replace(FAITHFUL, env=env), 2, workers=1)
    keyframes = simulation.keyframes_only()
    try:
        truly = score_real(policy, real, starts, temperature=0.0, seed=0)
        simulated = score_in(simulation, policy, [r.start for r in truly], rows=8, temperature=0.0, seed=0)
        hurried = score_in(keyframes, policy, starts, rows=8, temperature=0.0, seed=0)
    finally:
        real.close()
        simulation.close()
        keyframes.close()
    for a, b, c in zip(truly, simulated, hurried, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.frames[::2], c.frames)
        assert a.verdict.succeeded == b.verdict.succeeded == c.verdict.succeeded
        assert b.verdict.probability == c.verdict.probability
    assert max(r.verdict.probability or 0 for r in simulated) > 0, "a simulator reports its progress"
    assert {r.verdict.probability for r in truly} <= {0.0, 1.0}, "a robot does not"


def test_bad_numbers_are_refused() -> None:
    bad: list[dict[str, Any]] = [{"mismatch": -1}, {"randomisation": float("nan")}, {"seed": -1}]
    for config in bad:
        with pytest.raises(InputError, match=next(iter(config))):
            SimulatorConfig(**config)


# ---------------------------------------------------------------- dense reward


def group(*verdicts: Verdict) -> RolloutGroup:
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    start = Start(frames[0], "open the drawer", "drawer-open", 0)
    chunks = ActionChunk(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, 4, dtype=torch.int64), torch.zeros(2, 1, 4), temperature=1.0
    )
    return RolloutGroup(start, tuple(Rollout(start, {IMAGE: frames[:2]}, chunks, frames, v, 2) for v in verdicts))


def test_only_a_group_without_a_success_is_rewarded_by_progress() -> None:
    won = group(Verdict(1.0, 1.0), Verdict(0.0, 0.9))
    assert densify_rewards(won) is won
    lost = densify_rewards(group(Verdict(0.0, 0.2), Verdict(0.0, 0.8), Verdict(None, error="crashed")))
    assert [r.verdict.score for r in lost.rollouts] == [pytest.approx(0.26), pytest.approx(0.44), None]
    assert has_signal(lost, ObjectiveConfig())
    assert not any(r.verdict.succeeded for r in lost.rollouts)
    nearly = densify_rewards(group(Verdict(0.0, 1.0), Verdict(0.0, 0.0)))
    assert [r.verdict.succeeded for r in nearly.rollouts] == [False, False]
