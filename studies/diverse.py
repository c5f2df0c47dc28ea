"""Diverse training: among distractors, with many sentences, on more tasks; each tested where it matters.

The starter world has seen one table with nothing on it but the task's object, and melts whatever else stands there. So
world and judge go on learning first: on the same episodes with distractors pasted in, and on play in further tasks.
This *wide* world has faults of its own, so there are rounds of exploring in it. Then the same reinforcement learning is
done in it from plain starts and from each kind of diverse ones (World-Gymnast, arXiv 2602.02454, scores these variants
inside its world model; here the real environment does).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.envs.metaworld import EXTRA_TASKS, MetaWorldConfig
from worldgymnast.episodes.shares import check_shares
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.measure.real import (
    Scorer,
    ScoringConfig,
    row,
    trials,
)
from worldgymnast.protocols import Judge, Policy, RealEnvironment, StartSampler, WorldModel
from worldgymnast.recipes.edit_episodes import with_distractors
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.quickstart import QuickstartConfig, starter, starter_plate
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_to
from worldgymnast.recipes.relearn import Relearning
from worldgymnast.recipes.reproduce import Exploring, explore, round_folder
from worldgymnast.records import read_outcomes
from worldgymnast.registry import environment, load_editor, load_learned_judge, load_policy, load_world, to_dict
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
"""What RL starts from in the wide world: plain photographs, or those and more."""
PLACES = ("clean", "distractors", "paraphrases", "tasks")
"""Where policies are tested: as they were trained, among real distractors, with sentences that nobody trained on, and
on further tasks, which were never demonstrated."""

UNHEARD: dict[str, tuple[str, ...]] = {
    "drawer-open": ("i need something out of the drawer", "the drawer should stand open", "get the drawer open for me"),
    "drawer-close": ("the drawer should be shut", "put the drawer back into its box", "get the drawer closed for me"),
    "button-press": ("activate the button", "give the red knob a push", "use your finger on the button"),
    "plate-slide": ("bring the black disc to the goal", "score a goal with the disc", "the plate has to go in"),
    "window-open": ("let some air in through the window", "the window should stand open", "shift the window sideways"),
    "door-close": ("the door should be shut", "give the door a push so that it closes", "make the cupboard close"),
}  # fmt: skip
"""Sentences for tests alone: neither demonstrations, nor judge, nor `scenes.language` have them."""


EXPLORERS = ("wide", "distractors", "tasks")
"""The variants that explorers of the wide world practise in turn, each recorded where its variant is tested."""


@checked
class DiverseConfig(Exploring):
    """The wide world, how it is explored, and how much is trained and tested in it.

    Attributes:
        tasks: further tasks; of these there is play and no demonstration.
        play: episodes of it that are recorded of each.
        length: actions in such an episode.
        world: how the starter's world goes on learning, its autoencoder included.
        shares: of its training: what it learned from before, that with distractors, play, play with distractors.
        judge: how the starter's judge goes on learning.
        photographs: new layouts a task of which one frame each is what RL starts from.
        copies: edited pictures of each photograph.
        sentences: instructions for each picture.
        distractors: real ones in the tests.
        per_task: real episodes of a task, policy and place.
        first_layout: of the tests.
        workers: processes of the real environment.
    """

    explored: PolicyRecordConfig = PolicyRecordConfig((0.5, 1.0), 16, seed=2_055_000)
    again: Relearning = replace(Exploring.again, judge=replace(Exploring.again.judge, language=True))
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
        """Play in the further tasks, where everything else is as in `env`."""
        scenes = environment(replace(env, tasks=self.tasks))
        return scenes, RecordConfig(expert=0, noisy=0, play=self.play, length=self.length, workers=self.workers)


def check_diverse(env: MetaWorldConfig, config: DiverseConfig) -> None:
    """Raises where the tasks of `env` have no sentences for tests, or are among the further ones."""
    if alien := [task for task in env.tasks if task not in UNHEARD]:
        raise InputError(
            f"--env.tasks: found '{alien[0]}', for which there are no sentences to test with, expected some of "
            f"{', '.join(UNHEARD)}; add --which without diverse"
        )
    if twice := [task for task in config.tasks if task in env.tasks]:
        raise InputError(f"--diverse.tasks: found '{twice[0]}', expected tasks that are not among --env.tasks")
    if alien := [task for task in config.tasks if task not in AFFORDANCES]:
        raise InputError(f"--diverse.tasks: found '{alien[0]}', expected some of {', '.join(AFFORDANCES)}")


def widen(
    out: Path, policy: Policy, old: EpisodeSet, env: MetaWorldConfig, config: DiverseConfig, device: str = "cpu"
) -> None:
    """OUT/data/play, OUT/world and OUT/judge: the starter's, after learning from more, and after rounds of exploring.

    Args:
        out: a folder.
        policy: what explorers begin with.
        old: what the starter's world and judge learned from.
        env: the real environment that was recorded there.
        config: how.
        device: where to train.
    """
    begun, judge = load_world(starter("world"), device), load_learned_judge(starter("judge"), device)
    scenes, record = config.recording(env)
    asked: dict[str, Any] = {name: to_dict(getattr(config, name)) for name in ("world", "judge")}
    asked |= {"record": to_dict(record), "env": to_dict(env), "shares": config.shares, "rounds": config.rounds}
    if config.rounds:
        asked |= {name: to_dict(getattr(config, name)) for name in ("explore", "explored", "again")}
        asked |= {"explorers": config.explorers, "policy": identity(policy)}
    inputs = {"data": data_hash(old), "world": identity(begun), "judge": identity(judge)}
    with Run(out, asked | {"inputs": inputs}) as run:
        if run.finished is not None:
            return
        play = record_to(out / "data" / "play", scenes, record)
        editor = load_editor(None, load_plate(starter_plate()))
        among = [from_episodes(list(with_distractors(editor, part, i + 1))) for i, part in enumerate((old, play))]
        sets, first = [old, among[0], play, among[1]], round_folder(out, 1, config)
        world = train_world(sets, first / "world", config.world, device, config.shares, start=begun)
        known = concatenate([old, play, *(part.select(np.arange(0, len(part), 2)) for part in among)])
        judge = train_judge(known, world, first / "judge", config.judge, device, start=judge)

        def practise(number: int, seed: int, world: WorldModel, judge: Judge) -> Policy:
            name, place = EXPLORERS[seed % 10 % len(EXPLORERS)], round_folder(out, number, config) / f"rl-{seed}"
            practice = (replace(config.explore, seed=seed), None)
            return _practised(name, policy, (world, judge), out, place, practice, env, config)

        places = [environment(_scene(name, env, config)) for name in EXPLORERS]
        explore(out, world, judge, known, practise, places, config, device)
        run.finish({})


def _scene(name: str, env: MetaWorldConfig, config: DiverseConfig) -> MetaWorldConfig:
    """The real environment in which an explorer is recorded."""
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
    """RL of `policy` in the wide world from the starts of that variant; OUT/policy.safetensors."""
    world = load_world(wide / "world" / "world.safetensors", device)
    judge = load_learned_judge(wide / "judge" / "judge.safetensors", device)
    return _practised(name, policy, (world, judge), wide, out, practice, env, config)


def _practised(
    name: str,
    policy: Policy,
    parts: tuple[WorldModel, Judge],
    wide: Path,
    out: Path,
    practice: tuple[ReinforceConfig, ScoringConfig | None],
    env: MetaWorldConfig,
    config: DiverseConfig,
) -> Policy:
    """RL of `policy` in that world and before that judge, from the starts of a variant; OUT/policy.safetensors."""
    rl, scoring = practice
    if name == "tasks":
        env, rl = replace(env, tasks=(*env.tasks, *config.tasks)), replace(rl, curriculum=True)
    imagine = Imagination.of(policy, *parts, rl.horizon)
    scorer = None if scoring is None else Scorer(environment(env), scoring)
    return finetune(policy, imagine, _starts(name, env, wide, config), out, rl, scorer).policy


def _starts(name: str, env: MetaWorldConfig, wide: Path, config: DiverseConfig) -> StartSampler:
    """What RL starts from in a variant.

    Plain photographs; the same and edited ones, half of each; the same with many sentences; photographs of all tasks,
    and frames from play in the further ones.
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
        told = [
            replace(start, instruction=sentence)
            for i, start in enumerate(photos)
            for sentence in sample_instructions(start.task, config.sentences, np.random.default_rng(i))
        ]
        return FixedStarts(told)
    if name == "tasks":
        play = record_to(wide / "data" / "play", *config.recording(env))
        return MixedStarts(plain, EpisodeStarts(play, config.tasks, 0.75))
    return plain


def try_out(
    policies: Mapping[Path, Path], env: MetaWorldConfig, config: DiverseConfig, seed: int, device: str = "cpu"
) -> None:
    """Real outcomes of policies in every place, kept place by place.

    Args:
        policies: for every file of outcomes, the policy's.
        env: the real environment.
        config: how much.
        seed: has layouts of its own.
        device: where the policies act.
    """
    for place in PLACES:
        missing = {file: policy for file, policy in policies.items() if place not in _kept(file)}
        if not missing:
            continue
        loaded = {file: load_policy(policy, device) for file, policy in missing.items()}
        scene, starts = _place(place, env, config, seed)
        chunk = next(iter(loaded.values())).chunk
        real = environment(scene).vector(config.workers, chunk, horizon=scene.horizon, keyframes_only=True)
        try:
            for file, policy in loaded.items():
                tried = trials(policy, real, starts, temperature=0.0, seed=seed, what=f"testing {file.stem}: {place}")
                write_text(file, json.dumps(_kept(file) | {place: [row(rollout, seed) for rollout in tried]}) + "\n")
        finally:
            real.close()


def _kept(file: Path) -> dict[str, list[dict[str, Any]]]:
    return read_outcomes(file)


def _place(place: str, env: MetaWorldConfig, config: DiverseConfig, seed: int) -> tuple[MetaWorldConfig, list[Layout]]:
    """The environment of a place, and what is tried there."""
    scene = {
        "distractors": replace(env, distractors=config.distractors),
        "tasks": replace(env, tasks=config.tasks),
    }.get(place, env)
    starts = environment(scene).layouts(config.per_task, config.first_layout + seed * 1000)
    if place == "paraphrases":
        starts = [replace(s, instruction=UNHEARD[s.task][i % len(UNHEARD[s.task])]) for i, s in enumerate(starts)]
    return scene, starts
