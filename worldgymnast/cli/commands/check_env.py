"""The command check-env: what is missing or wrong in a real environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from worldgymnast.actions import ActionSpecMismatch, require_same
from worldgymnast.arguments import check_pictures
from worldgymnast.cli.command import Command, OptionalPath
from worldgymnast.configs import Positive, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, OptionalMembers, unopened_environment
from worldgymnast.errors import InputError
from worldgymnast.protocols import RealEnvironment, frame_size, tiling_of
from worldgymnast.registry import load_policy
from worldgymnast.testing import inspect_environment

Reference = Annotated[Positional[str], tyro.conf.arg(metavar="REF", help_behavior_hint="(required)")]


@checked(kw_only=True)
class CheckEnv(Command):
    """Check a real environment: print what it is, and every problem on a line.

    Attributes:
        reference: the environment: metaworld, libero, gym:ID, module:factory, lerobot:TYPE, maniskill:ID,
            KIND:ARGUMENT or FILE.json.
        env: fields of the environment that differ from the reference's.
        policy: policy that is to act in it; its actions, chunk and inputs are compared.
        chunk: actions per look, if no policy is given.
        rows: parallel rows that are tried; more than one are processes.
    """

    takes_environment: ClassVar[bool] = True
    reference: Reference
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    policy: OptionalPath = None
    chunk: Positive = 2
    rows: Positive = 1

    def __call__(self) -> int:
        """Print the findings; return 1 if something is wrong."""
        try:
            robot = unopened_environment(self.env)
        except InputError as error:
            return self._print_problems([str(error)])
        self.prepare()
        chunk = self.chunk if self.policy is None else load_policy(self.policy).chunk
        result = inspect_environment(robot, chunk, self.rows)
        if self.policy is not None and not result.problems:
            result.problems += policy_problems(self.policy, robot)
        for name, value in result.found.items():
            print(f"{name}: {value}")
        for note in result.notes:
            print(f"note: {note}")
        return self._print_problems(result.problems)

    def _print_problems(self, problems: list[str]) -> int:
        for problem in problems:
            print(f"problem: {problem}")
        noun = "problem" if len(problems) == 1 else "problems"
        print(f"{self.reference}: {len(problems)} {noun}" if problems else f"{self.reference}: no problem found")
        return int(bool(problems))


def policy_problems(path: Path, robot: RealEnvironment) -> list[str]:
    """Return what keeps a policy from acting in an environment, one line each."""
    policy, problems = load_policy(path), list[str]()
    try:
        require_same(policy.action_spec, robot.action_spec, f"{path} and environment")
    except ActionSpecMismatch as error:
        problems.append(f"{error}. Give a policy that was trained on its actions, or correct --env.spec")
    if "state" in policy.needs and not OptionalMembers.of(robot).state_names:
        problems.append(f"{path}: needs proprioception, which the environment does not give. Set --env.state-key")
    missing = [name for name in policy.cameras if name not in ("image", *robot.cameras)]
    if missing:
        problems.append(
            f"{path}: needs the cameras {', '.join(missing)}, but the environment has {', '.join(robot.cameras)}. Set "
            "--env.image-key or --env.cameras"
        )
    else:
        try:
            check_pictures(policy, frame_size(robot), tiling_of(robot), str(path), "the environment")
        except InputError as error:
            problems.append(str(error))
    return problems
