"""The starter components from a finished run of `reproduce`: 16-bit weights, the empty scene, and how they were made.

Run as `python -m studies.pack runs/metaworld worldgymnast/starter`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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
"""Where each part lies in a run, and what reads it."""
TOLD = (
    "env", "record", "policy", "rollouts", "world", "judge", "rounds", "explorers", "explore", "explored", "again"
)  # fmt: skip
"""Of the recipe, what the parts come from."""


def pack(run: Path, out: Path) -> dict[str, Any]:
    """Writes policy, world, judge, explorers and plate of `run` to `out` with manifest.json, which is returned."""
    if not (run / "gate.json").is_file():
        raise InputError(f"{run}: found no gate.json, expected a run of reproduce past its gate; finish it first")
    config = json.loads((run / "config.json").read_text())
    manifest: dict[str, Any] = {
        "recipe": (run / "command.txt").read_text().splitlines()[0],
        "budget": recorded(run),
        "gate": {k: v for k, v in json.loads((run / "gate.json").read_text()).items() if k != "fidelity"},
        "parts": {},
        "config": {name: config[name] for name in TOLD},
    }
    for name, (stage, load) in PARTS.items():
        manifest["parts"][name] = _packed(run / stage / f"{name}.safetensors", out / f"{name}.safetensors", load)
    for i, source in enumerate(sorted(run.glob("round-*/rl-*/policy.safetensors"))):
        manifest["parts"][f"explorer-{i}"] = _packed(source, out / f"explorer-{i}.safetensors", load_policy)
    logged = concatenate([read(run / "data" / name) for name in ("logged", "policy")])
    estimate_plate(sample_frames(logged, PLATE_FRAMES, 0)).save(out / PLATE)
    write_text(out / "manifest.json", to_json(manifest))
    return manifest


def _packed(source: Path, target: Path, load: Callable[[Path], Any]) -> dict[str, Any]:
    """Writes the component in 16 bits; returns how it was made, and the identity of what was written."""
    made = manifest_of(source)
    save_component(target, load(source), Manifest(**made), half=True)
    packed = weights_hash(load_weights(target)[0])[:16]
    return {"seed": made["seed"], "data": made["data"], "metrics": made["metrics"], "weights": packed}


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
