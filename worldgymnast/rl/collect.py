"""The groups that each step of reinforcement learning is trained on: imagined, judged, and sifted.

Where the judge is slow, imagination can run one step ahead: while the rollouts of a step are judged, those of the next
are imagined, by the policy as it was before the update in between. Their log-probabilities are those of the policy that
acted, so the clipped ratio of the loss accounts for the difference (as in asynchronous RL for language models, e.g.
AReaL, arXiv 2505.24298, with a staleness of one).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from torch import Tensor

from worldgymnast.configs import Between, Count, Fraction, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError, Paused
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.protocols import RolloutPool
from worldgymnast.rl.objective import ObjectiveConfig, has_signal
from worldgymnast.rl.rollout import without_uncertain
from worldgymnast.types import Metrics, Rollout, RolloutGroup, StartOrLayout

Draw = Callable[[np.random.Generator, int], Sequence[StartOrLayout]]
"""Draws that many starts with that generator; a `StartSampler` is one."""
Doubt = Callable[[Sequence[Rollout], int], np.ndarray]
"""How little each imagined rollout is to be believed, float [r]; the number is the seed of its draws."""
Verify = Callable[[Sequence[Rollout], int], np.ndarray]
"""Which imagined successes are none when they are imagined again, bool [r]; the number is the seed of its draws."""

_DRAWS = 8
"""How often starts are drawn to have enough of tasks that are not held."""


@checked
class GatherConfig:
    """How the groups of a step come together.

    Attributes:
        starts: starts a step.
        group_size: rollouts per start, K.
        ahead: steps that imagination is ahead of the update, 0 or 1. With 1 a slow judge costs no time of its own, and
            the policy that acts is one update older than the one that learns.
        resample: how often starts whose group carried no signal are replaced within a step (dynamic sampling).
        judge_error_limit: share of failed judgements above which the run stops.
        uncertainty: whether rollouts that the world is not to be believed in are dropped from their groups.
        uncertainty_threshold: doubt above which a rollout is dropped; `eval-world` shows what a threshold costs.
        uncertain_limit: share of such rollouts above which the run stops: the policy has left what the world knows.
        jitter: the disturbed futures that tell; each costs as much imagination as the rollout itself. None by default:
            of the starter world's lies the judge's own doubt alone finds as many.
        verify: how each judged success is imagined again; it is dropped from its group where any of these futures is
            judged another way. Off with 0 futures. Other noise alone is enough for a world that draws its futures; one
            that does not needs disturbed pixels or actions.
        curriculum: draws tasks by how much there is to learn from them, rather than in equal parts.
        seed: of every random draw.
    """

    starts: Positive = 12
    group_size: Annotated[int, Between(2)] = 8
    ahead: Annotated[int, Between(0, 1)] = 0
    curriculum: bool = False
    resample: Count = 1
    judge_error_limit: Fraction = 0.2
    uncertainty: Literal["off", "drop"] = "off"
    uncertainty_threshold: NonNegative = 0.8
    uncertain_limit: Fraction = 0.5
    jitter: JitterConfig = JitterConfig(futures=0)
    verify: JitterConfig = JitterConfig(futures=0, pixels=0.0, actions=0.0)
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.curriculum and self.ahead:
            raise FieldError("curriculum, ahead", "found both, expected one: what there is to learn is known "
                             "after the step before")  # fmt: skip


@dataclass
class Gathered:
    """The groups of one step, and what it took to have them.

    Attributes:
        groups: what is trained on; those without signal are kept for the statistics.
        rollouts: how many were imagined.
        frames: and how many frames in them.
        uncertain: how many were dropped since the world was in doubt.
        dropping: whether uncertain ones are dropped.
        verifying: whether successes are imagined again.
        claimed: how many were judged successes and imagined again.
        flipped: how many of these were dropped, since another verdict followed.
        errors: why judgements failed, and how often.
        imagining: seconds spent imagining.
        waiting: seconds spent waiting for verdicts.
    """

    groups: list[RolloutGroup] = field(default_factory=list)
    rollouts: int = 0
    frames: int = 0
    uncertain: int = 0
    dropping: bool = False
    verifying: bool = False
    claimed: int = 0
    flipped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    imagining: float = 0.0
    waiting: float = 0.0

    @property
    def error_rate(self) -> float:
        """Share of the imagined rollouts whose judgement failed."""
        return sum(self.errors.values()) / max(self.rollouts, 1)

    def metrics(self) -> Metrics:
        """What is logged."""
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
        return {
            **(dropped if self.dropping else {}),
            **(verified if self.verifying else {}),
            **self._by_task(),
            "judge_error_rate": self.error_rate,
            "groups_without_verdicts": float(sum(len(group.scores) < 2 for group in self.groups)),
            "imagined_frames_per_second": self.frames / (self.imagining + self.waiting),
            "seconds_imagine": self.imagining,
            "seconds_judge": self.waiting,
            "seconds_collect": self.imagining + self.waiting,
        }

    def _by_task(self) -> Metrics:
        """Success rate of every task, where there are several."""
        won: dict[str, list[bool]] = {}
        for group in self.groups:
            won.setdefault(group.start.task, []).extend(group.scores >= 1)
        found = {f"success/{task}": float(np.mean(each)) for task, each in sorted(won.items()) if each}
        return found if len(won) > 1 else {}


@dataclass
class _Begun:
    """Rollouts that are imagined and not all judged yet."""

    rng: np.random.Generator
    groups: Callable[[], list[RolloutGroup]]
    seconds: float


class Gathering:
    """Imagines the rollouts of steps in their order, and gives the groups of each when they are judged.

    Args:
        pool: imagines and judges.
        sample: draws starts.
        config: how many.
        objective: what a group with signal is.
        doubt: which rollouts not to believe, where the config wants some dropped.
        verify: imagines successes again, where the config wants that.

    Raises:
        ValueError: rollouts are to be dropped and there is no `doubt`, or no `verify`.
    """

    def __init__(
        self,
        pool: RolloutPool,
        sample: Draw,
        config: GatherConfig,
        objective: ObjectiveConfig,
        doubt: Doubt | None = None,
        verify: Verify | None = None,
    ):
        if config.verify.futures and verify is None:
            raise ValueError(f"verify: found {config.verify.futures} futures and nothing that imagines them")
        if config.uncertainty != "off" and doubt is None:
            raise ValueError(f"uncertainty: found '{config.uncertainty}' and no doubt to measure it by, expected one")
        self.pool, self.sample, self.config, self.objective = pool, sample, config, objective
        self.doubt = None if config.uncertainty == "off" else doubt
        self.verify = verify if config.verify.futures else None
        self._begun: dict[int, _Begun] = {}

    def begin(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Imagines the rollouts of `step` with `weights`, unless that is done."""
        if step in self._begun:
            return
        self.pool.sync(weights, step)
        rng = np.random.default_rng([self.config.seed, step])
        began = time.perf_counter()
        groups = self.pool.begin(self.sample(rng, self.config.starts), self.config.group_size)
        self._begun[step] = _Begun(rng, groups, time.perf_counter() - began)

    def finish(self, step: int, weights: Mapping[str, Tensor], held: Collection[str] = ()) -> Gathered:
        """The groups of `step`; those without signal are replaced while that is worth it (dynamic sampling).

        Args:
            step: one that was begun.
            weights: those of the newest policy, which rolls the replacements out where imagination is ahead.
            held: tasks that give no reward; their groups need no signal, and are not replaced.

        Raises:
            Paused: the judge failed, or the world is in doubt, on more rollouts than the config allows.
        """
        config, begun = self.config, self._begun.pop(step)
        found = Gathered(dropping=self.doubt is not None, verifying=self.verify is not None)
        self._add(found, begun, step, 0)
        for turn in range(config.resample):
            newest = [g for g in found.groups[-config.starts :] if g.start.task not in held]
            wanting = sum(not has_signal(g, self.objective) for g in newest)
            if wanting <= config.starts // 3 or found.error_rate > config.judge_error_limit:
                break
            began = time.perf_counter()
            if config.ahead:  # the pool has imagined another step since
                self.pool.sync(weights, step)
            if not (others := self._others(begun.rng, wanting, held)):
                break
            groups = self.pool.begin(others, config.group_size)
            self._add(found, _Begun(begun.rng, groups, time.perf_counter() - began), step, turn + 1)
        self._require_verdicts(found, step)
        return found

    def _others(self, rng: np.random.Generator, count: int, held: Collection[str]) -> list[StartOrLayout]:
        """Starts of tasks that are not held, that many where a few draws give as many."""
        found: list[StartOrLayout] = []
        for _ in range(_DRAWS):
            found += [start for start in self.sample(rng, count) if start.task not in held]
            if len(found) >= count:
                break
        return found[:count]

    def _add(self, found: Gathered, begun: _Begun, step: int, turn: int) -> None:
        """Waits for verdicts and adds the groups to `found`."""
        began = time.perf_counter()
        groups = begun.groups()
        found.waiting += time.perf_counter() - began
        found.imagining += begun.seconds
        rollouts = [r for g in groups for r in g.rollouts]
        found.rollouts += len(rollouts)
        found.frames += sum(r.chunks.actions.shape[0] * r.chunks.actions.shape[1] for r in rollouts)
        found.errors.update(r.verdict.error or "no reason given" for r in rollouts if r.verdict.score is None)
        seed = self.config.seed * 1_000_003 + step * (self.config.resample + 1) + turn
        if self.doubt is not None:
            groups, dropped = without_uncertain(groups, self.doubt(rollouts, seed), self.config.uncertainty_threshold)
            found.uncertain += dropped
        if self.verify is not None:
            left = [r for g in groups for r in g.rollouts]
            found.claimed += sum(bool(r.verdict.succeeded) for r in left)
            groups, flipped = without_uncertain(groups, self.verify(left, seed).astype(float), 0.5)
            found.flipped += flipped
        found.groups += groups

    def _require_verdicts(self, found: Gathered, step: int) -> None:
        config = self.config
        if found.error_rate > config.judge_error_limit:
            reason, count = found.errors.most_common(1)[0]
            raise Paused(
                f"step {step}: --rl.judge-error-limit: the judge failed on {found.error_rate:.0%} of {found.rollouts} "
                f"rollouts, expected at most {config.judge_error_limit:.0%}; {count} times: {reason}; no reward was "
                "changed and a checkpoint is kept: mend the judge and run the same command again to go on"
            )
        if found.uncertain > config.uncertain_limit * found.rollouts:
            raise Paused(
                f"step {step}: --rl.uncertain-limit: found {found.uncertain / found.rollouts:.0%} of {found.rollouts} "
                f"imagined rollouts above the threshold of doubt ({config.uncertainty_threshold:g}), expected at most "
                f"{config.uncertain_limit:.0%}; a checkpoint keeps the policy of this step: record real rollouts, "
                "train the world model on them too, and begin a new run, or raise the threshold in one"
            )
