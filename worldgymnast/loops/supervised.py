"""One training loop for everything that learns from a fixed data set: autoencoder, policy, world model, judge.

Each has `loss, metrics = module.loss(batch)`. A batch is a pure function of the step, and so is the step's random
generator; a killed run therefore goes on bit for bit from its newest checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldgymnast.precision import Precision, autocast
from worldgymnast.run import Progress, Run, load_optimizer_tensors, optimizer_tensors
from worldgymnast.types import Metrics, in_range

Batches = Callable[[int], Mapping[str, Any]]


class Trainable(Protocol):
    """Whatever has a loss."""

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """The loss to descend, and numbers to log."""
        ...


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        lr: peak learning rate; linear warm-up, then a cosine down to a hundredth.
        warmup: share of the steps that warm up.
        weight_decay: of AdamW.
        clip_norm: largest gradient norm.
        ema: decay of the averaged weights, which are the result.
        seed: of every random draw.
        precision: of the matrix products, "auto", "fp32" or "bf16"; see `worldgymnast.precision`.
        log_every: steps between two rows of metrics.
        save_every: steps between two checkpoints.
    """

    steps: int = 1000
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.99
    seed: int = 0
    precision: Precision = "auto"
    log_every: int = 20
    save_every: int = 500

    def __post_init__(self) -> None:
        in_range(self, 1, "steps", "log_every", "save_every")
        in_range(self, 1e-12, "lr", "clip_norm", high=1e6)
        in_range(self, 0, "warmup", "ema", high=1)
        in_range(self, 0, "weight_decay", "seed")


def learning_rate(config: FitConfig, step: int) -> float:
    """Linear warm-up, then a half cosine from `lr` to `lr / 100`."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    way = (step - warm) / max(1, config.steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * way)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random generator of one step: a pure function of seed and step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def fit(module: nn.Module, batches: Batches, config: FitConfig, run: Run, what: str) -> Metrics:
    """Trains `module` in place, ends with its averaged weights, and returns the last logged metrics.

    Resumes from the newest checkpoint in `run`; where that is the last step's, nothing is left to train. Parameters
    that need no gradient, such as those of a frozen autoencoder, stay as they are.
    """
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    averaged = {k: p.detach().clone() for k, p in trained.items()}
    first = _resume(run, trained, averaged, optimizer)
    logged = run.metrics()[-1:]
    last = {k: v for row in logged for k, v in row.items() if k not in ("step", "time", "seconds")}
    began = time.perf_counter()
    with Progress(what, config.steps, done=first) as progress:
        for step in range(first, config.steps):
            metrics = _descend(module, batches(step), optimizer, config, step)
            _average(averaged, trained, min(config.ema, (1 + step) / (10 + step)))
            progress.advance(note=f"loss {metrics['loss']:.4g}")
            if step % config.log_every == 0 or step + 1 == config.steps:
                last = metrics | {"lr": learning_rate(config, step)}
                run.log(step, last | {"seconds": time.perf_counter() - began})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save(run, step + 1, trained, averaged, optimizer)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(averaged[name])
    return last


def _descend(
    module: nn.Module, batch: Mapping[str, Any], optimizer: torch.optim.Optimizer, config: FitConfig, step: int
) -> Metrics:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    extra = {"generator": step_generator(config.seed, step), "progress": step / config.steps}
    with autocast(config.precision, next(module.parameters()).device):
        loss, metrics = module.loss({**batch, **extra})  # pyright: ignore[reportCallIssue]
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"step {step}: the loss is {metrics['loss']}, expected a finite number; lower the lr")
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    optimizer.step()
    return metrics | {"gradient_norm": float(norm)}


@torch.no_grad()
def _average(averaged: dict[str, Tensor], trained: Mapping[str, Tensor], decay: float) -> None:
    for name, mean in averaged.items():
        mean.lerp_(trained[name], 1 - decay)


def _save(
    run: Run,
    step: int,
    trained: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors, state = optimizer_tensors(optimizer)
    both = {f"model.{k}": v for k, v in trained.items()} | {f"ema.{k}": v for k, v in averaged.items()}
    run.save(step, both | tensors, {"optimizer": state})


@torch.no_grad()
def _resume(
    run: Run, trained: Mapping[str, Tensor], averaged: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    checkpoint = run.load()
    if checkpoint is None:
        return 0
    for name in trained:
        trained[name].copy_(checkpoint.tensors[f"model.{name}"])
        averaged[name].copy_(checkpoint.tensors[f"ema.{name}"])
    load_optimizer_tensors(optimizer, checkpoint.tensors, checkpoint.state["optimizer"])
    return checkpoint.step
