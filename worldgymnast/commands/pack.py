"""The starter components from a finished run of `reproduce`: 16-bit weights, the empty scene, and how they were made.

    python -m worldgymnast.commands.pack runs/metaworld worldgymnast/starter
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from worldgymnast.commands.scenes import PLATE_FRAMES, some_frames
from worldgymnast.config import Manifest, load_classifier, load_policy, load_world, manifest_of, save_component
from worldgymnast.episodes.lerobot import read
from worldgymnast.episodes.windows import concatenate
from worldgymnast.loops.quickstart import PLATE
from worldgymnast.report.collect import recorded
from worldgymnast.scenes.plate import plate_of
from worldgymnast.types import InputError
from worldgymnast.weights import load_weights, to_json, weights_hash, write_text

PARTS = {"policy": ("sft", load_policy), "world": ("world", load_world), "judge": ("judge", load_classifier)}


def pack(run: Path, out: Path) -> dict[str, Any]:
    """Writes policy, world, judge and plate of `run` to `out` with manifest.json, which is returned."""
    if not (run / "gate.json").is_file():
        raise InputError(f"{run}: found no gate.json, expected a run of reproduce past its gate; finish it first")
    config = json.loads((run / "config.json").read_text())
    manifest: dict[str, Any] = {
        "recipe": (run / "command.txt").read_text().splitlines()[0],
        "budget": recorded(run),
        "gate": {k: v for k, v in json.loads((run / "gate.json").read_text()).items() if k != "fidelity"},
        "parts": {},
        "config": {name: config[name] for name in ("env", "record", "policy", "rollouts", "world", "judge")},
    }
    for name, (stage, load) in PARTS.items():
        source, target = run / stage / f"{name}.safetensors", out / f"{name}.safetensors"
        made = manifest_of(source)
        save_component(target, load(source), Manifest(**made), half=True)
        packed = weights_hash(load_weights(target)[0])[:16]
        manifest["parts"][name] = {
            "seed": made["seed"], "data": made["data"], "metrics": made["metrics"], "weights": packed
        }
    logged = concatenate([read(run / "data" / name) for name in ("logged", "policy")])
    plate_of(some_frames(logged, PLATE_FRAMES, 0)).save(out / PLATE)
    write_text(out / "manifest.json", to_json(manifest))
    return manifest


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
