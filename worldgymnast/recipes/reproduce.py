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
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.agreement import GATE
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.gate import fidelity, gate
from worldgymnast.measure.real import ScoreConfig, layouts, photographs, real_env, row, trials
from worldgymnast.measure.unplayed import FIRST, imagine_unplayed
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.protocols import Judge, Policy, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, finetune, from_episodes
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_explorers, record_policy_to, record_to
from worldgymnast.recipes.relearn import Relearning, relearn_judge, relearn_world
from worldgymnast.records import UNPLAYED, read_object, read_outcomes
from worldgymnast.registry import load_policy
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.run import stage
from worldgymnast.surrogates.imagination import Imagination, Surrogate, score_in
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.training.world import WorldTraining, train_world
from worldgymnast.types import Metrics, Rollout, Start
from worldgymnast.weights import write_text
from worldgymnast.worldmodel.sampler import LatentWorldModel


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
    explore: FinetuneConfig = FinetuneConfig(rl=ReinforceConfig(steps=20, evaluate_starts=0, keep_best=False))
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

    env: MetaWorldConfig = MetaWorldConfig()
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


def seeded(config: FinetuneConfig, seed: int) -> FinetuneConfig:
    """The same training with another seed."""
    return replace(config, rl=replace(config.rl, seed=seed))


def reproduce(out: Path, recipe: Recipe, device: str = "cpu", imagined: int = 0) -> dict[str, Any]:
    """Runs every stage that is not finished; returns what `evaluate` found. `imagined`: see there."""
    out.mkdir(parents=True, exist_ok=True)
    with stage(out, "record"):
        logged = record_to(out / "data" / "logged", recipe.record)
    with stage(out, "imitate"):
        policy = train_policy(logged, out / "sft", recipe.policy, device)
    with stage(out, "record the policy"):
        own = record_policy_to(out / "data" / "policy", policy, recipe.env, recipe.rollouts)
        held = record_policy_to(out / "data" / "held_out", policy, recipe.env, recipe.held_out)
    episodes = concatenate([logged, own])
    begun = round_folder(out, 1, recipe)
    with stage(out, "world model"):
        world = train_world(episodes, begun / "world", recipe.world, device)
    with stage(out, "judge"):
        judge = train_judge(episodes, world, begun / "judge", recipe.judge, device)

    def practise(number: int, seed: int, world: LatentWorldModel, judge: SuccessClassifier) -> SmallVLA:
        return _finetuned(policy, world, judge, episodes, round_folder(out, number, recipe), seed, recipe.explore)

    world, judge = explore(out, world, judge, episodes, practise, [recipe.env], recipe, device)
    with stage(out, "gate"):
        check_world(out / "gate.json", world, judge, held, recipe)
    for seed in recipe.seeds:
        with stage(out, f"reinforce {seed}"):
            _finetuned(policy, world, judge, episodes, out, seed, recipe.finetune)
    with stage(out, "evaluate"):
        policies = {"sft": out / "sft" / "policy.safetensors"}
        policies |= {f"rl-{s}": out / f"rl-{s}" / "policy.safetensors" for s in recipe.seeds}
        return evaluate(out / "evaluation.json", policies, recipe, device, world, judge, imagined)


def round_folder(out: Path, number: int, config: Exploring) -> Path:
    """Where world and judge lie that the explorers of a round are finetuned in, and the explorers; OUT after them all.

    Args:
        out: the run folder.
        number: of the round, from 1; that of the last one plus 1 for what follows.
        config: the rounds.
    """
    return out / f"round-{number}" if number <= config.rounds else out


Practise = Callable[[int, int, LatentWorldModel, SuccessClassifier], SmallVLA]
"""An explorer: number of the round, seed, and the world and the judge that it is finetuned in."""


def explore(
    out: Path,
    world: LatentWorldModel,
    judge: SuccessClassifier,
    old: EpisodeSet,
    practise: Practise,
    scenes: Sequence[MetaWorldConfig],
    config: Exploring,
    device: str = "cpu",
) -> tuple[LatentWorldModel, SuccessClassifier]:
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


def _finetuned(
    policy: SmallVLA,
    world: LatentWorldModel,
    judge: SuccessClassifier,
    episodes: EpisodeSet,
    out: Path,
    seed: int,
    config: FinetuneConfig,
) -> SmallVLA:
    """RL from frames of `episodes`; OUT/rl-SEED."""
    imagine = Imagination.of(policy, world, judge, config.rl.horizon)
    starts = from_episodes(episodes, config.env.tasks, config.rl.middle)
    data, device = data_hash(episodes), str(world.device)
    return finetune(policy, imagine, starts, out / f"rl-{seed}", seeded(config, seed), device, data)


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


def evaluate(
    file: Path,
    policies: dict[str, Path],
    recipe: Recipe,
    device: str,
    world: WorldModel | None = None,
    judge: Judge | None = None,
    imagined: int = 0,
) -> dict[str, Any]:
    """Real outcomes of every policy on the same starts, kept in `file` policy by policy.

    Args:
        file: where they are kept.
        policies: files by name; a file that comes again is evaluated once.
        recipe: the environment, the layouts and the seeds.
        device: where policies and world compute.
        world: with `judge`, the same starts are imagined, too.
        judge: says how they ended.
        imagined: layouts a task and seed that are imagined and not played, see `measure.unplayed`.
    """
    found: dict[str, Any] = read_outcomes(file)
    missing = {name: path for name, path in policies.items() if name not in found}
    if not missing and not imagined:
        return found
    loaded = {name: load_policy(path, device) for name, path in (policies if imagined else missing).items()}
    first = next(iter(loaded.values()))
    imagine = None
    if world is not None and judge is not None:
        imagine = Imagination.of(first, world, judge, recipe.env.horizon)
    if missing:
        _play(file, found, policies, {name: loaded[name] for name in missing}, imagine, recipe)
    if imagined and imagine is not None:
        _imagine_more(file.with_name(UNPLAYED), loaded, imagine, recipe, imagined)
    return found


def _play(
    file: Path,
    found: dict[str, Any],
    files: dict[str, Path],
    policies: dict[str, SmallVLA],
    imagine: Imagination | None,
    recipe: Recipe,
) -> None:
    """Adds the rows of `policies` to `found` and to `file`."""
    chunk = next(iter(policies.values())).config.chunk
    env = real_env(recipe.env, chunk, recipe.score.workers, every=chunk)
    try:
        for name, policy in policies.items():
            same = [
                other
                for other in found
                if files.get(other) == files[name] and _seeds(other, recipe) == _seeds(name, recipe)
            ]
            found[name] = found[same[0]] if same else _outcomes(policy, env, imagine, recipe, name)
            write_text(file, json.dumps(found) + "\n")
    finally:
        env.close()


def _imagine_more(file: Path, policies: dict[str, SmallVLA], surrogate: Surrogate, recipe: Recipe, count: int) -> None:
    """Imagined outcomes of `count` further layouts a task and seed."""
    score = recipe.score

    def starts(seed: int) -> list[Start]:
        return photographs(recipe.env, count, score.first_layout + seed * 1000 + FIRST)

    def imagine(policy: Policy, chosen: Sequence[Start], seed: int, said: str) -> list[Rollout]:
        return score_in(
            surrogate, policy, chosen, rows=recipe.finetune.rl.rows, temperature=score.temperature, seed=seed, said=said
        )

    imagine_unplayed(file, {name: (p, _seeds(name, recipe)) for name, p in policies.items()}, starts, imagine)


def _seeds(name: str, recipe: Recipe) -> Sequence[int]:
    """RL seed s is scored on layouts of its own, any other policy on those of every seed."""
    return [int(name.removeprefix("rl-"))] if name.startswith("rl-") else recipe.seeds


def _outcomes(
    policy: SmallVLA, env: Any, surrogate: Surrogate | None, recipe: Recipe, name: str
) -> list[dict[str, Any]]:
    """One row per episode."""
    temperature, side_by_side = recipe.score.temperature, recipe.finetune.rl.rows
    rows = []
    for seed in _seeds(name, recipe):
        starts = layouts(recipe.env, recipe.score.per_task, recipe.score.first_layout + seed * 1000)
        what = f"evaluating {name} on the layouts of seed {seed}"
        truly = trials(policy, env, starts, temperature=temperature, seed=seed, what=what)
        part = [row(rollout, seed) for rollout in truly]
        if surrogate is not None:
            seen = [r.start for r in truly]
            dreamt = score_in(
                surrogate, policy, seen, rows=side_by_side, temperature=temperature, seed=seed,
                said=f"imagining {name} on the same layouts",
            )  # fmt: skip
            part = [real | {"imagined": r.verdict.succeeded} for real, r in zip(part, dreamt, strict=True)]
        rows += part
    return rows
