"""An explorer of a study's world: a policy that is finetuned in it and recorded for real.

    python studies/explorers.py runs/study/all 6 --data runs/study/data

Reinforcement learning shows what a world has wrong. The rollouts are set explored-N of the data, from which the next
training learns; the policy is OUT/explorer-N/policy.safetensors. The same command resumes what was stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from command import Out, run
from episodes import EXPLORED, find, keep, rollouts_of
from tyro.conf import Positional

from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.recipes.record import of_explorer
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import Manifest, environment, load_learned_judge, load_policy, load_world, save_component
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.surrogates.imagination import Imagination

HALVED = "explorer-16.safetensors"
"""The policy with its weights in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Finetune an explorer in OUT's world and record it.

    Attributes:
        out: the folder of `worlds.py train` and `worlds.py judge`; the starter's world or judge where it has none.
        number: of the set, and the seed.
        data: where the set goes.
        steps: of its reinforcement learning.
        workers: processes of the real environment.
        device: where.
    """

    out: Out
    number: Positional[int]
    data: Path
    steps: int = 20
    workers: int = 2
    device: str = "cpu"

    def __call__(self) -> None:
        """Finetunes and records."""
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
            count, make = rollouts_of(lambda: load_policy(halved), of_explorer(recorded, self.number))
            keep(self.data, name, count, make())


if __name__ == "__main__":
    sys.exit(run(Explorer, __doc__))
