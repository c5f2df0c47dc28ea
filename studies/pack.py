"""Makes the starter components from a finished run of `reproduce`: 16-bit weights, empty scene, manifest.

Run as `python -m studies.pack runs/metaworld worldgymnast/starter`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worldgymnast.cli.commands.scenes import PLATE_FRAMES, sample_frames
from worldgymnast.episodes.lerobot import read
from worldgymnast.episodes.windows import concatenate
from worldgymnast.errors import InputError
from worldgymnast.recipes.quickstart import PLATE
from worldgymnast.registry import Manifest, load_learned_judge, load_policy, load_world, manifest_of, save_component
from worldgymnast.report.collect import recorded
from worldgymnast.scenes.plate import estimate_plate
from worldgymnast.weights import load_weights, to_json, weights_hash, write_text

PARTS = {"policy": ("sft", load_policy), "world": ("world", load_world), "judge": ("judge", load_learned_judge)}
"""Folder of each part in a run, and its loader."""
RECIPE_FIELDS = (
    "env",
    "record",
    "policy",
    "rollouts",
    "world",
    "judge",
    "rounds",
    "explorers",
    "explore",
    "explored",
    "again",
    "adapted",
)
"""Fields of the recipe that determine the parts."""


def pack(run: Path, out: Path) -> dict[str, Any]:
    """Write policy, world model, judge, explorers and plate of `run` to `out`; return manifest.json."""
    if not (run / "gate.json").is_file():
        raise InputError(
            f"{run}: gate.json is missing, so this run of reproduce has not passed its gate. Finish it first"
        )
    config = json.loads((run / "config.json").read_text())
    manifest: dict[str, Any] = {
        "recipe": (run / "command.txt").read_text().splitlines()[0],
        "budget": recorded(run),
        "gate": {k: v for k, v in json.loads((run / "gate.json").read_text()).items() if k != "fidelity"},
        "parts": {},
        "config": {name: config[name] for name in RECIPE_FIELDS},
    }
    sources = {name: run / stage for name, (stage, _) in PARTS.items()} | {"policy": imitation(run)}
    manifest["parts"] |= pack_parts(sources, out)
    for i, source in enumerate(sorted(run.glob("round-*/rl-*/policy.safetensors"))):
        manifest["parts"][f"explorer-{i}"] = pack_component(source, out / f"explorer-{i}.safetensors", load_policy)
    logged = concatenate([read(run / "data" / name) for name in ("logged", "policy")])
    estimate_plate(sample_frames(logged, PLATE_FRAMES, 0)).save(out / PLATE)
    write_text(out / "manifest.json", to_json(manifest))
    return manifest


def imitation(run: Path) -> Path:
    """Return the folder of a run's imitation policy: the adapted one, if there is one."""
    adapted = run / "adapted"
    return adapted if (adapted / "policy.safetensors").exists() else run / "sft"


def pack_parts(sources: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write policy, world model and judge from their folders in 16 bits; return what the manifest says of each."""
    return {
        name: pack_component(sources[name] / f"{name}.safetensors", out / f"{name}.safetensors", load)
        for name, (_, load) in PARTS.items()
    }


def pack_component(source: Path, target: Path, load: Callable[[Path], Any]) -> dict[str, Any]:
    """Write the component in 16 bits.

    Return its manifest and the identity of the written weights.
    """
    made = manifest_of(source)
    save_component(target, load(source), Manifest(**made), half=True)
    packed = weights_hash(load_weights(target)[0])[:16]
    return {"seed": made["seed"], "data": made["data"], "metrics": made["metrics"], "weights": packed}


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
