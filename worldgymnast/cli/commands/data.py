"""The commands about episodes: record, record-policy, data check, data convert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional

from worldgymnast.cli.command import LENT, Command, Computing, Size, Watching, drives, new, summary
from worldgymnast.configs import Between, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_policy_to, record_to
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import environment, load_policy


@checked(kw_only=True)
class Record(Command):
    """Real episodes of scripted experts, experts with noise, and play, as a LeRobot v3.0 data set.

    Attributes:
        config: how many of each kind.
        env: the real environment.
        out: the data set's folder, a new one; data/PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "use --length"
    config: Annotated[RecordConfig, LENT]
    env: MetaWorldConfig = MetaWorldConfig()
    out: Path

    @classmethod
    def start(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe.record, env=recipe.env, out=Path("data") / name)

    def __call__(self) -> int:
        """Records."""
        new(self.out)
        check_tasks(self.env.tasks)
        summary(self.out, record_to(self.out, environment(self.env), self.config))
        return 0


@checked(kw_only=True)
class RecordPolicy(Computing):
    """Real rollouts of a policy, labelled by the environment, as a LeRobot v3.0 data set.

    Attributes:
        policy: the policy's file.
        config: how many, at which temperatures.
        env: the real environment.
        out: the data set's folder, a new one.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "use --length"
    policy: Positional[Path]
    config: Annotated[PolicyRecordConfig, LENT] = PolicyRecordConfig()
    env: MetaWorldConfig = MetaWorldConfig()
    out: Path

    def __call__(self) -> int:
        """Records."""
        self.prepare()
        new(self.out)
        policy = load_policy(self.policy, self.device)
        drives(self.policy, policy, self.env)
        length, chunk = self.config.length, policy.chunk
        if length % chunk:
            raise InputError(f"--length: found {length}, expected a multiple of the policy's chunk ({chunk})")
        check_tasks(self.env.tasks)
        summary(self.out, record_policy_to(self.out, policy, environment(self.env), self.config))
        return 0


@checked(kw_only=True)
class DataCheck(Watching):
    """What is wrong with a data set (LeRobot v3.0 or v2.1, RLDS, WorldGym), file by file.

    Attributes:
        path: its folder.
    """

    path: Positional[Path]

    def __call__(self) -> int:
        """Prints the findings; 1 if one of them is an error."""
        findings = check(self.path, self.cameras, self.fps)
        for finding in findings:
            print(finding)
        errors = sum(finding.severity == "error" for finding in findings)
        print(f"{self.path}: {errors} errors, {len(findings) - errors} warnings")
        return int(errors > 0)


@checked(kw_only=True)
class DataConvert(Watching):
    """A data set in any known format as LeRobot v3.0, with every camera, the state and the last action.

    Attributes:
        source: its folder: LeRobot v2.1 or v3.0, RLDS, WorldGym.
        target: the folder to write, a new one.
        size: pixels on each side to resize the frames to.
        image_key: which cameras, all by default: one name, or several.
        fps: frames per second to write, a whole part of what the data have; or, where their format does not say, just
            what they have.
        lossless: keep every bit of the frames; LeRobot reads them, and encodes them anew where it edits.
    """

    source: Positional[Path]
    target: Positional[Path]
    size: Size = None
    fps: Annotated[float, Between(1e-3, 1e4)] | None = None
    lossless: bool = False

    def __call__(self) -> int:
        """Converts."""
        done = formats.convert(
            self.source, self.target, size=self.size, image_key=self.cameras, fps=self.fps, lossless=self.lossless
        )
        said = f"{done.succeeded} of {done.labelled} labelled ones succeeded" if done.labelled else "none labelled"
        print(f"{self.target}: {done.episodes} episodes, {done.actions} actions, {said}")
        return 0
