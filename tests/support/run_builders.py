"""A minimal finished training with checkpoints, metrics and an evaluation."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldgymnast.actions import metaworld_spec
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.registry import Manifest, save_component
from worldgymnast.run import Run
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.types import Metrics
from worldgymnast.weights import weights_hash, write_text

CONFIG = {"rl": {"evaluate_starts": 2}, "env": {"tasks": ["open"]}, "seed": 0}
FIT = FitConfig(steps=6, lr=1e-2, save_every=2, log_every=1)


class Line(nn.Module):
    """Learns a straight line."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Mean squared error to the sum."""
        error = (self.linear(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        return error, {"loss": float(error.detach())}


def batches(step: int) -> Mapping[str, Any]:
    """Eight points."""
    return {"x": torch.randn(8, 3, generator=torch.Generator().manual_seed(step))}


def train(folder: Path, finish: bool = True, steps: int = FIT.steps) -> str:
    """Train, or go on, or read what is finished; the hash of the weights."""
    model = Line()
    config = FitConfig(steps=FIT.steps, lr=1e-2, save_every=2, log_every=1)
    with Run(folder, CONFIG, command="train") as run:
        if run.summary is None:
            metrics = fit(model, _stopping(steps), config, run, "line")
            if finish:
                run.export("line", model.state_dict(), {})
                run.finish({**metrics, "photographs": 3})
    from worldgymnast.run import load_weights

    return weights_hash(load_weights(folder / "line.safetensors")[0]) if finish else ""


class Stopped(Exception):
    """The training was killed."""


def _stopping(steps: int) -> Any:
    def make(step: int) -> Mapping[str, Any]:
        if step >= steps:
            raise Stopped
        return batches(step)

    return make


def outcome(layout: int, success: bool | None, task: str = "open") -> dict[str, Any]:
    """The row of an episode."""
    return {"task": task, "layout": layout, "seed": 0, "success": success, "imagined": success}


def seed_run(root: Path) -> Path:
    """A finished run of RL, as far as `report` and resuming see it."""
    folder = root / "run"
    train(folder)
    rows = [{"step": step, "time": 1.0, "reward": step / 6, "loss": None} for step in range(6)]
    scored = {"gap": 0.1, "gap_low": 0.0, "gap_high": 0.2, "imagined_success": 0.5, "real_success": None}
    rows[-1] |= scored
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    both = {name: [outcome(i, i < won) for i in range(4)] for name, won in (("before", 1), ("after", 3))}
    write_text(folder / "evaluation.json", json.dumps(both))
    kinds = [f"{place}_true_{kind}" for place in ("real", "imagined") for kind in ("positive", "negative")]
    curves = {name: [20.0, 19.0] for name in ("horizon", "psnr", "psnr_low", "psnr_high", "copy", "shuffled")}
    write_text(folder / "gate.json", json.dumps(dict.fromkeys(kinds, 0.9) | {"fidelity": curves}))
    write_text(folder / "stages.json", json.dumps({"record": 1.0}))
    shown = {"name": "open-right", "task": "open", "instruction": "open it", "layout": 1, "fps": 10.0}
    shown |= {"verdict": 1.0, "probability": 0.9, "real_success": True}
    write_text(folder / "gallery.json", json.dumps([shown]))
    return folder


def seed_component(root: Path) -> Path:
    """A policy of a few thousand numbers in its file."""
    torch.manual_seed(0)
    policy = SmallVLA(SmallVLAConfig(width=8, blocks=1, hidden=8, bins=3), metaworld_spec(6))
    path = root / "policy.safetensors"
    save_component(path, policy, Manifest("worldgymnast sft", 0, "data", {"loss": 1.0}))
    return path


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata as they are in the file, the hash included."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def unsealed(source: Path, target: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    """The file with something changed and without its hash, as somebody else could write it."""
    tensors, meta = parts(source)
    del meta["sha256"]
    change(tensors, meta)
    save_file(tensors, target, meta)
    return target


if __name__ == "__main__":
    seed_run(Path(sys.argv[1]))
