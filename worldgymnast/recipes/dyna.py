"""Dyna: the policy goes back to the robot, and world and judge learn from what it does there.

Each round records real rollouts of the policy that is kept, goes on training world and judge on old and new data
together, and then the policy in them (Sutton 1991; World-Gymnast, arXiv 2602.02454). It breaks the optimism that
reinforcement learning finds: where the world imagines successes that do not come, the next round has them on record as
failures.

A round's policy replaces the one that is kept only if an anytime-valid paired test says so (`evaluation.sequential`),
and if it is significantly worse in no task. Both are rolled out greedily on the same layouts for it, and these real
episodes are data for the next round. Without the test a round once replaced a policy of 70 % by one of 61 %.

Each stage is a folder of its own and is skipped when it is finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import Between, Count, NonEmpty, NonNegative, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import FieldError, InputError
from worldgymnast.evaluation.sequential import ALPHA_REPLACE, PairedEvidence, worse_strata
from worldgymnast.evaluation.success import Outcome
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.gate import cut
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.protocols import Policy, TrainableJudge, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.record import PolicyRecordConfig, record_policy_to
from worldgymnast.recipes.relearn import Relearning, relearn_judge, relearn_world
from worldgymnast.records import DECISIONS
from worldgymnast.registry import EnvironmentConfig, environment, to_dict
from worldgymnast.rl.reinforce import ReinforceConfig, evaluation_steps
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import Run, stage
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.weights import identity, write_text


@checked
class DynaConfig(Relearning):
    """Rounds, what a robot may do in them, and how world and judge learn from it.

    Attributes:
        rounds: how many.
        budget: real episodes in all rounds together, the tests and the scorings during RL included; the final
            evaluation is not.
        pairs: layouts a task on which a round's policy is tested against the one that is kept, greedily.
        alpha: largest probability with which a round replaces a policy by one that is no better.
        temperatures: at which the policy is recorded besides, in equal parts.
        length: actions in a recorded episode.
        layout: first layout of the recordings; the tests' come first.
        env: the real environment.
        finetune: RL and its scorings.
        photographs: new layouts a task that RL starts from.
        photograph_layout: first of these layouts.
        score: the final paired evaluation of every round's policy.
        seed: of everything.
    """

    rounds: Positive = 2
    budget: Count = 600
    pairs: Positive = 16
    alpha: Annotated[float, Between(1e-6, 1)] = ALPHA_REPLACE
    temperatures: Annotated[tuple[NonNegative, ...], NonEmpty] = (0.5, 1.0)
    length: Positive = 32
    layout: Count = 8_000_000
    env: EnvironmentConfig = EnvironmentConfig()
    finetune: FinetuneConfig = FinetuneConfig(ReinforceConfig(steps=12, evaluate_every=6), ScoringConfig(per_task=4))
    photographs: Positive = 30
    photograph_layout: Count = 6_000_000
    score: ScoreConfig = ScoreConfig(per_task=20, first_layout=7_000_000)
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.per_temperature < 1:
            raise FieldError(
                "budget",
                f"found {self.budget} real episodes for {self.rounds} rounds, of which the scorings of "
                f"RL take {self.rounds * self.scored} and the tests {self.tested}; expected at least "
                f"{self.rounds * (self.scored + self._least) + self.tested}, one more for every round, task and "
                "temperature; raise it, or lower the rounds, their scorings or --pairs",
            )

    @property
    def _least(self) -> int:
        return len(self.temperatures) * len(self.env.tasks)

    @property
    def scored(self) -> int:
        """Real episodes that the scorings of one round take."""
        return len(evaluation_steps(self.finetune.rl)) * self.finetune.scoring.per_task * len(self.env.tasks)

    @property
    def per_temperature(self) -> int:
        """Episodes recorded in a round of each task at each temperature."""
        return ((self.budget - self.tested) // self.rounds - self.scored) // self._least

    @property
    def tested(self) -> int:
        """Real episodes that the tests of all rounds take: those of the first policy, and of every round's."""
        return (self.rounds + 1) * self.pairs * len(self.env.tasks)

    @property
    def test(self) -> PolicyRecordConfig:
        """The layouts that all tests have in common, rolled out greedily."""
        return PolicyRecordConfig((0.0,), self.pairs, self.length, self.layout)


@dataclass(frozen=True)
class Decision:
    """Whether a round's policy replaces the one that is kept.

    Attributes:
        number: of the round.
        evidence: from the pairs.
        worse: tasks in which the new policy is significantly worse.
        is_replaced: whether the new one is kept from now on.
    """

    number: int
    evidence: PairedEvidence
    worse: Sequence[str]
    is_replaced: bool

    def __str__(self) -> str:
        lost = f"; significantly worse: {', '.join(self.worse)}" if self.worse else ""
        verdict = "its policy replaces the one before" if self.is_replaced else "the policy before is kept"
        return f"Round {self.number}: {verdict} ({self.evidence}{lost})."


def decide(number: int, kept: EpisodeSet, new: EpisodeSet, horizon: int, alpha: float) -> Decision:
    """Compares real episodes of two policies on the same layouts.

    Args:
        number: of the round.
        kept: episodes of the policy that is kept.
        new: as many of the round's policy, in the same order.
        horizon: actions by which success counts.
        alpha: of the test.

    Raises:
        InputError: the two do not match.
    """
    if kept.task != new.task:
        raise InputError(
            f"round {number}: found {len(kept)} test episodes of the kept policy and {len(new)} of the new one, on "
            "other tasks. They cannot be paired. Remove the newest folder data/test-N and run the same command again"
        )
    before, after = _outcomes(kept, horizon), _outcomes(new, horizon)
    evidence, worse = PairedEvidence.of(before, after), worse_strata(before, after, new.kinds)
    return Decision(number, evidence, worse, evidence.is_better(alpha) and not worse)


def _outcomes(episodes: EpisodeSet, horizon: int) -> list[Outcome]:
    short = cut(episodes, horizon)
    return [bool(won) if known else None for won, known in zip(short.succeeded, short.labelled, strict=True)]


def recorded_in(out: Path, number: int) -> tuple[Path, Path]:
    """The data sets that a round of the run in OUT learns from: the greedy episodes of the test before, and others."""
    return out / "data" / f"test-{number - 1}", out / "data" / f"round-{number}"


def dyna(
    policy: Path,
    begun: tuple[Policy, WorldModel, TrainableJudge],
    old: EpisodeSet,
    out: Path,
    config: DynaConfig,
    device: str = "cpu",
    imagined: int = 0,
) -> dict[str, Any]:
    """Rounds in OUT/data, OUT/world-N, OUT/judge-N and OUT/rl-N; returns OUT/evaluation.json.

    Args:
        policy: the file of the policy to begin with.
        begun: that policy, and the world model and the judge to begin with.
        old: what world and judge were trained on, with labels.
        out: the run folder.
        config: the rounds.
        device: where to train.
        imagined: layouts a task that the evaluation imagines and does not play.
    """
    kept, world, judge = begun
    inputs = {"policy": identity(kept), "world": identity(world), "judge": identity(judge), "data": data_hash(old)}
    env, recorded, decisions = environment(config.env), [old], list[Decision]()
    policies = {"before": Contender(policy, (config.seed,))}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        starts = PhotographedStarts(env, config.photographs, config.photograph_layout)
        with stage(out, "test 0"):
            shown = newest = record_policy_to(recorded_in(out, 1)[0], kept, env, config.test)
        for number in range(1, config.rounds + 1):
            folder = {name: out / f"{name}-{number}" for name in ("world", "judge", "rl")}
            seed = config.seed + number
            with stage(out, f"record {number}"):
                asked = PolicyRecordConfig(
                    config.temperatures, config.per_temperature, config.length, config.layout + 10_000 * number
                )
                sampled = record_policy_to(recorded_in(out, number)[1], kept, env, asked)
                recorded.append(concatenate([newest, sampled]))
            with stage(out, f"world {number}"):
                world = relearn_world(recorded, world, folder["world"], config, seed, device)
            with stage(out, f"judge {number}"):
                judge = relearn_judge(recorded, world, judge, folder["judge"], config, seed, device)
            with stage(out, f"reinforce {number}"):
                rl = replace(config.finetune.rl, seed=seed)
                imagine, scorer = Imagination.of(kept, world, judge, rl.horizon), Scorer(env, config.finetune.scoring)
                acting = finetune(kept, imagine, starts, folder["rl"], rl, scorer).policy
            with stage(out, f"test {number}"):
                newest = record_policy_to(recorded_in(out, number + 1)[0], acting, env, config.test)
                decisions.append(decide(number, shown, newest, env.horizon, config.alpha))
                print(decisions[-1])
                _file(out / DECISIONS, decisions)
            policies[f"round {number}"] = list(policies.values())[-1]
            if decisions[-1].is_replaced:
                kept, shown = acting, newest
                policies[f"round {number}"] = Contender(folder["rl"] / "policy.safetensors", (config.seed,))
        with stage(out, "real evaluation"):
            found = evaluate(out / "evaluation.json", policies, env, config.score, device, world, judge, imagined)
        sampled_episodes = config.rounds * (config.scored + config.per_temperature * config._least)
        run.finish({"real_episodes": float(sampled_episodes + config.tested)})
    return found


def _file(file: Path, decisions: Sequence[Decision]) -> None:
    rows = [
        {"round": d.number, "wins": d.evidence.wins, "losses": d.evidence.losses, "ties": d.evidence.ties,
         "evidence": d.evidence.better, "worse": list(d.worse), "replaced": d.is_replaced, "said": str(d)}
        for d in decisions
    ]  # fmt: skip
    write_text(file, json.dumps(rows, indent=2) + "\n")
