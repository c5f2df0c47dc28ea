"""The whole method from scratch: record, imitate, record the policy, world model, judge, explore, gate, RL, evaluate.

RL exploits errors of a world model that a gate on rollouts of the imitation policy cannot detect. So there are
exploration rounds first: some policies, *explorers*, are finetuned in the newest world model and recorded for real, and
world model and judge are finetuned on these recordings. The final policies are trained from scratch in the last world
model.

Each stage writes its own folder under OUT and is skipped once finished, so the same command resumes. `quickstart` is
the last part of this recipe, on the shipped components.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import LATER, Between, Count, Seeds, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.agreement import GATE
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.gate import fidelity, gate
from worldgymnast.measure.real import ScoreConfig, Scorer
from worldgymnast.protocols import Judge, Policy, RealEnvironment, TrainableJudge, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_explorers, record_policy_to, record_to
from worldgymnast.recipes.relearn import RelearnConfig, relearn_judge, relearn_world
from worldgymnast.records import read_object
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
class ExplorationConfig:
    """Exploration rounds: RL exposes errors of a world model, which is then finetuned on real rollouts.

    Attributes:
        rounds: number of rounds; 0 disables them.
        explorers: explorers per round.
        explore: RL of the explorers, without real evaluations; only their real rollouts are used.
        explored: recording of each explorer.
        planned: record what each explorer does in the world model, executed for real without looking (see
            `surrogates.plans`), instead of its real rollouts.
        again: finetuning of world model and judge on the recordings.
    """

    rounds: Count = 2
    explorers: Annotated[int, Between(1, 10)] = 3
    explore: ReinforceConfig = ReinforceConfig(steps=20, keep_best=False)
    explored: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 16, seed=2_050_000)
    planned: bool = field(default=False, metadata=LATER)
    again: RelearnConfig = RelearnConfig(
        0.4, WorldTraining(fit=FitConfig(steps=500, lr=7e-4, ema=0.995)), JudgeTraining(fit=FitConfig(1500, lr=5e-4))
    )


@checked
class Recipe(ExplorationConfig):
    """Everything `reproduce` does.

    Attributes:
        env: the real environment.
        record: demonstrations, noisy experts and play.
        policy: imitation.
        rollouts: labeled rollouts of the policy, for world model and judge.
        held_out: held-out rollouts of the same policy.
        world: training of the world model.
        judge: training of the judge.
        adapted: steps of further imitation, at half the learning rate, in which the demonstrations are also imagined
            in the last world model (see `training.policy.with_replays`); RL starts from the result. 0 for none.
        finetune: RL.
        seeds: RL seeds.
        score: the final paired evaluation.
    """

    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    record: RecordConfig = RecordConfig()
    policy: PolicyTraining = PolicyTraining()
    rollouts: PolicyRecordConfig = PolicyRecordConfig()
    held_out: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 15, seed=3_000_000)
    world: WorldTraining = WorldTraining()
    judge: JudgeTraining = JudgeTraining()
    adapted: Count = field(default=0, metadata=LATER)
    finetune: FinetuneConfig = FinetuneConfig()
    seeds: Seeds = (0, 1, 2)
    score: ScoreConfig = ScoreConfig()

    def __post_init__(self) -> None:
        if self.record.expert < (needed := self.policy.demonstrations):
            raise FieldError(
                "record.expert",
                f"found {self.record.expert} demonstrations per task, expected at least {needed} "
                "(--policy.demonstrations)",
            )


def reproduce(out: Path, recipe: Recipe, device: str = "cpu", imagined: int = 0) -> dict[str, Any]:
    """Run every unfinished stage, and return the outcomes of `evaluate`; see there for `imagined`."""
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
    first_round = round_folder(out, 1, recipe)
    with stage(out, "world model"):
        world = train_world(episodes, first_round / "world", recipe.world, device)
    with stage(out, "judge"):
        judge = train_judge(episodes, world, first_round / "judge", recipe.judge, device, require_both=False)

    def train_explorer(number: int, seed: int, world: WorldModel, judge: Judge) -> Policy:
        imagine = Imagination.of(policy, world, judge, recipe.explore.horizon, recipe.explore.execute)
        starts = EpisodeStarts(episodes, env.tasks, recipe.explore.middle)
        folder = round_folder(out, number, recipe) / f"rl-{seed}"
        return finetune(policy, imagine, starts, folder, replace(recipe.explore, seed=seed)).policy

    world, judge = explore(out, world, judge, episodes, train_explorer, [env], recipe, device)
    with stage(out, "gate"):
        check_gate(out / "gate.json", world, judge, held, recipe)
    start = out / "sft"
    if recipe.adapted:
        with stage(out, "adapt"):
            start = out / "adapted"
            policy = train_policy(logged, start, adaptation(recipe), device, start=policy, world=world)
    for seed in recipe.seeds:
        with stage(out, f"reinforce {seed}"):
            rl = replace(recipe.finetune.rl, seed=seed)
            imagine = Imagination.of(policy, world, judge, rl.horizon, rl.execute)
            starts = EpisodeStarts(episodes, env.tasks, rl.middle)
            finetune(policy, imagine, starts, out / f"rl-{seed}", rl, Scorer(env, recipe.finetune.scoring))
    with stage(out, "evaluate"):
        policies = {"sft": Contender(start / "policy.safetensors", recipe.seeds)}
        policies |= {f"rl-{s}": Contender(out / f"rl-{s}" / "policy.safetensors", (s,)) for s in recipe.seeds}
        return evaluate(out / "evaluation.json", policies, env, recipe.score, device, world, judge, imagined)


def adaptation(recipe: Recipe) -> PolicyTraining:
    """Return the training of `Recipe.adapted`."""
    fit = recipe.policy.fit
    return replace(recipe.policy, fit=replace(fit, steps=recipe.adapted, lr=fit.lr / 2))


def round_folder(out: Path, number: int, config: ExplorationConfig) -> Path:
    """Return the folder of a round's world model, judge and explorers; OUT after the last round.

    Args:
        out: the run folder.
        number: number of the round, from 1.
        config: the rounds.
    """
    return out / f"round-{number}" if number <= config.rounds else out


TrainExplorer = Callable[[int, int, WorldModel, Judge], Policy]
"""Finetunes an explorer, given the number of the round, a seed, the world model and the judge."""


def explore(
    out: Path,
    world: WorldModel,
    judge: TrainableJudge,
    old: EpisodeSet,
    train_explorer: TrainExplorer,
    scenes: Sequence[RealEnvironment],
    config: ExplorationConfig,
    device: str = "cpu",
) -> tuple[WorldModel, TrainableJudge]:
    """Run the exploration rounds; return the finetuned world model and judge.

    Repeat it after every change of a world model: it then has new errors that earlier explorers could not expose.

    Args:
        out: the run folder; see `round_folder`. Recordings are OUT/data/explored-N.
        world: the world model to explore.
        judge: its judge.
        old: training data of both.
        train_explorer: finetunes an explorer.
        scenes: the real environments of the recordings, in turn.
        config: the rounds.
        device: of the training.
    """
    recorded = [old]
    for number in range(1, config.rounds + 1):
        next_folder = round_folder(out, number + 1, config)
        with stage(out, f"explore {number}"):
            explorers = [train_explorer(number, 10 * number + i, world, judge) for i in range(config.explorers)]
        with stage(out, f"record the explorers {number}"):
            first = len(recorded) - 1
            where = world if config.planned else None
            recorded += record_explorers(out / "data", explorers, scenes, config.explored, first, where)
        with stage(out, f"world model after round {number}"):
            world = relearn_world(recorded, world, next_folder / "world", config.again, number, device)
        with stage(out, f"judge after round {number}"):
            judge = relearn_judge(recorded, world, judge, next_folder / "judge", config.again, number, device)
    return world, judge


def check_gate(file: Path, world: WorldModel, judge: Judge, held: EpisodeSet, recipe: Recipe) -> Metrics:
    """Measure gate and fidelity of the world model on held-out rollouts; save them to `file`."""
    if file.exists():
        return read_object(file)
    chunk, horizon = recipe.policy.policy.chunk, recipe.finetune.rl.horizon
    results: dict[str, Any] = dict(gate(world, judge, held, horizon=horizon, stride=chunk, seed=0))
    length = min(30, int(held.length.min()))
    results["fidelity"] = {k: v.tolist() for k, v in fidelity(world, held, length, seed=0).items()}
    write_text(file, json.dumps(results, indent=2) + "\n")
    negative, positive = results["imagined_true_negative"], results["imagined_true_positive"]
    if not min(negative, positive) >= GATE:
        print(
            f"{file}: gate below target: world model and judge recognize {negative:.0%} of true failures and "
            f"{positive:.0%} of true successes (target {GATE:.0%} each). RL results may be optimistic. Monitor the gap "
            "between imagined and real success.",
            file=sys.stderr,
        )
    return results
