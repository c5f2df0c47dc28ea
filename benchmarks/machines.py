"""The recipes of docs/how-to/machines.md: memory of RL with published policies on one GPU of 24 and of 80 GB.

Plans tensors that have shapes and no contents, as `worldgymnast plan` does with files. OpenVLA takes minutes a row.

    python -m benchmarks.machines
    python -m benchmarks.machines SmolVLA Pi05
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.tiny_models import full_size
from worldgymnast.actions import WORLDGYM
from worldgymnast.measure.memory import RoleMemory, peak, policy_memory, world_memory
from worldgymnast.policies.full_size import FULL_SIZES, HORIZON
from worldgymnast.recipes.presets import WORLDS
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel

DISTILLED = {"slide": "band", "steps": 1, "guidance": 1.0}
RECIPES = (
    (24, "OpenVLA", "bridge-25m", False, 8, 1),
    (24, "OpenVLA", "bridge-600m", True, 4, 1),
    (24, "SmolVLA", "bridge-600m", True, 8, 1),
    (24, "Pi0", "bridge-25m", False, 8, 1),
    (80, "OpenVLA", "bridge-600m", True, 32, 4),
    (80, "OpenVLA", "bridge-600m", False, 8, 4),
    (80, "Pi05", "bridge-600m", True, 8, 2),
)
"""GB of the GPU, policy with LoRA, world model and whether it is distilled, rows, micro-batch."""


@functools.cache
def world_of(name: str, distilled: bool) -> LatentWorldModel:
    """World model of a preset without weights."""
    config = replace(WORLDS[name]().world, **(DISTILLED if distilled else {}))
    with torch.device("meta"):
        return LatentWorldModel(config, WORLDGYM, 5.0).eval()


@functools.cache
def imagined(name: str, distilled: bool, rows: int) -> RoleMemory:
    """Memory of a world model."""
    return world_memory(world_of(name, distilled), ReinforceConfig(rows=rows, horizon=HORIZON), "cuda")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(FULL_SIZES), metavar="KIND", help=", ".join(FULL_SIZES))
    kinds = parser.parse_args().kinds
    if unknown := sorted(set(kinds) - set(FULL_SIZES)):
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(FULL_SIZES)}")
    print("| machine | policy, LoRA | world model | rows, micro-batch | plain, GB | --rl.offload, GB |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for memory, kind, name, distilled, rows, micro_batch in RECIPES:
            if kind not in kinds:
                continue
            policy = full_size(kind, Path(folder))
            world = world_of(name, distilled)
            trainer = TrainerConfig(micro_batch=micro_batch)
            config = ReinforceConfig(rows=rows, horizon=HORIZON, trainer=trainer)
            roles = [policy_memory(policy, world, config, "cuda"), imagined(name, distilled, rows)]
            both = [peak(roles, offload=offload) / 1e9 for offload in (False, True)]
            cells = [f"{gb:.1f}" + (": does not fit" if gb > memory - 0.5 else "") for gb in both]
            way = ", distilled" if distilled else ", published" if name == "bridge-600m" else ""
            print(f"| 1 x {memory} GB | {FULL_SIZES[kind].name} | {name}{way} | {rows}, {micro_batch} | "
                  + " | ".join(cells) + " |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
