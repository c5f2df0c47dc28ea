"""AdamW with moments of 8 bits: it learns, resumes bit for bit, and its memory is the one that is planned."""

import pytest
import torch
from torch import nn

from worldgymnast.errors import InputError
from worldgymnast.optimizers import make_optimizer, moment_bytes
from worldgymnast.rl.update import TrainerConfig
from worldgymnast.run import Run
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.weights import load_optimizer_tensors, optimizer_tensors


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 64)

    def loss(self, batch):
        loss = (self.layer(batch["x"]) - batch["y"]).square().mean()
        return loss, {"loss": float(loss.detach())}


def batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(64, 128, generator=generator)
    return {"x": x, "y": x[:, :64] * 2 + 1}


def trained(path, steps, optimizer, batches=batches):
    torch.manual_seed(0)
    module = Regression()
    config = FitConfig(steps, lr=0.02, optimizer=optimizer, save_every=5, log_every=1, warmup=0.0)
    with Run(path, {"steps": steps}) as run:
        last = fit(module, batches, config, run, "regression")
    return module, last["loss"]


def test_moments_of_8_bits_learn_as_well(tmp_path):
    losses = {name: trained(tmp_path / name, 200, name)[1] for name in ("adamw", "adamw-8bit")}
    assert losses["adamw-8bit"] == pytest.approx(losses["adamw"], rel=0.3)
    assert losses["adamw-8bit"] < 0.1 * trained(tmp_path / "untrained", 1, "adamw")[1]


def test_a_killed_training_resumes_bit_for_bit(tmp_path):
    straight, _ = trained(tmp_path / "straight", 20, "adamw-8bit")

    class Killed(Exception):
        pass

    def until_12(step):
        if step > 12:
            raise Killed
        return batches(step)

    with pytest.raises(Killed):
        trained(tmp_path / "killed", 20, "adamw-8bit", until_12)
    resumed, _ = trained(tmp_path / "killed", 20, "adamw-8bit")
    assert torch.equal(resumed.layer.weight, straight.layer.weight)


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_planned_bytes_are_those_of_the_state(name):
    module = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 3))
    optimizer = make_optimizer(name, module.parameters(), lr=1e-3, weight_decay=0.0)
    module(torch.randn(2, 300)).sum().backward()
    optimizer.step()
    tables = ("qmap1", "qmap2")  # two tables for all parameters
    state = [v for s in optimizer.state.values() for k, v in s.items() if torch.is_tensor(v) and k not in tables]
    assert moment_bytes(name, module.parameters()) == sum(v.numel() * v.element_size() for v in state if v.ndim)


def test_state_survives_a_checkpoint_with_its_dtypes():
    layers = [nn.Linear(128, 64) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    first, second = (make_optimizer("adamw-8bit", m.parameters(), lr=0.1, weight_decay=0.0) for m in layers)
    x = torch.randn(8, 128)

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    step(layers[0], first)
    layers[1].load_state_dict(layers[0].state_dict())
    load_optimizer_tensors(second, *optimizer_tensors(first))
    step(layers[0], first)
    step(layers[1], second)
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("config", [FitConfig, TrainerConfig])
def test_sharding_is_refused(config):
    with pytest.raises(InputError, match="found 'adamw-8bit' with shard, expected 'adamw'"):
        config(optimizer="adamw-8bit", shard=True)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(InputError, match=r"worldgymnast\[bitsandbytes\]"):
        make_optimizer("adamw-8bit", [torch.zeros(1, requires_grad=True)], lr=1, weight_decay=0)
