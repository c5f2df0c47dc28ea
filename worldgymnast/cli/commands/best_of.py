"""The command best-of: what planning with the world model at deployment is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from worldgymnast.cli.command import LENT, Computing, Weights, components, ledger
from worldgymnast.cli.conclude import conclude
from worldgymnast.cli.fitting import same_cameras
from worldgymnast.cli.starters import parts, refuse_tasks
from worldgymnast.configs import checked
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.measure.planning import deploy
from worldgymnast.measure.real import ScoreConfig
from worldgymnast.registry import environment, to_dict
from worldgymnast.rl.best_of import BestOf, BestOfConfig
from worldgymnast.run import Run
from worldgymnast.weights import identity


@checked(kw_only=True)
class BestOfN(Computing):
    """A policy as it is, and with the best of N proposed chunks at every look, on the same real layouts.

    Attributes:
        policy: the policy's file.
        config: how much is imagined at a look.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        env: the real environment.
        score: how many episodes, on which layouts.
        out: the run folder.
    """

    policy: Positional[Path]
    config: Annotated[BestOfConfig, LENT] = BestOfConfig()
    world: Weights = None
    judge: Weights = None
    env: MetaWorldConfig = MetaWorldConfig()
    score: ScoreConfig = ScoreConfig(per_task=10)
    out: Path

    def __call__(self) -> int:
        """Evaluates both, prints the table and what it costs, and writes the report."""
        self.prepare()
        files = parts(policy=self.policy, world=self.world, judge=self.judge)
        found = components(files, self.device, ledger(self.out), self.env)
        same_cameras(*files.values())
        refuse_tasks(self.judge, self.env.tasks)
        policy, world, judge = found.policy, found.world, found.judge
        inputs = {"policy": identity(policy), "world": identity(world), "judge": identity(judge)}
        settings = {"env": to_dict(self.env), "score": to_dict(self.score), "inputs": inputs}
        with Run(self.out, to_dict(self.config) | settings) as run:
            planned = BestOf(policy, world, judge, self.config)
            name = f"best of {self.config.candidates}"
            both = {"as it is": policy, name: planned}
            rows, seconds = deploy(both, environment(self.env), self.score, self.out)
            run.finish({})
        conclude(self.out, rows)
        alone, more = seconds["as it is"], seconds[name]
        print(f"Seconds an episode, the environment's included: {alone:.2f} as it is, {more:.2f} with {name}.")
        return 0
