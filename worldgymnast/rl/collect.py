"""Collects the rollout groups of each RL step: imagine, judge, filter.

With a slow judge, imagination can run one step ahead (prefetch): while the rollouts of a step are judged, those of the
next step are imagined with the weights before the update in between. Recorded log-probabilities are those of the
weights that acted, so the clipped ratio of the loss accounts for the difference (asynchronous RL with a staleness of
one, as in AReaL, arXiv 2505.24298).
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from worldgymnast.configs import Between, Count, Fraction, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError, Paused
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.protocols import FillingPool, MeasuredPool, RolloutPool
from worldgymnast.rl.objective import ObjectiveConfig, has_signal
from worldgymnast.rl.rollout import drop_uncertain
from worldgymnast.types import Metrics, Rollout, RolloutGroup, StartOrLayout

DrawStarts = Callable[[np.random.Generator, int], Sequence[StartOrLayout]]
"""Draws that many starts with that generator; every `StartSampler` is one."""
Uncertainty = Callable[[Sequence[Rollout], int], np.ndarray]
"""Uncertainty of imagined rollouts, float [r]; higher is less reliable. The number seeds its draws."""
Verify = Callable[[Sequence[Rollout], int], np.ndarray]
"""Marks judged successes that fail when imagined again, bool [r]. The number seeds its draws."""

Streams = Literal["step", "group"]
"""Random streams of sampling: one per step, or one per group."""

_MAX_DRAWS = 8
"""Most attempts to draw enough starts of tasks that are not held."""


@checked
class CollectConfig:
    """How the groups of a step are collected.

    Attributes:
        starts: starts per step.
        group_size: rollouts per start, K.
        ahead: steps that imagination runs ahead of the update (prefetch), 0 or 1. 1 hides the time of a slow judge,
            and rollouts are then one update stale.
        resample: most rounds of replacing starts whose group carries no signal (dynamic sampling).
        fill: most groups per step that replace groups without signal as soon as these are judged, instead of in rounds
            (`resample`); 0 replaces in rounds. Needs `streams` "group".
        judge_error_limit: largest share of failed judgments; above it, the run pauses.
        uncertainty: "drop" removes uncertain rollouts from their groups.
        uncertainty_threshold: uncertainty above which a rollout is dropped; `eval-world` shows the cost of a threshold.
        uncertain_limit: largest share of uncertain rollouts; above it, the run pauses, because the policy has left the
            training distribution of the world model.
        jitter: disturbed futures that measure uncertainty; each costs as much imagination as the rollout itself. None
            by default: for the starter world model, the judge's own uncertainty detects as many errors.
        verify: futures in which each judged success is imagined again; it is dropped if any of them is judged
            differently. 0 futures disables this. Fresh noise is enough for a stochastic world model; a deterministic
            one needs disturbed pixels or actions.
        curriculum: draw tasks by learnability instead of uniformly.
        seed: random seed.
        streams: random streams of sampling: one per step, or one per group. With "group" the rollouts of a group do not
            depend on who rolls it out, which --pool ray needs; the numbers differ from those of "step".
    """

    starts: Positive = 12
    group_size: Annotated[int, Between(2)] = 8
    ahead: Annotated[int, Between(0, 1)] = 0
    curriculum: bool = False
    resample: Count = 1
    fill: Annotated[Count, Field(exclude_if=lambda value: value == 0)] = 0
    judge_error_limit: Fraction = 0.2
    uncertainty: Literal["off", "drop"] = "off"
    uncertainty_threshold: NonNegative = 0.8
    uncertain_limit: Fraction = 0.5
    jitter: JitterConfig = JitterConfig(futures=0)
    verify: JitterConfig = JitterConfig(futures=0, pixels=0.0, actions=0.0)
    seed: Seed = 0
    streams: Annotated[Streams, Field(exclude_if=lambda value: value == "step")] = "step"

    def __post_init__(self) -> None:
        if self.fill and self.streams != "group":
            raise FieldError("fill, streams", f"found {self.fill} and '{self.streams}', expected 'group' with a fill")
        if self.curriculum and self.ahead:
            raise FieldError(
                "curriculum, ahead",
                "found both, expected one: the curriculum needs the results of the step before. Turn one of them off",
            )


@dataclass
class StepGroups:
    """The groups of one step, with counts and times.

    Attributes:
        groups: groups to train on; those without signal are kept for statistics.
        rollouts: imagined rollouts.
        frames: imagined frames.
        is_dropping: whether uncertain rollouts are dropped.
        uncertain: rollouts dropped because they were uncertain.
        is_verifying: whether judged successes are imagined again.
        claimed: judged successes that were imagined again.
        flipped: those of them that were dropped because another future was judged a failure.
        errors: count of failed judgments by reason.
        seconds_imagine: time spent on imagination.
        seconds_judge: time spent on waiting for verdicts.
        pool: counts of the pool, if it has any.
    """

    groups: list[RolloutGroup] = field(default_factory=list)
    rollouts: int = 0
    frames: int = 0
    is_dropping: bool = False
    uncertain: int = 0
    is_verifying: bool = False
    claimed: int = 0
    flipped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    seconds_imagine: float = 0.0
    seconds_judge: float = 0.0
    pool: Metrics = field(default_factory=dict)

    @property
    def error_rate(self) -> float:
        """Share of imagined rollouts whose judgment failed."""
        return sum(self.errors.values()) / max(self.rollouts, 1)

    def metrics(self) -> Metrics:
        """Return the metrics to log."""
        dropped = {
            "rollouts": float(self.rollouts),
            "uncertain": float(self.uncertain),
            "uncertain_rate": self.uncertain / max(self.rollouts, 1),
        }
        verified = {
            "verified": float(self.claimed),
            "flipped": float(self.flipped),
            "flipped_rate": self.flipped / max(self.claimed, 1),
        }
        seconds = self.seconds_imagine + self.seconds_judge
        return {
            **(dropped if self.is_dropping else {}),
            **(verified if self.is_verifying else {}),
            **self._task_success(),
            **self.pool,
            "judge_error_rate": self.error_rate,
            "groups_without_verdicts": float(sum(len(group.scores) < 2 for group in self.groups)),
            "imagined_frames_per_second": self.frames / seconds,
            "seconds_imagine": self.seconds_imagine,
            "seconds_judge": self.seconds_judge,
            "seconds_collect": seconds,
        }

    def _task_success(self) -> Metrics:
        """Return the success rate of every task; empty with a single task."""
        outcomes: dict[str, list[bool]] = {}
        for group in self.groups:
            outcomes.setdefault(group.start.task, []).extend(group.scores >= 1)
        if len(outcomes) < 2:
            return {}
        return {f"success/{task}": float(np.mean(each)) for task, each in sorted(outcomes.items()) if each}


@dataclass
class _Pending:
    """Imagined rollouts whose verdicts are not collected yet."""

    rng: np.random.Generator
    groups: Callable[[], list[RolloutGroup]]
    seconds: float
    filling: _Filling | None = None


@dataclass
class _Filling:
    """Draws a start for each group without signal, up to a limit.

    A group whose judgments all failed is an outage, and not replaced.
    """

    draw: Callable[[int, Collection[str]], list[StartOrLayout]]
    objective: ObjectiveConfig
    left: int
    held: Collection[str] = ()

    def __call__(self, group: RolloutGroup) -> list[StartOrLayout]:
        is_outage = group.judge_errors == len(group.rollouts)
        if not self.left or is_outage or group.start.task in self.held or has_signal(group, self.objective):
            return []
        self.left -= 1
        return self.draw(1, self.held)


class Collector:
    """Imagines the rollouts of each step, and returns their groups once judged.

    Args:
        pool: imagines and judges.
        sample: draws starts.
        config: how many starts and rollouts, and which of them to drop.
        objective: decides which groups carry signal.
        uncertainty: uncertainty of rollouts; required unless `config.uncertainty` is "off".
        verify: imagines judged successes again; required if `config.verify.futures` is above 0.

    Raises:
        ValueError: `uncertainty` or `verify` is required and missing, or the pool cannot fill.
    """

    def __init__(
        self,
        pool: RolloutPool,
        sample: DrawStarts,
        config: CollectConfig,
        objective: ObjectiveConfig,
        uncertainty: Uncertainty | None = None,
        verify: Verify | None = None,
    ):
        if config.verify.futures and verify is None:
            raise ValueError(f"config.verify.futures is {config.verify.futures}, but no `verify` was given")
        if config.uncertainty != "off" and uncertainty is None:
            raise ValueError(f"config.uncertainty is '{config.uncertainty}', but no `uncertainty` was given")
        if config.fill and not isinstance(pool, FillingPool):
            raise ValueError(f"config.fill is {config.fill}, but {type(pool).__name__} has no begin_filled")
        self.pool, self.sample, self.config, self.objective = pool, sample, config, objective
        self.uncertainty = None if config.uncertainty == "off" else uncertainty
        self.verify = verify if config.verify.futures else None
        self._pending: dict[int, _Pending] = {}

    def begin(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Imagine the rollouts of `step` with `weights`, unless already done."""
        if step in self._pending:
            return
        self.pool.sync(weights, step)
        rng = np.random.default_rng([self.config.seed, step])
        began = time.perf_counter()
        starts, filling = self.sample(rng, self.config.starts), self._filling(rng)
        if filling is None:
            groups = self.pool.begin(starts, self.config.group_size)
        else:
            assert isinstance(self.pool, FillingPool)
            groups = self.pool.begin_filled(starts, self.config.group_size, filling)
        self._pending[step] = _Pending(rng, groups, time.perf_counter() - began, filling)

    def _filling(self, rng: np.random.Generator) -> _Filling | None:
        """Make what replaces groups as they arrive, if the config asks for it."""
        if not self.config.fill:
            return None
        return _Filling(functools.partial(self._draw_replacements, rng), self.objective, self.config.fill)

    def finish(self, step: int, weights: Mapping[str, Tensor], held: Collection[str] = ()) -> StepGroups:
        """Return the groups of `step`, after replacing groups without signal (dynamic sampling).

        Groups are replaced while more than a third of the newest carry no signal, at most `config.resample` times.

        Args:
            step: a step that was begun.
            weights: the newest weights; they act in the replacements.
            held: tasks that give no reward. Their groups need no signal, and are not replaced.

        Raises:
            Paused: the judge failed on, or the world model was uncertain about, more rollouts than the config allows.
        """
        config, pending = self.config, self._pending.pop(step)
        collected = StepGroups(is_dropping=self.uncertainty is not None, is_verifying=self.verify is not None)
        if pending.filling is not None:
            pending.filling.held = held
        self._add(collected, pending, step, 0)
        for turn in range(0 if config.fill else config.resample):
            newest = [g for g in collected.groups[-config.starts :] if g.start.task not in held]
            without_signal = sum(not has_signal(g, self.objective) for g in newest)
            if without_signal <= config.starts // 3 or collected.error_rate > config.judge_error_limit:
                break
            began = time.perf_counter()
            if config.ahead:  # the pool has imagined the next step since
                self.pool.sync(weights, step)
            if not (starts := self._draw_replacements(pending.rng, without_signal, held)):
                break
            groups = self.pool.begin(starts, config.group_size)
            self._add(collected, _Pending(pending.rng, groups, time.perf_counter() - began), step, turn + 1)
        self._check_limits(collected, step)
        if isinstance(self.pool, MeasuredPool):
            collected.pool = self.pool.metrics()
        return collected

    def _draw_replacements(self, rng: np.random.Generator, count: int, held: Collection[str]) -> list[StartOrLayout]:
        """Draw at most `count` starts of tasks that are not held."""
        starts: list[StartOrLayout] = []
        for _ in range(_MAX_DRAWS):
            starts += [start for start in self.sample(rng, count) if start.task not in held]
            if len(starts) >= count:
                break
        return starts[:count]

    def _add(self, collected: StepGroups, pending: _Pending, step: int, turn: int) -> None:
        """Wait for verdicts, filter the groups, and add them to `collected`."""
        began = time.perf_counter()
        groups = pending.groups()
        collected.seconds_judge += time.perf_counter() - began
        collected.seconds_imagine += pending.seconds
        rollouts = [r for g in groups for r in g.rollouts]
        collected.rollouts += len(rollouts)
        collected.frames += sum(r.chunks.actions.shape[0] * r.chunks.actions.shape[1] for r in rollouts)
        collected.errors.update(r.verdict.error or "no reason given" for r in rollouts if r.verdict.score is None)
        seed = self.config.seed * 1_000_003 + step * (self.config.resample + 1) + turn
        if self.uncertainty is not None:
            uncertainty = self.uncertainty(rollouts, seed)
            groups, dropped = drop_uncertain(groups, uncertainty, self.config.uncertainty_threshold)
            collected.uncertain += dropped
        if self.verify is not None:
            left = [r for g in groups for r in g.rollouts]
            collected.claimed += sum(bool(r.verdict.succeeded) for r in left)
            groups, flipped = drop_uncertain(groups, self.verify(left, seed).astype(float), 0.5)
            collected.flipped += flipped
        collected.groups += groups

    def _check_limits(self, collected: StepGroups, step: int) -> None:
        """Raise Paused if too many judgments failed or too many rollouts are uncertain."""
        config, rollouts = self.config, collected.rollouts
        if collected.error_rate > config.judge_error_limit:
            reason, count = collected.errors.most_common(1)[0]
            raise Paused(
                f"step {step}: the judge failed on {collected.error_rate:.0%} of {rollouts} rollouts (limit "
                f"{config.judge_error_limit:.0%}, --rl.judge-error-limit). Most common error ({count}x): {reason}. "
                "Checkpoint saved; this step changed nothing. Fix the judge, then rerun the same command to resume."
            )
        if collected.uncertain > config.uncertain_limit * rollouts:
            raise Paused(
                f"step {step}: {collected.uncertain / rollouts:.0%} of {rollouts} imagined rollouts exceed the "
                f"uncertainty threshold {config.uncertainty_threshold:g} (limit {config.uncertain_limit:.0%}, "
                "--rl.uncertain-limit). The policy has left the world model's training distribution. Checkpoint saved. "
                "Record real rollouts, train the world model on them too, and start a new run; or raise the threshold "
                "in a new run."
            )
