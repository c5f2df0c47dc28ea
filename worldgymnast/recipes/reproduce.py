"""The whole method from nothing: record, imitate, record the policy, world, judge, explore, gate, RL, evaluate, report.

Reinforcement learning finds what is wrong in a world model, and a gate that asks about the imitation policy cannot see
it. So there are rounds first: some policies, *explorers*, are finetuned in the newest world and recorded for real, and
world and judge go on learning from what they did. The policies that count begin anew in the last world.

Each stage writes a folder of its own under OUT and is skipped when it is finished, so the same command goes on where it
was stopped. `quickstart` is the end of the same recipe on the components that are shipped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import Between, Count, Seeds, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.agreement import GATE
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.gate import fidelity, gate
from worldgymnast.measure.real import ScoreConfig, Scorer
from worldgymnast.protocols import Judge, Policy, RealEnvironment, TrainableJudge, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_explorers, record_policy_to, record_to
from worldgymnast.recipes.relearn import Relearning, relearn_judge, relearn_world
from worldgymnast.records import read_object
from worldgymnast.registry import EnvironmentConfig, environment
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts
from worldgymnast.run import stage
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.training.world import WorldTraining, train_world
from worldgymnast.types import Metrics
from worldgymnast.weights import write_text


@checked
class Exploring:
    """Rounds of exploring: reinforcement learning shows what a world has wrong, and the world learns from that.

    Attributes:
        rounds: how many; 0 for none.
        explorers: policies that explore in a round.
        explore: their RL; it is not scored, and nothing of it is kept but their real rollouts.
        explored: the rollouts of each.
        again: how world and judge go on learning from them.
    """

    rounds: Count = 2
    explorers: Annotated[int, Between(1, 10)] = 3
    explore: ReinforceConfig = ReinforceConfig(steps=20, keep_best=False)
    explored: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 16, seed=2_050_000)
    again: Relearning = Relearning(
        0.4, WorldTraining(fit=FitConfig(steps=500, lr=7e-4, ema=0.995)), JudgeTraining(fit=FitConfig(1500, lr=5e-4))
    )


@checked
class Recipe(Exploring):
    """Everything `reproduce` does.

    Attributes:
        env: the real environment.
        record: demonstrations, noisy experts and play.
        policy: imitation.
        rollouts: the policy's own labelled rollouts, for world and judge.
        held_out: rollouts of the same policy that nothing is trained on.
        world: its training.
        judge: its training.
        finetune: RL.
        seeds: RL seeds.
        score: the final paired evaluation.
    """

    env: EnvironmentConfig = EnvironmentConfig()
    record: RecordConfig = RecordConfig()
    policy: PolicyTraining = PolicyTraining()
    rollouts: PolicyRecordConfig = PolicyRecordConfig()
    held_out: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 15, seed=3_000_000)
    world: WorldTraining = WorldTraining()
    judge: JudgeTraining = JudgeTraining()
    finetune: FinetuneConfig = FinetuneConfig()
    seeds: Seeds = (0, 1, 2)
    score: ScoreConfig = ScoreConfig()

    def __post_init__(self) -> None:
        if self.record.expert < (wanted := self.policy.demonstrations):
            raise FieldError(
                "record.expert",
                f"found {self.record.expert} demonstrations a task, expected at least the {wanted} of "
                "--policy.demonstrations",
            )


def reproduce(out: Path, recipe: Recipe, device: str = "cpu", imagined: int = 0) -> dict[str, Any]:
    """Runs every stage that is not finished; returns what `evaluate` found. `imagined`: see there."""
    out.mkdir(parents=True, exist_ok=True)
    env = environment(recipe.env)
    with stage(out, "record"):
        logged = record_to(out / "data" / "logged", env, recipe.record)
    with stage(out, "imitate"):
        policy = train_policy(logged, out / "sft", recipe.policy, device)
    with stage(out, "record the policy"):
        own = record_policy_to(out / "data" / "policy", policy, env, recipe.rollouts)
        held = record_policy_to(out / "data" / "held_out", policy, env, recipe.held_out)
    episodes = concatenate([logged, own])
    begun = round_folder(out, 1, recipe)
    with stage(out, "world model"):
        world = train_world(episodes, begun / "world", recipe.world, device)
    with stage(out, "judge"):
        judge = train_judge(episodes, world, begun / "judge", recipe.judge, device)

    def practise(number: int, seed: int, world: WorldModel, judge: Judge) -> Policy:
        imagine = Imagination.of(policy, world, judge, recipe.explore.horizon)
        starts = EpisodeStarts(episodes, env.tasks, recipe.explore.middle)
        place = round_folder(out, number, recipe) / f"rl-{seed}"
        return finetune(policy, imagine, starts, place, replace(recipe.explore, seed=seed)).policy

    world, judge = explore(out, world, judge, episodes, practise, [env], recipe, device)
    with stage(out, "gate"):
        check_world(out / "gate.json", world, judge, held, recipe)
    for seed in recipe.seeds:
        with stage(out, f"reinforce {seed}"):
            rl = replace(recipe.finetune.rl, seed=seed)
            imagine = Imagination.of(policy, world, judge, rl.horizon)
            starts = EpisodeStarts(episodes, env.tasks, rl.middle)
            finetune(policy, imagine, starts, out / f"rl-{seed}", rl, Scorer(env, recipe.finetune.scoring))
    with stage(out, "evaluate"):
        policies = {"sft": Contender(out / "sft" / "policy.safetensors", recipe.seeds)}
        policies |= {f"rl-{s}": Contender(out / f"rl-{s}" / "policy.safetensors", (s,)) for s in recipe.seeds}
        return evaluate(out / "evaluation.json", policies, env, recipe.score, device, world, judge, imagined)


def round_folder(out: Path, number: int, config: Exploring) -> Path:
    """Where world and judge lie that the explorers of a round are finetuned in, and the explorers; OUT after them all.

    Args:
        out: the run folder.
        number: of the round, from 1; that of the last one plus 1 for what follows.
        config: the rounds.
    """
    return out / f"round-{number}" if number <= config.rounds else out


Practise = Callable[[int, int, WorldModel, Judge], Policy]
"""An explorer: number of the round, seed, and the world and the judge that it is finetuned in."""


def explore(
    out: Path,
    world: WorldModel,
    judge: TrainableJudge,
    old: EpisodeSet,
    practise: Practise,
    scenes: Sequence[RealEnvironment],
    config: Exploring,
    device: str = "cpu",
) -> tuple[WorldModel, TrainableJudge]:
    """The rounds: explorers are finetuned and recorded for real, and world and judge go on learning from that.

    To be done after every change of a world: it then has new faults, which earlier explorers could not show.

    Args:
        out: the run folder; see `round_folder`. Recordings are OUT/data/explored-N.
        world: what they explore.
        judge: its judge.
        old: what both have learned from.
        practise: makes an explorer.
        scenes: the real environments in which they are recorded, one after the other.
        config: the rounds.
        device: where to train.
    """
    recorded = [old]
    for number in range(1, config.rounds + 1):
        then = round_folder(out, number + 1, config)
        with stage(out, f"explore {number}"):
            explorers = [practise(number, 10 * number + i, world, judge) for i in range(config.explorers)]
        with stage(out, f"record the explorers {number}"):
            first = len(recorded) - 1
            recorded += record_explorers(out / "data", explorers, scenes, config.explored, first)
        with stage(out, f"world model after round {number}"):
            world = relearn_world(recorded, world, then / "world", config.again, number, device)
        with stage(out, f"judge after round {number}"):
            judge = relearn_judge(recorded, world, judge, then / "judge", config.again, number, device)
    return world, judge


def check_world(file: Path, world: WorldModel, judge: Judge, held: EpisodeSet, recipe: Recipe) -> Metrics:
    """The gate before RL and the fidelity of the world on held-out rollouts; kept in `file`."""
    if file.exists():
        return read_object(file)
    chunk, horizon = recipe.policy.policy.chunk, recipe.finetune.rl.horizon
    found: dict[str, Any] = dict(gate(world, judge, held, horizon=horizon, stride=chunk, seed=0))
    length = min(30, int(held.length.min()))
    found["fidelity"] = {k: v.tolist() for k, v in fidelity(world, held, length, seed=0).items()}
    write_text(file, json.dumps(found, indent=2) + "\n")
    caught = min(found["imagined_true_negative"], found["imagined_true_positive"])
    if not caught >= GATE:
        print(
            f"{file}: world and judge together know {found['imagined_true_negative']:.0%} of the true failures and "
            f"{found['imagined_true_positive']:.0%} of the true successes, expected {GATE:.0%} of each before RL is "
            "trusted: watch the gap between imagined and real success",
            file=sys.stderr,
        )
    return found
