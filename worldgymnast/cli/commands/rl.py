"""The command rl: reinforcement learning inside a world model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from worldgymnast import processes
from worldgymnast.cli.checks import check_in_distribution, check_same_rate, refuse_pool_flags
from worldgymnast.cli.command import NO_PREFIX, Command, DeviceCommand, HeldOut, LabelledCommand, OptionalPath
from worldgymnast.cli.data_defaults import horizon_of
from worldgymnast.cli.environment import (
    HIDDEN_HORIZON,
    has_default_environment,
    has_real_environment,
    is_metaworld,
    names_environment,
    robot_of_all_tasks,
    task_horizon,
)
from worldgymnast.cli.inputs import Cameras, Components, load_components, open_ledger, read_each, state_for
from worldgymnast.cli.memory_plan import advise_rl, move_to_device, plan_rl, pool_workers
from worldgymnast.cli.offline import (
    announce,
    comparable,
    measure,
    split_references,
    support_of,
    warn_of_wrong_world,
)
from worldgymnast.cli.origins import (
    cameras_of,
    check_same_cameras,
    length_of,
    rule_of,
    warn_of_new_tasks,
    warn_of_other_stride,
)
from worldgymnast.cli.results import print_training
from worldgymnast.cli.starters import (
    component_files,
    refuse_other_robot,
    refuse_starters,
    refuse_unknown_tasks,
    robot_of,
)
from worldgymnast.configs import Positive, checked
from worldgymnast.crew import leading
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment
from worldgymnast.episodes.starts import read_starts
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.judges.combined import check
from worldgymnast.measure.real import Scorer
from worldgymnast.preprocessing import Resize, Size, compact
from worldgymnast.protocols import Judge, RealEnvironment, StartSampler, WorldModel
from worldgymnast.recipes.finetune import FinetuneConfig, MakePool, finetune
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_judge, load_policy
from worldgymnast.rl.parallel import follow
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, MixedStarts, PhotographedStarts
from worldgymnast.run import is_finished
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.ray_cluster import check_cluster, load_ray
from worldgymnast.surrogates.ray_pool import RayConfig, workers
from worldgymnast.types import Start

_WORKERS_PER_CORE = 8
"""More would wait for each other; each takes some 350 MB."""
_PHOTOGRAPHS = 10
"""Photographs per task of the suite to which other pictures are compared."""
_EPISODES = 60
"""Episodes of another robot to whose first frames other pictures are compared."""


@checked(kw_only=True)
class Rl(DeviceCommand, LabelledCommand):
    """Finetune a policy by reinforcement learning inside a world model.

    Attributes:
        config: the training.
        policy: policy file or description (policy.json); the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file, weights or a description (.json); the starter judge if omitted.
        audit: file of a second judge, which gives no reward but re-checks judged successes.
        data: data sets whose frames are starts.
        held_out: episodes per task of --data that world model and judge were not trained on (train-world --held-out).
            They measure both, and are no starts. Default: as recorded in the world model's file.
        test: data sets that no component was trained on, to measure world model and judge on instead.
        starts: folders of start pictures (NAME.png with NAME.json). With --data, half of the starts are from each;
            without both, starts are photographs of new layouts.
        crop: crop pictures that are not square to their central square.
        anyway: continue with out-of-distribution pictures or instructions.
        photographs: new layouts per task to photograph as starts.
        env: real environment of photographs and scoring. Without it, starts from --data or --starts are not scored for
            real; the report then shows what can be known.
        unscored: train without real scoring; the result is the last step.
        over_memory: begin although the memory plan does not fit in the device.

        pool: where rollouts are collected: "local" in this process, "ray" in workers (extra "ray"). Workers have a
            random stream per group (--rl.streams group), so their number changes no result.
        workers: Ray workers, each with its own copy of policy and world model, and --threads threads (default 1).
        ray_address: of a running Ray cluster, or auto; without it, --pool ray starts a Ray on this machine.
        out: run folder; runs/rl-PRESET if omitted.
    """

    takes_preset: ClassVar[bool] = True
    is_distributed: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = HIDDEN_HORIZON
    hidden_hint: ClassVar[str] = "Use --rl.horizon"
    config: Annotated[FinetuneConfig, NO_PREFIX]
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    unscored: bool = False
    over_memory: bool = False
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    audit: OptionalPath = None
    data: tuple[Path, ...] = ()
    held_out: HeldOut = None
    test: tuple[Path, ...] = ()
    starts: tuple[Path, ...] = ()
    crop: bool = False
    anyway: bool = False
    photographs: Positive = 30
    pool: Literal["local", "ray"] = "local"
    workers: Positive = 2
    ray_address: str = ""
    out: Path

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.from_preset`."""
        return cls(config=recipe.finetune, env=recipe.env, out=Path("runs") / f"rl-{name}")

    def __post_init__(self) -> None:
        if (self.test or self.held_out) and not self.data:
            raise InputError("--test, --held-out: --data is missing. Give the data that the components were trained on")
        if self.test and self.held_out:
            raise InputError("--test, --held-out: both are given. Give one of them")

    def __call__(self) -> int:
        """Train and write the report; in several processes, process 0 does, and the others take part in updates."""
        refuse_pool_flags(self.pool, self.given_flags)
        self.prepare(self.out)
        if processes.rank() > 0:
            files = component_files(robot_of(self.env), **self._given_files())
            follow(load_policy(files["policy"], self.device, is_tested=False))
            return 0
        with leading():
            return self._run()

    def _given_files(self) -> dict[str, Path | None]:
        return {"policy": self.policy, "world": self.world, "judge": self.judge}

    def _run(self) -> int:
        """Train and write the report."""
        make_pool = self._make_pool()
        given = self._given_files()
        starter = robot_of(self.env)
        files, ledger = component_files(starter, **given), open_ledger(self.out)
        policy = load_policy(files["policy"], is_tested=False)
        spec = policy.action_spec
        has_own_starts = bool(self.data or self.starts)
        is_scored = has_real_environment(
            self.env, spec, self.given_flags, is_unscored=self.unscored, has_own_starts=has_own_starts
        )
        is_simulated = has_default_environment(self.env, spec) or names_environment(self.given_flags)
        takes_photographs = is_simulated and not self.data
        if not (is_scored or takes_photographs or has_own_starts):
            raise InputError(
                f"--data, --starts: both omitted, but photographs of Meta-World are no starts for {files['policy']}, a "
                "policy of another robot. Add --data, or --starts with pictures, or its environment with --env"
            )
        if not is_scored:
            announce(self.given_flags, self.unscored)
        env = self.env if is_scored or takes_photographs else None
        components = load_components(files, self.device, ledger, env, self.given_flags, policy=policy, waits=True)
        audit = load_judge(self.audit, self.device, ledger) if self.audit else None
        check_same_cameras(*files.values(), self.audit, requested=self.image_key)
        robot = environment(components.env) if components.env is not None else None
        size = compact(components.world.frame_size)
        rule = rule_of(*files.values(), self.audit, requested=self.resize)
        reader = _Reader(
            size, self.cameras or cameras_of(files["world"]), self.fps, rule, components.world, self.labels
        )
        pictures = [start for folder in self.starts for start in read_starts(folder, size, self.crop, rule)]
        sets = reader(self.data)
        episodes, references = None, None
        if sets:
            refuse_starters(given, self.data[0], sets[0].spec, starter)
            refuse_other_robot(files["policy"], components.policy.action_spec, self.data[0], sets[0].spec)
            check_same_rate(self.data[0], sets[0].fps, files["world"], components.world.fps, is_data=True)
            test = reader(self.test)
            episodes, references = split_references(sets, concatenate(test) if test else None, self.held_out, files)
        if is_metaworld(spec) or robot is not None:
            recorded = () if episodes is None else sorted(set(episodes.task))
            refuse_unknown_tasks(self.judge, recorded if robot is None else robot.tasks, starter)
        rl = self.config.rl
        rl = replace(rl, horizon=self._horizon(components, robot, episodes, files["world"]))
        rl = rl if make_pool is None else replace(rl, streams="group")
        self._move_to_device(components, files["policy"], rl, audit)
        if not is_finished(self.out):
            named = _instructions_by_task(robot, episodes)
            pictured = [(start.task, start.instruction) for start in pictures]
            for path in dict.fromkeys(filter(None, (files["judge"], self.audit))):
                warn_of_new_tasks(path, [*named, *pictured])
            for judge in filter(None, (components.judge, audit)):
                check(judge, named)
        starts = self._starts(robot, components, episodes, pictures, is_scored)
        imagination = Imagination.of(components.policy, components.world, components.judge, rl.horizon, rl.execute)
        warn_of_other_stride(files["judge"], imagination.chunk, components.world.fps)
        if is_scored and robot is not None:
            scorer = Scorer(robot, self.config.scoring)
            finetune(components.policy, imagination, starts, self.out, rl, scorer, audit, make_pool=make_pool)
        else:
            references = comparable(references, components.world.action_spec)
            warn_of_wrong_world(self.out, references, components.world, rl.horizon)
            support = support_of(references, imagination)
            result = finetune(
                components.policy, imagination, starts, self.out, rl, None, audit, support=support, make_pool=make_pool
            )
            policies = components.policy, result.policy
            measure(self.out, policies, imagination, starts, pictures, references, rl)
        return print_training(self.out)

    def _move_to_device(self, components: Components, policy: Path, rl: ReinforceConfig, audit: Judge | None) -> None:
        """See `memory_plan.move_to_device`."""
        parts = components.policy, components.world, components.judge
        workers = pool_workers(self.pool, self.workers, self.device, self.ray_address)
        move_to_device(
            components,
            policy,
            self.device,
            self.out,
            lambda: plan_rl(*parts, rl, self.device, audit, workers),
            lambda plan, room: advise_rl(plan, rl, room),
            is_overruled=self.over_memory,
        )

    def _make_pool(self) -> MakePool | None:
        """Make the pool that the flags describe; None for this process."""
        if self.pool == "local":
            return None
        load_ray()
        most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
        if not self.ray_address and self.workers > most:
            raise InputError(
                f"--workers: found {self.workers}, expected at most {most} on this machine ({os.cpu_count()} cores). "
                "Nothing was started. Lower it, or join a cluster with --ray-address"
            )
        if self.ray_address:
            check_cluster(self.ray_address)
        gpus = None if self.device == "cuda" else 0.0
        return workers(RayConfig(self.workers, self.ray_address, self.threads or 1, gpus))

    def _horizon(
        self, components: Components, robot: RealEnvironment | None, episodes: EpisodeSet | None, world: Path
    ) -> int:
        """Return the actions per rollout: of the flag, the environment, the data, the world model's, or the preset."""
        rl, flag = self.config.rl, "--rl.horizon"
        of_environment = robot is not None and episodes is None and flag not in self.given_flags
        if robot is not None and of_environment and not is_metaworld(robot.action_spec):
            return task_horizon(robot, executed_per_look(components.policy, rl.execute))
        own = length_of(world)
        return horizon_of(rl.horizon, flag, components, self.given_flags, episodes, rl.execute, own)

    def _starts(
        self,
        robot: RealEnvironment | None,
        components: Components,
        episodes: EpisodeSet | None,
        pictures: Sequence[Start],
        is_scored: bool,
    ) -> StartSampler:
        """Make the start sampler that the flags describe."""
        samplers: list[StartSampler] = []
        if episodes is not None:
            recorded = sorted(set(episodes.task))
            tasks = [task for task in (robot.tasks if robot is not None else ()) if task in recorded] or recorded
            samplers.append(EpisodeStarts(episodes, tasks, self.config.rl.middle))
        if pictures:
            if not is_finished(self.out):
                self._check_pictures(pictures, robot, components, episodes)
            shown = {start.task for start in pictures}
            unscored = sorted(shown - set(robot.tasks)) if is_scored and robot is not None else []
            if unscored:
                print(f"--starts: {', '.join(unscored)}: trained but not scored, since not in --env.tasks")
            samplers.append(FixedStarts(pictures))
        if not samplers:
            assert robot is not None
            return PhotographedStarts(robot, self.photographs, QuickstartConfig().photograph_layout)
        return samplers[0] if len(samplers) == 1 else MixedStarts(*samplers)

    def _check_pictures(
        self,
        pictures: Sequence[Start],
        robot: RealEnvironment | None,
        components: Components,
        episodes: EpisodeSet | None,
    ) -> None:
        """Check the pictures against the judge and the training data."""
        check(components.judge, [(start.task, start.instruction) for start in pictures])
        if robot is not None and episodes is None:
            first = QuickstartConfig().photograph_layout
            suite = robot_of_all_tasks(robot, components.env)
            known: Sequence[Start] = PhotographedStarts(suite, _PHOTOGRAPHS, first).photographs
        else:
            known = _first_frames(episodes)
        if robot is None and not self.data:
            print("--starts: not compared with the training data of world model, policy and judge. Add --data to do so")
        known_instructions = () if episodes is None else episodes.instruction
        flags = ("--starts", "--starts")
        check_in_distribution(components.world, pictures, known, flags, self.anyway, known_instructions)


@dataclass(frozen=True)
class _Reader:
    """Reads data sets with frames and states as a world model needs them."""

    size: Size
    cameras: Cameras
    fps: float | None
    resize: Resize | None
    world: WorldModel
    labels: Sequence[Path] = ()

    def __call__(self, paths: Sequence[Path]) -> list[EpisodeSet]:
        """Read data sets; none for no path."""
        if not paths:
            return []
        state = state_for(self.world)
        return read_each(
            paths,
            self.size,
            cameras=self.cameras,
            fps=self.fps,
            labels=self.labels,
            resize=self.resize,
            state=state,
        )


def _instructions_by_task(robot: RealEnvironment | None, episodes: EpisodeSet | None) -> list[tuple[str, str]]:
    """Return pairs of task and instruction that the judge will score."""
    if robot is not None:
        return [(task, sentence) for task in robot.tasks for sentence in robot.instructions(task)]
    return [] if episodes is None else list(zip(episodes.task, episodes.instruction, strict=True))


def _first_frames(episodes: EpisodeSet | None) -> list[Start]:
    """Return the first frames of some episodes, evenly spaced."""
    if episodes is None or not len(episodes):
        return []
    chosen = sorted(set(np.linspace(0, len(episodes) - 1, _EPISODES).astype(int).tolist()))
    return [episodes.episode(e).start() for e in chosen]
