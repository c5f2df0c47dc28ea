"""The commands about episodes: record, record-policy, data check, data convert, data add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import check_frames, check_observed, check_same_actions, require_new_path
from worldgymnast.cli.command import (
    NO_PREFIX,
    Command,
    DatasetCommand,
    DataSets,
    DeviceCommand,
    LabelledCommand,
    OptionalPath,
    Size,
)
from worldgymnast.cli.environment import HIDDEN_HORIZON, check_policy, check_tasks, fitted
from worldgymnast.cli.inputs import print_unused_labels
from worldgymnast.cli.origins import size_in
from worldgymnast.cli.results import print_data_set
from worldgymnast.configs import Between, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment
from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.episodes.formats import ConversionSummary
from worldgymnast.episodes.labels import Labels
from worldgymnast.episodes.lerobot_layout import read_layout
from worldgymnast.episodes.merge import merge
from worldgymnast.episodes.sizes import ambiguous_cameras
from worldgymnast.errors import InputError
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_policy_to, record_to
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_policy, load_world
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.run import check_writable


@checked(kw_only=True)
class Record(Command):
    """Record real episodes of experts, noisy experts and random play (LeRobot v3.0).

    Attributes:
        config: number of episodes of each kind.
        env: real environment.
        out: new folder for the data set; data/PRESET if omitted.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = HIDDEN_HORIZON
    hidden_hint: ClassVar[str] = "Use --length"
    config: Annotated[RecordConfig, NO_PREFIX]
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    out: Path

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.from_preset`."""
        return cls(config=recipe.record, env=recipe.env, out=Path("data") / name)

    def __call__(self) -> int:
        """Record the episodes."""
        require_new_path(self.out)
        check_tasks(self.env)
        print_data_set(self.out, record_to(self.out, environment(self.env), self.config))
        return 0


@checked(kw_only=True)
class RecordPolicy(DeviceCommand):
    """Record labelled real rollouts of a policy (LeRobot v3.0).

    Attributes:
        policy: policy file.
        plan_in: world model file: the policy acts in it from each real first frame, and the actions that it chose are
            then executed for real without looking. For the training of a world model that is too optimistic.
        config: number of rollouts and sampling temperatures.
        env: real environment.
        out: new folder for the data set.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = HIDDEN_HORIZON
    hidden_hint: ClassVar[str] = "Use --length"
    policy: Positional[Path]
    plan_in: OptionalPath = None
    config: Annotated[PolicyRecordConfig, NO_PREFIX] = PolicyRecordConfig()
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    out: Path

    def __call__(self) -> int:
        """Record the rollouts."""
        require_new_path(self.out)
        self.prepare()
        policy = load_policy(self.policy, self.device)
        env = fitted(self.env, self.given_flags, size_in(self.policy))
        check_policy(self.policy, policy, env)
        length, chunk = self.config.length, executed_per_look(policy, self.config.execute)
        if length % chunk:
            name = "the policy's chunk" if chunk == policy.chunk else "--execute"
            raise InputError(f"--length: found {length}, expected a multiple of {name} ({chunk})")
        check_tasks(env)
        world = None
        if self.plan_in is not None:
            world = load_world(self.plan_in, self.device)
            check_same_actions(self.policy, policy.action_spec, self.plan_in, world.action_spec)
            check_observed(self.policy, policy, self.plan_in, world)
            check_frames(world.frame_size, env)
        print_data_set(self.out, record_policy_to(self.out, policy, environment(env), self.config, world))
        return 0


@checked(kw_only=True)
class DataCheck(DatasetCommand):
    """Check a data set (LeRobot, RLDS or WorldGym), file by file.

    All cameras are checked, unless some are named.

    Attributes:
        path: data set folder.
    """

    path: Positional[Path]

    def __call__(self) -> int:
        """Print the findings; return 1 if one of them is an error."""
        several = [] if self.image_key else ambiguous_cameras(self.path)
        findings = check(self.path, "all" if several else self.cameras, self.fps)
        for finding in findings:
            print(finding)
        print_unused_labels([self.path])
        errors = sum(finding.severity == "error" for finding in findings)
        print(f"{self.path}: {counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}")
        if several:
            short = " ".join(name.rpartition(".")[2] for name in several)
            print(f"{self.path}: {len(several)} cameras; training commands need --image-key {short}, or one of them")
        return int(errors > 0)


@checked(kw_only=True)
class DataConvert(LabelledCommand):
    """Convert a data set to LeRobot v3.0, with cameras and state.

    Attributes:
        source: folder of a LeRobot v2.1 or v3.0, RLDS or WorldGym data set.
        target: new folder to write.
        size: pixels to resize the frames to: N for squares, HxW for height and width.
        image_key: cameras to keep: one name or several; all if omitted.
        fps: frames per second to write, an integer fraction of the source's. If the source format does not state a
            rate, this must be its rate.
        lossless: store frames losslessly. LeRobot reads them, and re-encodes them when it edits the data set.
    """

    source: Positional[Path]
    target: Positional[Path]
    size: Size = None
    fps: Annotated[Annotated[float, Between(1e-3, 1e4)] | None, tyro.conf.arg(metavar="N")] = None
    lossless: bool = False

    def __call__(self) -> int:
        """Convert the data set."""
        check_writable(self.target)
        done = formats.convert(
            self.source,
            self.target,
            size=self.size,
            image_key=self.cameras,
            fps=self.fps,
            lossless=self.lossless,
            resize=self.resize or "squash",
            labels=Labels(self.labels) if self.labels else None,
        )
        print(f"{self.target}: {summary_line(done)}")
        return 0


@checked(kw_only=True)
class DataAdd(LabelledCommand):
    """Add data sets to a data set: new recordings of the same robot, or rollouts of its policies.

    The first data set decides on actions, cameras, state and frame rate; the others are converted, or refused with the
    reason. Success labels, tasks and instructions are kept. An episode that is in two of them is refused.

    Attributes:
        data: the data set, and those to add: LeRobot v2.1 or v3.0, RLDS or WorldGym.
        out: new folder to write, LeRobot v3.0; the data sets are not changed.
        in_place: add to the first data set (LeRobot v3.0) without a copy, instead of --out; --labels are for the added
            episodes. A killed command leaves it as it was.
        source: origin of the added episodes that do not state one, such as policy@act; default the name of their
            folder.
        size: height and width to resize the frames to, in pixels.
        lossless: store frames losslessly.
    """

    data: DataSets
    out: OptionalPath = None
    in_place: bool = False
    source: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    size: Size = None
    lossless: bool = False

    def __call__(self) -> int:
        """Write the merged data set."""
        if len(self.data) < 2:
            raise InputError("DATA: found one data set, expected the data set and at least one to add")
        if (self.out is None) != self.in_place:
            problem = "neither is given" if self.out is None else "both are given"
            raise InputError(
                f"--out, --in-place: {problem}. Give --out for a new data set, or --in-place to add to {self.data[0]}"
            )
        if self.out is not None:
            check_writable(self.out)
        parts = merge(
            self.data,
            self.out,
            size=self.size,
            image_key=self.cameras,
            fps=self.fps,
            resize=self.resize or "squash",
            source=self.source,
            lossless=self.lossless,
            labels=Labels(self.labels) if self.labels else None,
        )
        for path, part in zip(self.data[self.in_place :], parts[self.in_place :], strict=True):
            print(f"{path}: {summary_line(part)}")
        if self.out is None:
            print(f"{self.data[0]}: {len(read_layout(self.data[0], 'all').all_records)} episodes")
            return 0
        total = ConversionSummary(*map(sum, zip(*(astuple(part)[:-1] for part in parts), strict=True)))
        print(f"{self.out}: {summary_line(total)}")
        return 0


def summary_line(done: ConversionSummary) -> str:
    """Counts of written episodes in words."""
    outcome = "no labels"
    if done.labelled:
        outcome = f"{done.succeeded} of {done.labelled} labelled episodes succeeded"
    return f"{done.episodes} episodes, {done.actions} actions, {outcome}"


def counted(count: int, noun: str) -> str:
    """Count of a noun in the right number.

    >>> counted(1, "error"), counted(0, "warning")
    ('1 error', '0 warnings')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
