"""Diverse training with distractors, many sentences and more tasks, each tested in the matching place.

The starter world model has only seen a table with the task's object, and blurs any other object. So world model and
judge are finetuned first: on the same episodes with pasted distractors, and on play in further tasks. This *wide* world
model has new errors, so exploration rounds follow. Then the same RL runs in it from plain starts and from each kind of
diverse starts. World-Gymnast (arXiv 2602.02454) evaluates these variants inside its world model, this study for real.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.environments import environment
from worldgymnast.envs.metaworld import EXTRA_TASKS, MetaWorldConfig
from worldgymnast.episodes.shares import check_shares
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.measure.real import (
    Scorer,
    ScoringConfig,
    result_row,
    run_trials,
)
from worldgymnast.protocols import Judge, Policy, RealEnvironment, StartSampler, WorldModel
from worldgymnast.recipes.edit_episodes import with_distractors
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.quickstart import QuickstartConfig, starter, starter_plate
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_to
from worldgymnast.recipes.relearn import RelearnConfig
from worldgymnast.recipes.reproduce import ExplorationConfig, explore, round_folder
from worldgymnast.records import read_outcomes
from worldgymnast.registry import load_editor, load_learned_judge, load_policy, load_world, to_dict
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, MixedStarts, ParaphrasedStarts, PhotographedStarts
from worldgymnast.run import Run
from worldgymnast.scenes.edit import add_distractors
from worldgymnast.scenes.language import AFFORDANCES, sample_instructions
from worldgymnast.scenes.plate import load_plate
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.world import WorldTraining, train_world
from worldgymnast.types import Layout
from worldgymnast.weights import identity, write_text

VARIANTS = ("wide", "distractors", "language", "tasks")
"""Starts of RL in the wide world model: plain photographs, or these and others."""
PLACES = ("clean", "distractors", "paraphrases", "tasks")
"""Test conditions: as trained, with real distractors, with held-out sentences, and on tasks without demonstrations."""

HELD_OUT_SENTENCES: dict[str, tuple[str, ...]] = {
    "drawer-open": ("i need something out of the drawer", "the drawer should stand open", "get the drawer open for me"),
    "drawer-close": ("the drawer should be shut", "put the drawer back into its box", "get the drawer closed for me"),
    "button-press": ("activate the button", "give the red knob a push", "use your finger on the button"),
    "plate-slide": ("bring the black disc to the goal", "score a goal with the disc", "the plate has to go in"),
    "window-open": ("let some air in through the window", "the window should stand open", "shift the window sideways"),
    "door-close": ("the door should be shut", "give the door a push so that it closes", "make the cupboard close"),
}
"""Sentences for tests only; not used for demonstrations, the judge or `scenes.language`."""


EXPLORERS = ("wide", "distractors", "tasks")
"""Variants of the explorers in turn; each is recorded in the matching place."""


@checked
class DiverseConfig(ExplorationConfig):
    """Training, exploration and tests of the wide world model.

    Attributes:
        tasks: further tasks, with play but without demonstrations.
        play: recorded play episodes per further task.
        length: actions per play episode.
        world: finetuning of the starter world model, including its autoencoder.
        shares: shares of its training data: old data, the same with distractors, play, play with distractors.
        judge: finetuning of the starter judge.
        photographs: new layouts per task, whose first frames RL starts from.
        copies: edited copies per photograph.
        sentences: instructions per picture.
        distractors: real distractors in the tests.
        per_task: real episodes per task, policy and place.
        first_layout: first layout of the tests.
        workers: processes of the real environment.
    """

    explored: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 16, seed=2_055_000)
    again: RelearnConfig = replace(ExplorationConfig.again, judge=replace(ExplorationConfig.again.judge, language=True))
    tasks: tuple[str, ...] = EXTRA_TASKS
    play: Count = 160
    length: Positive = RecordConfig.length
    world: WorldTraining = WorldTraining(
        autoencoder=FitConfig(steps=900, lr=1e-3, weight_decay=0.0, ema=0.99),
        fit=FitConfig(steps=800, lr=7e-4, ema=0.995, save_every=100),
        thaw=True,
    )
    shares: tuple[float, float, float, float] = (0.35, 0.3, 0.18, 0.17)
    judge: JudgeTraining = JudgeTraining(fit=FitConfig(steps=2000, lr=7e-4), language=True)
    photographs: Positive = QuickstartConfig().photographs
    copies: Positive = 2
    sentences: Positive = 24
    distractors: Positive = 3
    per_task: Annotated[int, Between(1, 160)] = 20
    first_layout: Count = 1_000_000
    workers: Positive = 2

    def __post_init__(self) -> None:
        check_shares(self.shares, 4)

    def recording(self, env: MetaWorldConfig) -> tuple[RealEnvironment, RecordConfig]:
        """Return the recording of play in the further tasks, with everything else as in `env`."""
        scenes = environment(replace(env, tasks=self.tasks))
        return scenes, RecordConfig(expert=0, noisy=0, play=self.play, length=self.length, workers=self.workers)


def check_diverse(env: MetaWorldConfig, config: DiverseConfig) -> None:
    """Raise InputError unless all tasks have sentences and the further tasks are new."""
    if unknown := [task for task in env.tasks if task not in HELD_OUT_SENTENCES]:
        raise InputError(
            f"--env.tasks: found '{unknown[0]}', which has no test sentences, expected some of "
            f"{', '.join(HELD_OUT_SENTENCES)}. Choose such tasks, or pass --which without diverse"
        )
    if known := [task for task in config.tasks if task in env.tasks]:
        raise InputError(f"--diverse.tasks: found '{known[0]}', expected tasks that are not among --env.tasks")
    if unknown := [task for task in config.tasks if task not in AFFORDANCES]:
        raise InputError(f"--diverse.tasks: found '{unknown[0]}', expected some of {', '.join(AFFORDANCES)}")


def widen(
    out: Path, policy: Policy, old: EpisodeSet, env: MetaWorldConfig, config: DiverseConfig, device: str = "cpu"
) -> None:
    """Make the wide world model and judge in OUT/world and OUT/judge, from the starter's and OUT/data/play.

    Args:
        out: a run folder.
        policy: initial policy of the explorers.
        old: training data of the starter world model and judge.
        env: the real environment of that data.
        config: the training.
        device: of the training.
    """
    initial, judge = load_world(starter("world"), device), load_learned_judge(starter("judge"), device)
    scenes, record = config.recording(env)
    settings: dict[str, Any] = {name: to_dict(getattr(config, name)) for name in ("world", "judge")}
    settings |= {"record": to_dict(record), "env": to_dict(env), "shares": config.shares, "rounds": config.rounds}
    if config.rounds:
        settings |= {name: to_dict(getattr(config, name)) for name in ("explore", "explored", "again")}
        settings |= {"explorers": config.explorers, "policy": identity(policy)}
    inputs = {"data": data_hash(old), "world": identity(initial), "judge": identity(judge)}
    with Run(out, settings | {"inputs": inputs}) as run:
        if run.summary is not None:
            return
        play = record_to(out / "data" / "play", scenes, record)
        editor = load_editor(None, load_plate(starter_plate()))
        among = [from_episodes(list(with_distractors(editor, part, i + 1))) for i, part in enumerate((old, play))]
        sets, first = [old, among[0], play, among[1]], round_folder(out, 1, config)
        world = train_world(sets, first / "world", config.world, device, config.shares, start=initial)
        known = concatenate([old, play, *(part.select(np.arange(0, len(part), 2)) for part in among)])
        judge = train_judge(known, world, first / "judge", config.judge, device, start=judge, require_both=False)

        def train_explorer(number: int, seed: int, world: WorldModel, judge: Judge) -> Policy:
            name, folder = EXPLORERS[seed % 10 % len(EXPLORERS)], round_folder(out, number, config) / f"rl-{seed}"
            practice = (replace(config.explore, seed=seed), None)
            return _finetune(name, policy, (world, judge), out, folder, practice, env, config)

        places = [environment(_scene(name, env, config)) for name in EXPLORERS]
        explore(out, world, judge, known, train_explorer, places, config, device)
        run.finish({})


def _scene(name: str, env: MetaWorldConfig, config: DiverseConfig) -> MetaWorldConfig:
    """Return the real environment in which an explorer is recorded."""
    if name == "tasks":
        return replace(env, tasks=(*env.tasks, *config.tasks))
    return replace(env, distractors=config.distractors) if name == "distractors" else env


def variant(
    name: str,
    policy: Policy,
    wide: Path,
    out: Path,
    practice: tuple[ReinforceConfig, ScoringConfig | None],
    env: MetaWorldConfig,
    config: DiverseConfig,
    device: str = "cpu",
) -> Policy:
    """Run RL of `policy` in the wide world model from the starts of a variant.

    Write OUT/policy.safetensors.
    """
    world = load_world(wide / "world" / "world.safetensors", device)
    judge = load_learned_judge(wide / "judge" / "judge.safetensors", device)
    return _finetune(name, policy, (world, judge), wide, out, practice, env, config)


def _finetune(
    name: str,
    policy: Policy,
    parts: tuple[WorldModel, Judge],
    wide: Path,
    out: Path,
    practice: tuple[ReinforceConfig, ScoringConfig | None],
    env: MetaWorldConfig,
    config: DiverseConfig,
) -> Policy:
    """Run RL of `policy` with this world model and judge from the starts of a variant."""
    rl, scoring = practice
    if name == "tasks":
        env, rl = replace(env, tasks=(*env.tasks, *config.tasks)), replace(rl, curriculum=True)
    imagine = Imagination.of(policy, *parts, rl.horizon)
    scorer = None if scoring is None else Scorer(environment(env), scoring)
    return finetune(policy, imagine, _starts(name, env, wide, config), out, rl, scorer).policy


def _starts(name: str, env: MetaWorldConfig, wide: Path, config: DiverseConfig) -> StartSampler:
    """Return the starts of a variant.

    "wide": plain photographs. "distractors": half of them edited. "language": with many sentences. "tasks": photographs
    of all tasks, and frames from play in the further ones.
    """
    robot = environment(env)
    plain = PhotographedStarts(robot, config.photographs, QuickstartConfig().photograph_layout)
    photos = plain.photographs if name in ("distractors", "language") else []
    if name == "distractors":
        editor = load_editor(None, load_plate(starter_plate()))
        edited = [
            add_distractors(editor, start, np.random.default_rng([i, copy]))
            for i, start in enumerate(photos)
            for copy in range(config.copies)
        ]
        among = FixedStarts([start for start in edited if start is not None])
        return MixedStarts(plain, ParaphrasedStarts(among, robot.instructions))
    if name == "language":
        rephrased = [
            replace(start, instruction=sentence)
            for i, start in enumerate(photos)
            for sentence in sample_instructions(start.task, config.sentences, np.random.default_rng(i))
        ]
        return FixedStarts(rephrased)
    if name == "tasks":
        play = record_to(wide / "data" / "play", *config.recording(env))
        return MixedStarts(plain, EpisodeStarts(play, config.tasks, 0.75))
    return plain


def try_out(
    policies: Mapping[Path, Path], env: MetaWorldConfig, config: DiverseConfig, seed: int, device: str = "cpu"
) -> None:
    """Evaluate policies for real in every place, and save the outcomes after each.

    Args:
        policies: policy file by file of outcomes.
        env: the real environment.
        config: number of episodes.
        seed: each has its own layouts.
        device: of the policies.
    """
    for place in PLACES:
        missing = {file: policy for file, policy in policies.items() if place not in read_outcomes(file)}
        if not missing:
            continue
        loaded = {file: load_policy(policy, device) for file, policy in missing.items()}
        scene, starts = _place(place, env, config, seed)
        chunk = next(iter(loaded.values())).chunk
        real = environment(scene).vector(config.workers, chunk, horizon=scene.horizon, keyframes_only=True)
        try:
            for file, policy in loaded.items():
                rollouts = run_trials(
                    policy, real, starts, temperature=0.0, seed=seed, label=f"testing {file.stem}: {place}"
                )
                write_text(
                    file,
                    json.dumps(read_outcomes(file) | {place: [result_row(rollout, seed) for rollout in rollouts]})
                    + "\n",
                )
        finally:
            real.close()


def _place(place: str, env: MetaWorldConfig, config: DiverseConfig, seed: int) -> tuple[MetaWorldConfig, list[Layout]]:
    """Return the environment of a place, and its layouts."""
    scene = {
        "distractors": replace(env, distractors=config.distractors),
        "tasks": replace(env, tasks=config.tasks),
    }.get(place, env)
    starts = environment(scene).layouts(config.per_task, config.first_layout + seed * 1000)
    if place == "paraphrases":
        starts = [
            replace(s, instruction=HELD_OUT_SENTENCES[s.task][i % len(HELD_OUT_SENTENCES[s.task])])
            for i, s in enumerate(starts)
        ]
    return scene, starts
