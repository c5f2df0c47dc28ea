"""The command adapt: test-time training on one scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro

from worldgymnast.cli.command import (
    LENT,
    REPORT,
    Computing,
    Watching,
    Weights,
    agree,
    drives,
    familiar,
    ledger,
    read,
    sees,
    wrote,
)
from worldgymnast.cli.conclude import conclude
from worldgymnast.cli.fitting import same_cameras
from worldgymnast.cli.starters import parts, refuse_starters, refuse_strangers, refuse_tasks
from worldgymnast.configs import Count, Positive, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks, instructions
from worldgymnast.episodes.starts import frame_of
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Rate
from worldgymnast.judges.combined import check
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig, score_real
from worldgymnast.protocols import Policy, StartSampler
from worldgymnast.recipes.adapt import AdaptConfig, adapt, forgetting
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.registry import environment, load_judge, load_policy, load_world
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts, PhotographedStarts
from worldgymnast.run import finished
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Layout, Start

_SCORED = ("evaluate_every", "keep_best", "keep_evidence", "trust")
"""Fields that have no effect where nothing is scored for real."""


@checked(kw_only=True)
class Adapt(Computing, Watching):
    """Test-time training: reinforcement learning from one frame and one sentence, in the world as it is.

    Attributes:
        config: the training.
        frame: a picture of the scene, or a video whose first frame is one.
        instruction: what is to be done there.
        task: the task's name, for judges that have thresholds or criteria by task, and for --layout.
        layout: instead of a picture, that layout of --task in the real environment, where both policies are also tried.
        crop: take the middle square of a picture that is not square.
        anyway: go on with a frame or a sentence unlike all that is known.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        data: data sets of other scenes, for replay and to measure what is forgotten; without, photographs.
        photographs: new layouts a task that are photographed for that.
        others: starts a task from which it is measured, imagined, what is forgotten.
        real: also real episodes a task, before and after; 0 for none.
        out: the run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        ReinforceConfig: (*_SCORED, "middle", "curriculum"), ObjectiveConfig: ("hold",),
    }  # fmt: skip
    instead: ClassVar[str] = "one picture has no middle and no tasks, and nothing is scored for real while it trains"
    config: Annotated[AdaptConfig, LENT] = AdaptConfig()
    frame: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    instruction: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    task: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    layout: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    crop: bool = False
    anyway: bool = False
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    data: tuple[Path, ...] = ()
    photographs: Positive = 30
    others: Count = 8
    real: Count = 0
    out: Path

    def __post_init__(self) -> None:
        if (self.frame is None) == (self.layout is None):
            found = "neither" if self.frame is None else "both"
            raise InputError(f"--frame, --layout: found {found}, expected a picture or a layout of --task")
        if self.layout is not None and not self.task:
            raise InputError("--layout: found no --task, expected a task of Meta-World that has this layout")
        if self.frame is not None and not self.instruction.strip():
            raise InputError("--instruction: found nothing, expected a sentence such as 'open the drawer'")

    def __call__(self) -> int:
        """Trains, prints what was won and what was forgotten, and writes the report."""
        self.prepare()
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files = parts(**given)
        policy, world = load_policy(files["policy"], self.device), load_world(files["world"], self.device)
        judge = load_judge(files["judge"], self.device, ledger(self.out))
        agree(files["policy"], policy.action_spec, files["world"], world.action_spec)
        same_cameras(*files.values(), asked=self.image_key)
        env = MetaWorldConfig(size=world.frame_size[0], horizon=self.config.rl.horizon)
        if self.layout is not None or self.real or not self.data:
            drives(files["policy"], policy, env)
        start = self._start(env)
        if self.layout is not None:
            refuse_tasks(self.judge, [self.task])
        if not finished(self.out):
            check(judge, [(start.task, start.instruction)])
        said: tuple[str, ...] = ()
        if self.data:
            episodes = read(self.data, world.frame_size[0], self.cameras, self.fps)
            refuse_starters(given, self.data[0], episodes.spec)
            refuse_strangers(files["policy"], policy.action_spec, self.data[0], episodes.spec)
            sees(world, episodes.size, "data convert SOURCE TARGET --size")
            said = tuple(episodes.instruction)
            others: StartSampler = EpisodeStarts(episodes, sorted(set(episodes.task)), 0.0)
            drawn = others(np.random.default_rng(self.config.rl.seed), self.others * len(set(episodes.task)))
            known = measured = [start for start in drawn if isinstance(start, Start)]
        else:
            first = QuickstartConfig().photograph_layout
            others = PhotographedStarts(environment(env), self.photographs, first)
            known, measured = others.photographs, list[Start]()
            if self.others:
                measured = PhotographedStarts(environment(env), self.others, first + self.photographs).photographs
        imagine = Imagination.of(policy, world, judge, self.config.rl.horizon)
        flags = ("--frame" if self.frame else "--layout", "--instruction")
        familiar(world, [start], known, flags, self.anyway, said)
        after = adapt(policy, imagine, start, others, self.out, self.config)
        found = forgetting((policy, after), imagine, start, measured, self.config)
        print(f"This scene, imagined, sampled: before {found.before}, after {found.after}.")
        if found.others is not None:
            tables.show(tables.success(found.others, "Other scenes, imagined"))
        return self._really(policy, after, start, env, files["policy"])

    def _start(self, env: MetaWorldConfig) -> Start:
        """The scene in question."""
        if self.frame is None:
            check_tasks((self.task,))
            assert self.layout is not None
            words = self.instruction.strip() or instructions(self.task)[0]
            return environment(env).photograph([Layout(self.task, self.layout, words)])[0]
        return Start(frame_of(self.frame, env.size, self.crop), self.instruction.strip(), self.task)

    def _really(self, before: Policy, after: Policy, start: Start, env: MetaWorldConfig, policy: Path) -> int:
        """Real success, before and after: from this scene where it can be laid out, and of all tasks."""
        result = self.out / "policy.safetensors"
        robot, scene = environment(env), start.scene
        if scene is not None:
            real = robot.vector(2, before.chunk, horizon=env.horizon, keyframes_only=True)
            try:
                rates = [
                    Rate.of(
                        r.verdict.succeeded
                        for r in score_real(
                            each, real, [scene] * self.config.trials, temperature=self.config.rl.temperature, seed=0
                        )
                    )
                    for each in (before, after)
                ]
            finally:
                real.close()
            print(f"This scene, real, sampled: before {rates[0]}, after {rates[1]}.")
        if self.real:
            policies = {"before": Contender(policy), "after": Contender(result)}
            score = ScoreConfig(per_task=self.real)
            conclude(self.out, evaluate(self.out / "evaluation.json", policies, robot, score, self.device))
        else:
            write(self.out / REPORT, collect(self.out))
            print(f"Report: {self.out / REPORT}")
        return wrote(result)
