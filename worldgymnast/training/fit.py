"""One training loop for everything that learns from a fixed data set: autoencoder, policy, world model, judge.

Each has `loss, metrics = module.loss(batch)`. A batch is a pure function of an integer, and so is the random generator
that goes with it; a killed run therefore goes on bit for bit from its newest checkpoint.

A step descends the mean gradient over `parts` batches. One process takes them one after the other; of W processes
(torchrun, `accelerate launch`) each takes every W-th, and their gradients are averaged, by Accelerate or, where a
model is spread over the processes (`training.sharding`), by FSDP. So what is learned does not depend on the number of
processes, beyond rounding. Left out: metrics weighted by what each part holds (a mean of means).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn

from worldgymnast import processes
from worldgymnast.configs import Between, Fraction, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError
from worldgymnast.precision import Precision, autocast, compute_dtype
from worldgymnast.progress import Progress
from worldgymnast.run import Run, load_optimizer_tensors, optimizer_tensors
from worldgymnast.run_folder import resuming
from worldgymnast.training.sharding import for_first, share, spread, whole
from worldgymnast.types import Metrics

Batches = Callable[[int], Mapping[str, Any]]


class Trainable(Protocol):
    """Whatever has a loss."""

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """The loss to descend, and numbers to log."""
        ...


@checked
class FitConfig:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        parts: batches a step, shared by the processes; their gradients are averaged.
        shard: parameters, gradients and optimiser state are spread over the processes (FSDP2, torch's `fully_shard`);
            for sizes that one device cannot train. The weights alone must fit on one device, before and after, and
            up to five times in the host's memory for each process. One process trains as without.
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

    steps: Positive = 1000
    parts: Positive = 1
    shard: bool = False
    lr: Annotated[float, Between(1e-12, 1e6)] = 1e-3
    warmup: Fraction = 0.05
    weight_decay: NonNegative = 0.01
    clip_norm: Annotated[float, Between(1e-12, 1e6)] = 1.0
    ema: Fraction = 0.99
    seed: Seed = 0
    precision: Precision = "auto"
    log_every: Positive = 20
    save_every: Positive = 500


def learning_rate(config: FitConfig, step: int) -> float:
    """Linear warm-up, then a half cosine from `lr` to `lr / 100`."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    way = (step - warm) / max(1, config.steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * way)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random generator of one step, or of one of its parts: a pure function of seed and number."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def check_parts(config: Any, name: str = "") -> None:
    """Raises `InputError` where the processes cannot share the parts of a `FitConfig`, or of one inside it, equally."""
    if isinstance(config, FitConfig):
        if config.parts % (count := processes.count()):
            raise FieldError(
                f"{name}parts",
                f"found {config.parts}, expected a multiple of {count}, the number of processes; give {count} or start "
                "another number of them",
            )
    elif is_dataclass(config):
        for field in fields(config):
            check_parts(getattr(config, field.name), f"{field.name}.")


def fit(module: nn.Module, batches: Batches, config: FitConfig, run: Run, what: str) -> Metrics:
    """Trains `module` in place, ends with its averaged weights, and returns the last logged metrics.

    Resumes from the newest checkpoint in `run`; where that is the last step's, nothing is left to train. Parameters
    that need no gradient, such as those of a frozen autoencoder, stay as they are. Part p of step s is
    `batches(s * parts + p)`, made in a thread while the part before is learned from. Beside the metrics of the loss,
    means over parts and processes, are logged: the learning rate, `seconds` since the start, and `wait`, the share of
    the time since the row before in which this process stood still for a batch. While a spread copy of it is trained,
    `module` waits in the host's memory. Checkpoints hold whole tensors and fit any number of processes.
    """
    check_parts(config)
    device = next(module.parameters()).device
    loss = _Loss(module)
    if config.shard and processes.count() > 1:
        loss = spread(loss, device, compute_dtype(config.precision, device))
    trained = {k: p for k, p in loss.module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    averaged = {k: p.detach().clone() for k, p in trained.items()}
    first = _resume(run, trained, averaged, optimizer)
    logged = run.metrics()[-1:]
    last = {k: v for row in logged for k, v in row.items() if k not in ("step", "time", "seconds", "wait")}
    descent = _Descent(loss, optimizer, config, device)
    mine = (step * config.parts + part for step in range(first, config.steps) for part in _parts(config))
    with Ahead(batches, mine) as ahead, Progress(what, config.steps, done=first) as progress:
        for step in range(first, config.steps):
            metrics = descent(ahead, step)
            _average(averaged, trained, min(config.ema, (1 + step) / (10 + step)))
            progress.advance(note=f"loss {metrics['loss']:.4g}")
            if step % config.log_every == 0 or step + 1 == config.steps:
                last = metrics | {"lr": learning_rate(config, step)}
                run.log(step, last | {"seconds": ahead.seconds, "wait": ahead.wait()})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save(run, step + 1, trained, averaged, optimizer)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, mean in averaged.items():
            parameters[name].copy_(whole(mean))
    if loss.module is not module:
        module.to(device)
    return last


def _parts(config: FitConfig) -> range:
    """The parts of a step that this process takes."""
    return range(processes.rank(), config.parts, processes.count())


class Ahead:
    """The batches of `numbers`, in their order, each made in a thread while the one before is used.

    A batch is a pure function of its number, so this changes no result. A context manager.
    """

    def __init__(self, batches: Batches, numbers: Iterator[int]) -> None:
        self._batches, self._numbers = batches, numbers
        self._began = self._since = time.perf_counter()
        self._waited = 0.0

    def __enter__(self) -> Ahead:
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next = self._order()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _order(self) -> Future[Mapping[str, Any]] | None:
        number = next(self._numbers, None)
        return None if number is None else self._thread.submit(self._batches, number)

    def take(self) -> Mapping[str, Any]:
        """The next batch."""
        assert self._next is not None, "found no number left, expected one for each batch taken"
        began, wanted = time.perf_counter(), self._next
        batch = wanted.result()
        self._waited += time.perf_counter() - began
        self._next = self._order()
        return batch

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began

    def wait(self) -> float:
        """The share, 0..1, of the time since the last call that `take` stood still."""
        now = time.perf_counter()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return share


class _Loss(nn.Module):
    """A module's loss as its forward, which is what Accelerate and FSDP wrap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        return self.module.loss(batch)  # pyright: ignore[reportCallIssue]


class _Descent:
    """One optimiser step, alone or together with other processes."""

    def __init__(
        self, loss: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig, device: torch.device
    ) -> None:
        self.loss, self.optimizer, self.config, self.device = loss, optimizer, config, device
        self._accelerator: Any = None
        if processes.count() > 1 and not config.shard:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")  # `autocast` is ours
            self.loss = self._accelerator.prepare_model(loss)

    def __call__(self, ahead: Ahead, step: int) -> Metrics:
        """Descends once; returns the means over all parts of what the loss says, and the norm of the mean gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.optimizer.zero_grad()
        found = [self._backward(ahead.take(), step, part) for part in _parts(self.config)]
        means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        metrics = processes.mean(means, self.device)
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"step {step}: the loss is {metrics['loss']}, expected a finite number; lower the lr"
            )
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.optimizer.step()
        return metrics | {"gradient_norm": float(whole(norm))}

    def _backward(self, batch: Mapping[str, Any], step: int, part: int) -> Metrics:
        """Adds the gradient of one part.

        The processes exchange theirs at the last part; at every part where the model is spread over them, since a
        whole gradient to wait with is what there is no memory for.
        """
        number = step * self.config.parts + part
        extra = {"generator": step_generator(self.config.seed, number), "progress": step / self.config.steps}
        mine = _parts(self.config)
        accelerator: Any = self._accelerator
        with nullcontext() if accelerator is None or part == mine[-1] else accelerator.no_sync(self.loss):
            with autocast(self.config.precision, self.device):
                loss, metrics = self.loss({**batch, **extra})
            (loss / len(mine)).backward()
        return metrics


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
    run.save(step, {k: for_first(v) for k, v in (both | tensors).items()}, {"optimizer": state})


@torch.no_grad()
def _resume(
    run: Run, trained: Mapping[str, Tensor], averaged: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    checkpoint = run.load()
    if checkpoint is None:
        return 0
    tensors = dict(checkpoint.tensors)
    with resuming(run.path):
        for index, (name, parameter) in enumerate(trained.items()):
            parameter.copy_(share(tensors[f"model.{name}"], parameter))
            averaged[name].copy_(share(tensors[f"ema.{name}"], parameter))
            for moment in (f"optimizer.{index}.exp_avg", f"optimizer.{index}.exp_avg_sq"):
                if moment in tensors:  # not where no gradient has come yet
                    tensors[moment] = share(tensors[moment], parameter)
        load_optimizer_tensors(optimizer, tensors, checkpoint.state["optimizer"])
    return checkpoint.step
