"""What the processes of `test_scale` run: python or torchrun scale_worker.py OUT [SECONDS a batch]."""

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from worldgymnast import processes
from worldgymnast.loops.supervised import FitConfig, fit
from worldgymnast.run import Run
from worldgymnast.weights import save_weights

CONFIG = FitConfig(steps=16, parts=2, lr=1e-2, ema=0.9, log_every=1, save_every=4)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch["x"].shape, generator=batch["generator"])
        loss = (self.net(self.frozen(batch["x"] + 0.1 * noise)) - batch["y"]).square().mean()
        return loss, {"loss": float(loss.detach()), "progress": batch["progress"]}


def learn(out: Path, pause: float = 0.0) -> None:
    """Trains in OUT/run and leaves the weights beside it."""

    def batches(number: int) -> dict[str, Tensor]:
        time.sleep(pause)
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 6, generator=generator)
        return {"x": x, "y": torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)}

    module = Regression()
    with Run(out / "run", {"what": "test"}) as run:
        if run.finished is None:
            run.finish(fit(module, batches, CONFIG, run, "test"))
            if processes.rank() == 0:
                save_weights(out / "weights.safetensors", module.state_dict())


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes.join("cpu")
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    (folder / f"pid-{processes.rank()}").write_text(str(os.getpid()))
    learn(folder, float(sys.argv[2]))
