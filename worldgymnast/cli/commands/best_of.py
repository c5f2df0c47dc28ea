"""The command best-of: planning with the world model at deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from worldgymnast.cli.command import NO_PREFIX, DeviceCommand, OptionalPath
from worldgymnast.cli.environment import require_environment
from worldgymnast.cli.inputs import load_components, open_ledger
from worldgymnast.cli.origins import check_same_cameras
from worldgymnast.cli.results import print_results
from worldgymnast.cli.starters import component_files, refuse_unknown_tasks, robot_of
from worldgymnast.configs import checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment, environment_dict
from worldgymnast.measure.planning import evaluate_planning
from worldgymnast.measure.real import ScoreConfig
from worldgymnast.registry import load_policy, to_dict
from worldgymnast.rl.best_of import BestOf, BestOfConfig
from worldgymnast.run import Run
from worldgymnast.weights import identity

_INSTEAD = (
    "planning is compared on real layouts, so nothing can be measured. In Python, rl.best_of.BestOf plans on any robot"
)


@checked(kw_only=True)
class BestOfN(DeviceCommand):
    """Evaluate best-of-N planning with the world model on real layouts.

    The policy is evaluated alone, and with the best of N imagined action chunks at every step.

    Attributes:
        policy: policy file.
        config: planning settings.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
        env: real environment.
        score: episodes and layouts of the evaluation.
        out: run folder.
    """

    policy: Positional[Path]
    config: Annotated[BestOfConfig, NO_PREFIX] = BestOfConfig()
    world: OptionalPath = None
    judge: OptionalPath = None
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    score: ScoreConfig = ScoreConfig(per_task=10)
    out: Path

    def __call__(self) -> int:
        """Evaluate both, print table and time, and write the report."""
        self.prepare(self.out)
        starter = robot_of(self.env)
        files = component_files(starter, policy=self.policy, world=self.world, judge=self.judge)
        spec = load_policy(self.policy, is_tested=False).action_spec
        require_environment("best-of", self.policy, spec, self.given_flags, _INSTEAD)
        loaded = load_components(files, self.device, open_ledger(self.out), self.env, self.given_flags)
        env = loaded.env or self.env
        check_same_cameras(*files.values())
        refuse_unknown_tasks(self.judge, environment(env).tasks, starter)
        policy, world, judge = loaded.policy, loaded.world, loaded.judge
        inputs = {"policy": identity(policy), "world": identity(world), "judge": identity(judge)}
        settings = {"env": environment_dict(env), "score": to_dict(self.score), "inputs": inputs}
        with Run(self.out, to_dict(self.config) | settings) as run:
            planned = BestOf(policy, world, judge, self.config)
            name = f"best of {self.config.candidates}"
            both = {"as it is": policy, name: planned}
            rows, seconds = evaluate_planning(both, environment(env), self.score, self.out)
            run.finish({"frame_size": list(world.frame_size)})
        print_results(self.out, rows)
        alone, more = seconds["as it is"], seconds[name]
        print(f"Seconds per episode, environment included: {alone:.2f} without planning, {more:.2f} with {name}.")
        return 0
