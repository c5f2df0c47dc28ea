"""Dyna: alternates real recordings of the policy, retraining of world model and judge, and RL.

Each round records real rollouts of the kept policy, finetunes world model and judge on old and new data, and then
trains the policy in them (Sutton 1991; World-Gymnast, arXiv 2602.02454). This corrects the optimism that RL exploits:
where the world model imagines false successes, the next round has recorded failures.

The policy of a round replaces the kept one only if an anytime-valid paired test favors it (`evaluation.sequential`),
and it is significantly worse in no task. For the test both are rolled out greedily on the same layouts, and these real
episodes are data for the next round. Without the test, a round once replaced a policy of 70% by one of 61%.

Each stage has its own folder and is skipped once finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import LATER, Between, Count, NonEmpty, NonNegative, Positive, Seed, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment, task_names
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import FieldError, InputError
from worldgymnast.evaluation.sequential import ALPHA_REPLACE, PairedEvidence, worse_strata
from worldgymnast.evaluation.success import Outcome
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.gate import truncate
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.protocols import Policy, TrainableJudge, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.record import PolicyRecordConfig, record_policy_to
from worldgymnast.recipes.relearn import RelearnConfig, relearn_judge, relearn_world
from worldgymnast.records import DECISIONS
from worldgymnast.registry import to_dict
from worldgymnast.rl.reinforce import ReinforceConfig, evaluation_steps
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import Run, stage
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.weights import identity, write_text


@checked
class DynaConfig(RelearnConfig):
    """Rounds, budget of real episodes, and training.

    Attributes:
        rounds: number of rounds.
        budget: real episodes over all rounds, including tests and the evaluations during RL, but not the final
            evaluation.
        pairs: layouts per task on which the policy of a round is tested against the kept one, greedily.
        alpha: largest probability that a round replaces a policy by one that is no better.
        temperatures: sampling temperatures of the other recordings, in equal parts.
        length: actions per recorded episode.
        layout: first layout of the recordings; those of the tests come first.
        env: the real environment.
        planned: make these recordings of what the newest policy does in the newest world model, executed for real
            without looking (see `surrogates.plans`), instead of its real rollouts.
        finetune: RL and its evaluations.
        photographs: new layouts per task that RL starts from.
        photograph_layout: first of these layouts.
        score: the final paired evaluation of the policy of every round.
        seed: of everything.
    """

    rounds: Positive = 2
    budget: Count = 600
    pairs: Positive = 16
    alpha: Annotated[float, Between(1e-6, 1)] = ALPHA_REPLACE
    temperatures: Annotated[tuple[NonNegative, ...], NonEmpty] = (0.5, 1.0)
    length: Positive = 32
    layout: Count = 8_000_000
    planned: bool = field(default=False, metadata=LATER)
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    finetune: FinetuneConfig = FinetuneConfig(ReinforceConfig(steps=12, evaluate_every=6), ScoringConfig(per_task=4))
    photographs: Positive = 30
    photograph_layout: Count = 6_000_000
    score: ScoreConfig = ScoreConfig(per_task=20, first_layout=7_000_000)
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.per_temperature < 1:
            raise FieldError(
                "budget",
                f"found {self.budget} real episodes for {self.rounds} rounds, of which the evaluations during RL take "
                f"{self.rounds * self.scored} and the tests {self.tested}; expected at least "
                f"{self.rounds * (self.scored + self._least) + self.tested}, which leaves one per round, task and "
                "temperature. Raise it, or lower the rounds, their evaluations or --pairs",
            )

    @property
    def _least(self) -> int:
        return len(self.temperatures) * len(task_names(self.env))

    @property
    def scored(self) -> int:
        """Real episodes of the evaluations in one round."""
        return len(evaluation_steps(self.finetune.rl)) * self.finetune.scoring.per_task * len(task_names(self.env))

    @property
    def per_temperature(self) -> int:
        """Recorded episodes per round, task and temperature."""
        return ((self.budget - self.tested) // self.rounds - self.scored) // self._least

    @property
    def tested(self) -> int:
        """Real episodes of all tests: those of the first policy and of every round's policy."""
        return (self.rounds + 1) * self.pairs * len(task_names(self.env))

    @property
    def test(self) -> PolicyRecordConfig:
        """Recording of the common layouts of all tests, rolled out greedily."""
        return PolicyRecordConfig((0.0,), self.pairs, self.length, self.layout)


@dataclass(frozen=True)
class Decision:
    """Decision whether the policy of a round replaces the kept one.

    Attributes:
        number: number of the round.
        evidence: of the pairs.
        worse: tasks in which the new policy is significantly worse.
        is_replaced: whether the new policy is kept.
    """

    number: int
    evidence: PairedEvidence
    worse: Sequence[str]
    is_replaced: bool

    def __str__(self) -> str:
        worse = f"; significantly worse: {', '.join(self.worse)}" if self.worse else ""
        decision = "its policy replaces the previous one" if self.is_replaced else "the previous policy is kept"
        return f"Round {self.number}: {decision} ({self.evidence}{worse})."


def decide(number: int, kept: EpisodeSet, new: EpisodeSet, horizon: int, alpha: float) -> Decision:
    """Compare real episodes of two policies on the same layouts.

    Args:
        number: number of the round.
        kept: episodes of the kept policy.
        new: episodes of the new policy, in the same order.
        horizon: actions within which success counts.
        alpha: of the test.

    Raises:
        InputError: the episodes have different tasks.
    """
    if kept.task != new.task:
        raise InputError(
            f"round {number}: {len(kept)} test episodes of the kept policy and {len(new)} of the new one are on "
            "different tasks, so they cannot be paired. Remove the newest folder data/test-N, then rerun the same "
            "command"
        )
    before, after = _outcomes(kept, horizon), _outcomes(new, horizon)
    evidence, worse = PairedEvidence.of(before, after), worse_strata(before, after, new.kinds)
    return Decision(number, evidence, worse, evidence.is_better(alpha) and not worse)


def _outcomes(episodes: EpisodeSet, horizon: int) -> list[Outcome]:
    """Return the outcomes within `horizon` actions; None without a label."""
    first = truncate(episodes, horizon)
    return [bool(won) if known else None for won, known in zip(first.succeeded, first.labelled, strict=True)]


def recording_folders(out: Path, number: int) -> tuple[Path, Path]:
    """Return the data sets of a round: the greedy episodes of the previous test, and the other recordings."""
    return out / "data" / f"test-{number - 1}", out / "data" / f"round-{number}"


def dyna(
    policy: Path,
    initial: tuple[Policy, WorldModel, TrainableJudge],
    old: EpisodeSet,
    out: Path,
    config: DynaConfig,
    device: str = "cpu",
    imagined: int = 0,
) -> dict[str, Any]:
    """Run all rounds in OUT/data, OUT/world-N, OUT/judge-N and OUT/rl-N; return OUT/evaluation.json.

    Args:
        policy: file of the initial policy.
        initial: the initial policy, world model and judge.
        old: labeled training data of world model and judge.
        out: the run folder.
        config: the rounds.
        device: of the training.
        imagined: additional layouts per task that the evaluation only imagines.
    """
    kept, world, judge = initial
    trained = kept
    inputs = {"policy": identity(kept), "world": identity(world), "judge": identity(judge), "data": data_hash(old)}
    env, recorded, decisions = environment(config.env), [old], list[Decision]()
    policies = {"before": Contender(policy, (config.seed,))}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        starts = PhotographedStarts(env, config.photographs, config.photograph_layout)
        with stage(out, "test 0"):
            kept_test = newest = record_policy_to(recording_folders(out, 1)[0], kept, env, config.test)
        for number in range(1, config.rounds + 1):
            folder = {name: out / f"{name}-{number}" for name in ("world", "judge", "rl")}
            seed = config.seed + number
            with stage(out, f"record {number}"):
                request = PolicyRecordConfig(
                    config.temperatures, config.per_temperature, config.length, config.layout + 10_000 * number
                )
                actor, where = (trained, world) if config.planned else (kept, None)
                sampled = record_policy_to(recording_folders(out, number)[1], actor, env, request, where)
                recorded.append(concatenate([newest, sampled]))
            with stage(out, f"world {number}"):
                world = relearn_world(recorded, world, folder["world"], config, seed, device)
            with stage(out, f"judge {number}"):
                judge = relearn_judge(recorded, world, judge, folder["judge"], config, seed, device)
            with stage(out, f"reinforce {number}"):
                rl = replace(config.finetune.rl, seed=seed)
                imagine = Imagination.of(kept, world, judge, rl.horizon, rl.execute)
                scorer = Scorer(env, config.finetune.scoring)
                trained = finetune(kept, imagine, starts, folder["rl"], rl, scorer).policy
            with stage(out, f"test {number}"):
                newest = record_policy_to(recording_folders(out, number + 1)[0], trained, env, config.test)
                decisions.append(decide(number, kept_test, newest, env.horizon, config.alpha))
                print(decisions[-1])
                _write_decisions(out / DECISIONS, decisions)
            policies[f"round {number}"] = list(policies.values())[-1]
            if decisions[-1].is_replaced:
                kept, kept_test = trained, newest
                policies[f"round {number}"] = Contender(folder["rl"] / "policy.safetensors", (config.seed,))
        with stage(out, "real evaluation"):
            outcomes = evaluate(out / "evaluation.json", policies, env, config.score, device, world, judge, imagined)
        sampled_episodes = config.rounds * (config.scored + config.per_temperature * config._least)
        run.finish({"real_episodes": float(sampled_episodes + config.tested)})
    return outcomes


def _write_decisions(file: Path, decisions: Sequence[Decision]) -> None:
    rows = [
        {
            "round": decision.number,
            "wins": decision.evidence.wins,
            "losses": decision.evidence.losses,
            "ties": decision.evidence.ties,
            "evidence": decision.evidence.better,
            "worse": list(decision.worse),
            "replaced": decision.is_replaced,
            "said": str(decision),
        }
        for decision in decisions
    ]
    write_text(file, json.dumps(rows, indent=2) + "\n")
