"""Trust per task at work: the anchor, the loop, and successes that are imagined again."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lamp import Lamp

from worldgymnast.actions import metaworld_spec
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.evaluation.task_trust import TrustConfig
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.rl.objective import divergence
from worldgymnast.rl.reinforce import PairedRollouts, ReinforceConfig, reinforce
from worldgymnast.rl.rollout import group, roll_out
from worldgymnast.rl.trainer import Trainer, TrainerConfig, stack
from worldgymnast.run import Run, weights_hash
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.verify import rollout_flips
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Clip, Rollout, RolloutGroup, Start, Verdict

# ---------------------------------------------------------------- the anchor


SPEC, SIZE, TEXT = metaworld_spec(6), 16, SentenceEncoder()


@dataclass(frozen=True)
class Lit:
    """Success is a frame that has become brighter; of a task in `opposite`, darker; of one in `never`, nothing."""

    never: tuple[str, ...] = ()
    opposite: tuple[str, ...] = ()
    name: str = "lit"
    is_remote: bool = False
    identity: str = "lit"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(float(self._won(clip))) for clip in clips]

    def _won(self, clip: Clip) -> bool:
        gained = float(clip.frames[-1].astype(float).mean() - clip.frames[0].mean())
        return clip.task not in self.never and (gained < 0 if clip.task in self.opposite else gained > 0)


SENTENCES = {"right": "open the drawer", "wrong": "close the door"}


def starts(rng: np.random.Generator, count: int, tasks: Sequence[str] = ("right", "wrong")) -> list[Start]:
    frames = rng.integers(110, 150, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return [Start(frame, SENTENCES[tasks[i % len(tasks)]], tasks[i % len(tasks)]) for i, frame in enumerate(frames)]


def env(rows: int, generator: torch.Generator, judge: Lit | None = None) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(Lamp(spec=SPEC), judge, rows=rows, chunk=2, horizon=4, generator=generator)


def rollouts(policy: SmallVLA, wanted: Sequence[Start], judge: Lit, seed: int = 0) -> list[Rollout]:
    generator = torch.Generator().manual_seed(seed)
    return roll_out(env(len(wanted), generator, judge), policy, wanted, temperature=1.0, generator=generator)


@pytest.fixture(scope="module")
def policy() -> SmallVLA:
    torch.manual_seed(0)
    return SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), SPEC, TEXT)


def groups_of(policy: SmallVLA, seed: int = 0) -> list[RolloutGroup]:
    wanted = [start for start in starts(np.random.default_rng(seed), 8) for _ in range(8)]
    return group(rollouts(policy, wanted, Lit(), seed), 8)


def away(policy: SmallVLA, start: SmallVLA, task: str) -> float:
    """Nats a token by which `policy` has left `start` in what `start` does in a task."""
    wanted = [s for s in starts(np.random.default_rng(99), 64) if s.task == task]
    obs, chunk, _ = stack(rollouts(start, wanted, Lit(), 99))
    with torch.no_grad():
        return float(divergence(chunk.logprobs, policy.logprobs(obs, chunk)).mean())


def update(trainer: Trainer, times: int, held: dict[str, Any]) -> dict[str, float]:
    assert isinstance(trainer.policy, SmallVLA)
    metrics: dict[str, float] = {}
    for step in range(times):
        metrics = trainer.update(groups_of(trainer.policy, step), torch.Generator().manual_seed(step), held)
    return metrics


def test_a_held_task_is_pulled_back_to_its_anchor_while_another_is_trained(policy: SmallVLA) -> None:
    drifted = copy.deepcopy(policy)
    update(Trainer(drifted, TrainerConfig(lr=2e-3, warmup=0)), 6, {})
    held = copy.deepcopy(drifted)
    metrics = update(Trainer(held, TrainerConfig(lr=2e-3, warmup=0)), 10, {"wrong": policy})
    assert metrics["held_groups"] == 4
    assert away(held, policy, "wrong") < away(drifted, policy, "wrong") / 3
    assert away(held, policy, "right") > away(held, policy, "wrong")
    assert away(held, drifted, "right") > 0.01, "the other task goes on learning"


def test_a_policy_that_is_its_anchor_is_not_moved_by_it(policy: SmallVLA) -> None:
    trained = copy.deepcopy(policy)
    trainer = Trainer(trained, TrainerConfig(lr=2e-3, warmup=0))
    metrics = update(trainer, 1, {"right": policy, "wrong": trainer.start})
    assert (metrics["kl_to_anchor"], metrics["last_kl_to_anchor"]) == (0, 0)
    assert weights_hash(trained.state_dict()) == weights_hash(policy.state_dict())


# ---------------------------------------------------------------- the loop

RL = ReinforceConfig(
    steps=8, starts=8, group_size=8, horizon=4, rows=64, evaluate_every=2, save_every=1, resample=1, middle=0.0,
    trainer=TrainerConfig(lr=1e-2, warmup=0), keep_best=False,
)  # fmt: skip
SCORED_ON = tuple(starts(np.random.default_rng(7), 32))


def learn(
    policy: SmallVLA,
    out: Path,
    truth: Lit,
    config: ReinforceConfig = RL,
    stop_after: int | None = None,
    tasks: Sequence[str] = ("right", "wrong"),
) -> tuple[SmallVLA, list[dict[str, Any]]]:
    """RL in the lamp's world before a judge that likes light, scored for real by `truth`; killed after some syncs."""
    trained = copy.deepcopy(policy)

    class Pool(LocalPool):
        def begin(self, starts: Sequence[Start], group_size: int) -> Callable[[], list[RolloutGroup]]:
            if stop_after is not None and self.version > stop_after:
                raise KeyboardInterrupt
            return super().begin(starts, group_size)

    def score(step: int) -> PairedRollouts:
        wanted = [start for start in SCORED_ON if start.task in tasks]
        return PairedRollouts(rollouts(trained, wanted, Lit()), rollouts(trained, wanted, truth))

    pool = Pool(copy.deepcopy(policy), env, JudgeVerdicts(Lit(), 2), rows=64, temperature=1.0, seed=0)
    sample = functools.partial(starts, tasks=tasks)
    with Run(out, {"rl": {"evaluate_starts": 16}, "env": {"tasks": list(tasks)}}) as run:
        metrics, _ = reinforce(trained, pool, sample, score, config, run)
        rows = run.metrics()
        if stop_after is None:
            run.finish(metrics)
    return trained, rows


def test_a_task_that_never_succeeds_for_real_loses_its_reward_and_another_goes_on(
    policy: SmallVLA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = Lit(never=("wrong",))
    held, rows = learn(policy, tmp_path / "held", truth)
    said = capsys.readouterr().err
    trusting, _ = learn(policy, tmp_path / "trusting", truth, replace(RL, trust=TrustConfig(enabled=False)))
    scored = [row for row in rows if "real_success" in row]
    assert [row["held/wrong"] for row in scored] == [0, 1, 1, 1, 1]
    assert {row["held/right"] for row in scored} == {0}
    assert scored[-1]["imagined_success/right"] == scored[-1]["real_success/right"] > scored[0]["real_success/right"]
    assert scored[1]["trust/wrong"] < 0.05 < scored[1]["trust/right"]
    assert "step 2: task 'wrong' is held: 0 of " in said
    assert away(held, policy, "wrong") < away(trusting, policy, "wrong") / 4
    assert away(held, policy, "right") > 2 * away(held, policy, "wrong")
    page = collect(tmp_path / "held")
    assert [(each.task, each.standing) for each in page.tasks] == [
        ("right", "trusted"), ("wrong", "on hold since step 2: imagined successes are not real")
    ]  # fmt: skip
    assert "| wrong | " in markdown(page)


def test_killed_and_resumed_while_a_task_is_held_equals_the_run_never_killed(policy: SmallVLA, tmp_path: Path) -> None:
    config, truth = replace(RL, steps=6, keep_best=True), Lit(never=("wrong",))
    whole, rows = learn(policy, tmp_path / "whole", truth, config)
    with pytest.raises(KeyboardInterrupt):
        learn(policy, tmp_path / "killed", truth, config, stop_after=2)
    again, resumed = learn(policy, tmp_path / "killed", truth, config)
    assert weights_hash(again.state_dict()) == weights_hash(whole.state_dict())

    def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if "second" not in k and k != "time"} for row in rows]

    assert [str(row) for row in told(resumed)] == [str(row) for row in told(rows)]
    assert 1 in [row.get("held/wrong") for row in resumed]


def test_a_policy_that_loses_a_task_is_not_kept(
    policy: SmallVLA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge rewards light; for real one task wants the dark, which the start policy makes half of the time."""
    config = replace(RL, steps=6, evaluate_every=6, keep_best=True, trust=TrustConfig(enabled=False))
    kept, rows = learn(policy, tmp_path / "run", Lit(opposite=("wrong",)), config)
    first, last = (row for row in rows if "real_success" in row)
    assert first["real_success/wrong"] > 0.3
    assert last["real_success/wrong"] < first["real_success/wrong"] - 0.2
    assert weights_hash(kept.state_dict()) == weights_hash(policy.state_dict())
    assert "kept the start policy: " in (said := capsys.readouterr().out)
    assert "step 6 was rejected: it loses wrong (" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best_step"] == 0
    alone, _ = learn(policy, tmp_path / "alone", Lit(), config, tasks=("right",))
    assert weights_hash(alone.state_dict()) != weights_hash(policy.state_dict())
    assert "kept step 6: " in capsys.readouterr().out


def test_one_task_without_a_name_is_held_and_said_to_be_all(
    policy: SmallVLA, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SENTENCES, "", "close the door")
    monkeypatch.setitem(globals(), "SCORED_ON", tuple(replace(start, task="") for start in SCORED_ON))
    _, rows = learn(policy, tmp_path / "run", Lit(never=("",)), replace(RL, steps=4), tasks=("",))
    assert [row["held"] for row in rows if "held" in row] == [0, 1, 1]
    said = capsys.readouterr().err
    assert "step 2: the task is held: " in said
    assert "every task is held, so nothing is learned." in said
    assert collect(tmp_path / "run").tasks == []


# ---------------------------------------------------------------- verified successes


class Chance(Lamp):
    """A lamp that also flickers by chance: what it imagines of the same actions differs from draw to draw."""

    def step(self, state: Any, actions: torch.Tensor, *, generator: torch.Generator, every: int = 1) -> Any:
        noise = 40 * torch.randn(len(actions), generator=generator)
        lit = replace(state, latent=(state.latent + noise[:, None, None, None]).clamp(0, 255))
        return super().step(lit, actions, generator=generator, every=every)


def within(world: Lamp) -> Imagination:
    return Imagination(world, Lit(), chunk=2, horizon=4, every=2)


def test_successes_that_flip_when_imagined_again_are_found(policy: SmallVLA) -> None:
    wanted = starts(np.random.default_rng(0), 32)
    made = rollouts(policy, wanted, Lit())
    won = np.array([bool(rollout.verdict.succeeded) for rollout in made])
    again = JitterConfig(futures=1, pixels=0.0, actions=0.0)
    still, chance = within(Lamp(spec=SPEC)), within(Chance(spec=SPEC))
    assert not rollout_flips(still, again, 7)(made, 0).any(), "a world without chance repeats itself"
    assert rollout_flips(still, replace(again, actions=0.5), 7)(made, 0).any(), "unless it is disturbed"
    flips = rollout_flips(chance, again, 7)
    found = flips(made, 0)
    assert 0 < found.sum() < won.sum()
    assert not found[~won].any()
    assert np.array_equal(found, flips(made, 0))
    assert (rollout_flips(chance, replace(again, futures=4), 7)(made, 0) >= found).all()


def test_flipped_successes_leave_their_groups_and_are_logged(policy: SmallVLA, tmp_path: Path) -> None:
    config = replace(RL, steps=1, resample=0, verify=JitterConfig(futures=1, pixels=0.0, actions=0.0))
    trained = copy.deepcopy(policy)
    pool = LocalPool(copy.deepcopy(policy), env, JudgeVerdicts(Lit(), 2), rows=64, temperature=1.0, seed=0)
    flips = rollout_flips(within(Chance(spec=SPEC)), config.verify, 64)
    with Run(tmp_path / "run", {}) as run:
        reinforce(trained, pool, starts, lambda step: None, config, run, verify=flips)
        row = run.metrics()[0]
        with pytest.raises(ValueError, match="no `verify` was given"):
            reinforce(trained, pool, starts, lambda step: None, config, run)
    assert 0 < row["flipped"] < row["verified"] < 64
    assert row["flipped_rate"] == row["flipped"] / row["verified"]
    assert row["success"] == pytest.approx((row["verified"] - row["flipped"]) / (64 - row["flipped"]))
