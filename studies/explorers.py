"""Finetunes a policy in a study's world model, and records it for real (an explorer).

    python -m studies.explorers runs/study/all 6 --data runs/study/data

RL exposes errors of a world model. The rollouts become set explored-N of the data, for the next training. The policy is
OUT/explorer-N/policy.safetensors. The same command resumes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from studies.command import Out, run
from studies.episodes import EXPLORED, find, keep, rollouts_of
from worldgymnast.environments import environment
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.recipes.record import explorer_config
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import Manifest, load_learned_judge, load_policy, load_world, save_component
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.surrogates.imagination import Imagination

HALVED = "explorer-16.safetensors"
"""File name of the policy with 16-bit weights."""


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Finetune an explorer in OUT's world model and record it.

    Attributes:
        out: folder of `worlds.py train` and `worlds.py judge`; missing parts are the starter's.
        number: number of the set, and the seed.
        data: folder of the set.
        steps: RL steps.
        workers: processes of the real environment.
        device: of the training.
    """

    out: Out
    number: Positional[int]
    data: Path
    steps: int = 20
    workers: int = 2
    device: str = "cpu"

    def __call__(self) -> None:
        """Finetune and record."""
        recipe, photos = Recipe(), QuickstartConfig()
        world, judge = (self.out / part / f"{part}.safetensors" for part in ("world", "judge"))
        world = load_world(world if world.exists() else starter("world"), self.device)
        judge = load_learned_judge(judge if judge.exists() else starter("judge"), self.device)
        policy = load_policy(starter("policy"), self.device)
        rl = replace(recipe.explore, steps=self.steps, seed=self.number)
        first = photos.photograph_layout + 1000 * self.number
        starts = PhotographedStarts(environment(recipe.env), photos.photographs, first)
        imagine = Imagination.of(policy, world, judge, rl.horizon)
        explorer = finetune(policy, imagine, starts, self.out / f"explorer-{self.number}", rl).policy
        made = Manifest(f"studies/explorers.py {self.out.name}", self.number)
        halved = self.out / f"explorer-{self.number}" / HALVED
        save_component(halved, explorer, made, half=True)
        name, recorded = f"{EXPLORED}{self.number}", replace(recipe.explored, workers=self.workers)
        if not find(self.data, name):
            count, make = rollouts_of(lambda: load_policy(halved), explorer_config(recorded, self.number))
            keep(self.data, name, count, make())


if __name__ == "__main__":
    sys.exit(run(Explorer, __doc__))
