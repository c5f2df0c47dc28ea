"""Workers of `test_scale`, one torchrun for several trainings: scale_worker.py KIND ARGUMENTS.

Kinds:

    plain OUT          a training in OUT/plain, and a slow one in OUT/killed that waits to be killed
    sharded OUT        one in OUT/sharded that stops at step 10, is copied to OUT/alone and goes on; then, as soon as
                       OUT/dead is there, OUT/killed goes on
    commands WORDS     that command, first with a part for only one process

So three times two processes load torch, and not six times.
"""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from worldgymnast import processes
from worldgymnast.run import Run
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.weights import save_weights

CONFIG = FitConfig(steps=16, parts=2, lr=1e-2, ema=0.9, precision="fp32", log_every=1, save_every=4)
SHARDED = replace(CONFIG, parts=4, shard=True)


class _Pair(nn.Module):
    """Two blocks that are called, inside one that is not, as in the video transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(15, 15), nn.Linear(15, 15)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.into, self.out = nn.Conv2d(6, 15, 3, padding=1), nn.Linear(15, 1)
        self.blocks = nn.ModuleList([_Pair(), _Pair()])
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch["x"].shape, generator=batch["generator"])
        x = self.into(self.frozen(batch["x"] + 0.1 * noise)[:, :, None, None])[:, :, 0, 0]
        for pair in self.blocks:
            assert isinstance(pair, _Pair)
            x = x + pair.two(pair.one(x).tanh())
        loss = (1 + batch["progress"]) * (self.out(x)[:, 0] - batch["y"]).square().mean()
        return loss, {"loss": float(loss.detach())}


class Stopped(Exception):
    """Takes the place of a kill where several trainings share their processes."""


def learn(out: Path, config: FitConfig, pause: float = 0.0, stop: int | None = None) -> None:
    """Trains in OUT/run and leaves the weights beside it; `pause` seconds a batch, batch `stop` stops it."""

    def batches(number: int) -> dict[str, Tensor]:
        time.sleep(pause)
        if stop is not None and number >= stop:
            raise Stopped
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 6, generator=generator)
        return {"x": x, "y": x.sum(1) + x[:, 0] * x[:, 1]}

    out.mkdir(parents=True, exist_ok=True)
    (out / f"pid-{processes.rank()}").write_text(str(os.getpid()))
    module = Regression()
    with Run(out / "run", {"what": "test"}) as run:
        run.finish(fit(module, batches, config, run, "test"))
        if processes.rank() == 0:
            save_weights(out / "weights.safetensors", module.state_dict())


def _plain(out: Path) -> None:
    learn(out / "plain", CONFIG)
    learn(out / "killed", CONFIG, pause=0.2)


def _sharded(out: Path) -> None:
    try:
        learn(out / "sharded", SHARDED, stop=10 * SHARDED.parts)
    except Stopped:
        processes.on_rank_zero(lambda: shutil.copytree(out / "sharded", out / "alone"))
    learn(out / "sharded", SHARDED)
    while not (out / "dead").exists():
        time.sleep(0.05)
    learn(out / "killed", CONFIG)


def _commands(*words: str) -> int:
    from worldgymnast.cli.main import main

    assert main([*words, "--fit.parts", "1"]) == 2
    return main([*words, "--fit.parts", "2"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, *rest = sys.argv[1:]
    if kind == "commands":
        sys.exit(processes.exit_process(_commands(*rest)))
    processes.initialize("cpu")
    {"plain": _plain, "sharded": _sharded}[kind](Path(rest[0]))
    processes.exit_process(0)
