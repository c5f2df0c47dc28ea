"""Training loop for everything that learns from a fixed data set: autoencoder, policy, world model, judge.

Each has `loss, metrics = module.loss(batch)`. A batch and its random generator are pure functions of an integer. So a
killed run resumes bit for bit from its newest checkpoint.

A step uses the mean gradient of `parts` batches. A single process computes them one after the other. With W processes
(torchrun, `accelerate launch`) each computes every W-th, and gradients are averaged by Accelerate, or by FSDP for a
sharded model (`sharding`). So the result does not depend on the number of processes, up to rounding. Metrics are plain
means over parts, not weighted by their content.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn

from worldgymnast import processes
from worldgymnast.configs import Between, Fraction, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError
from worldgymnast.optimizers import OptimizerName, check_optimizer, make_optimizer
from worldgymnast.precision import Precision, autocast, compute_dtype
from worldgymnast.progress import Progress, SaveClock
from worldgymnast.run import Run, load_optimizer_tensors, optimizer_tensors
from worldgymnast.run_folder import checkpoint_errors_as_input_errors
from worldgymnast.sharding import full_on_first_rank, full_tensor, local_shard, shard_module
from worldgymnast.threads import single_threaded_worker
from worldgymnast.types import Metrics

Batches = Callable[[int], Mapping[str, Any]]
"""Returns the batch of a number; a pure function."""


class Trainable(Protocol):
    """A module with a loss."""

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Return the loss and metrics of a batch."""
        ...


@checked
class FitConfig:
    """Length, optimizer and logging of a training.

    Attributes:
        steps: optimizer steps.
        parts: batches per step, shared by the processes; their gradients are averaged.
        shard: shard parameters, gradients and optimizer state over the processes (FSDP2, torch's `fully_shard`), for
            models too large to train on one device. The weights alone must fit on one device before and after
            training, and up to five times in host memory per process. No effect with a single process.
        lr: peak learning rate; linear warmup, then cosine decay to a hundredth.
        warmup: share of the steps used for warmup.
        weight_decay: weight decay of AdamW.
        clip_norm: largest gradient norm.
        ema: decay of the averaged weights (EMA), which are the result.
        seed: random seed of the training.
        precision: number format of matrix products, "auto", "fp32" or "bf16"; see `worldgymnast.precision`.
        log_every: steps between two rows of metrics.
        save_every: most steps between two checkpoints. At least one is saved every five minutes.
        optimizer: "adamw", or "adamw-8bit", whose moments take a quarter of the memory (`pip install
            'worldgymnast[bitsandbytes]'`; not with `shard`).
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
    optimizer: OptimizerName = "adamw"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, self.shard)


def learning_rate(config: FitConfig, step: int) -> float:
    """Return the learning rate: linear warmup, then cosine decay from `lr` to `lr / 100`.

    >>> config = FitConfig(steps=100, lr=1.0, warmup=0.1)
    >>> [round(learning_rate(config, step), 2) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.51, 0.01]
    """
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random generator of a step, or of one of its parts."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def check_parts(config: Any, name: str = "") -> None:
    """Raise `InputError` unless the processes divide the parts of every `FitConfig` in `config` equally."""
    if isinstance(config, FitConfig):
        if config.parts % (count := processes.world_size()):
            raise FieldError(
                f"{name}parts",
                f"found {config.parts}, expected a multiple of {count}, the number of processes. Use {count}, or start "
                "another number of processes",
            )
    elif is_dataclass(config):
        for field in fields(config):
            check_parts(getattr(config, field.name), f"{field.name}.")


def fit(module: nn.Module, batches: Batches, config: FitConfig, run: Run, label: str) -> Metrics:
    """Train `module` in place, and load its averaged weights at the end.

    Resumes from the newest checkpoint in `run`. Parameters without gradient, such as those of a frozen autoencoder, do
    not change. Logs the metrics of the loss as means over parts and processes, the learning rate, `seconds` since the
    start, and `wait`: the share of time spent waiting for batches since the row before. Checkpoints hold full tensors,
    so they fit any number of processes.

    Args:
        module: the module to train; it has a `loss`. While a sharded copy is trained, it stays in host memory.
        batches: part p of step s is `batches(s * parts + p)`, made in a thread during the part before.
        config: the training.
        run: receives metrics and checkpoints.
        label: text of the progress bar.

    Returns:
        The last logged metrics.
    """
    check_parts(config)
    device = next(module.parameters()).device
    loss = _Loss(module)
    if config.shard and processes.world_size() > 1:
        loss = shard_module(loss, device, compute_dtype(config.precision, device))
    trained = {k: p for k, p in loss.module.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(
        config.optimizer, trained.values(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    averaged = {k: p.detach().clone() for k, p in trained.items()}
    first = _resume(run, trained, averaged, optimizer)
    logged = run.metrics()[-1:]
    last = {k: v for row in logged for k, v in row.items() if k not in ("step", "time", "seconds", "wait")}
    optimize = _OptimizerStep(loss, optimizer, config, device)
    numbers = (step * config.parts + part for step in range(first, config.steps) for part in _parts(config))
    clock = SaveClock()
    with Prefetcher(batches, numbers) as prefetcher, Progress(label, config.steps, done=first) as progress:
        for step in range(first, config.steps):
            metrics = optimize(prefetcher, step)
            _average(averaged, trained, min(config.ema, (1 + step) / (10 + step)))
            progress.advance(note=f"loss {metrics['loss']:.4g}")
            if step % config.log_every == 0 or step + 1 == config.steps:
                last = metrics | {"lr": learning_rate(config, step)}
                run.log(step, last | {"seconds": prefetcher.seconds, "wait": prefetcher.wait_share()})
            if step + 1 == config.steps or (step + 1) % config.save_every == 0 or clock.is_due():
                _save(run, step + 1, trained, averaged, optimizer)
                clock.restart()
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, mean in averaged.items():
            parameters[name].copy_(full_tensor(mean))
    if loss.module is not module:
        module.to(device)
    return last


def _parts(config: FitConfig) -> range:
    """Return the parts of a step that this process computes."""
    return range(processes.rank(), config.parts, processes.world_size())


class Prefetcher:
    """Makes the batches of `numbers`, in order, in a thread while the previous one is used.

    A batch is a pure function of its number, so this changes no result. Use it as a context manager.
    """

    def __init__(self, batches: Batches, numbers: Iterator[int]) -> None:
        self._batches, self._numbers = batches, numbers
        self._began = self._since = time.perf_counter()
        self._waited = 0.0

    def __enter__(self) -> Prefetcher:
        self._thread = single_threaded_worker("batches")
        self._next = self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _submit(self) -> Future[Mapping[str, Any]] | None:
        number = next(self._numbers, None)
        return None if number is None else self._thread.submit(self._batches, number)

    def take(self) -> Mapping[str, Any]:
        """Return the next batch."""
        assert self._next is not None, "no batch left"
        began = time.perf_counter()
        batch = self._next.result()
        self._waited += time.perf_counter() - began
        self._next = self._submit()
        return batch

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def wait_share(self) -> float:
        """Return the share, 0..1, of the time since the last call that `take` spent waiting."""
        now = time.perf_counter()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return share


class _Loss(nn.Module):
    """A module whose forward is the loss, for Accelerate and FSDP to wrap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        return self.module.loss(batch)  # pyright: ignore[reportCallIssue]


class _OptimizerStep:
    """Takes optimizer steps, alone or together with other processes."""

    def __init__(
        self, loss: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig, device: torch.device
    ) -> None:
        self.loss, self.optimizer, self.config, self.device = loss, optimizer, config, device
        self._accelerator: Any = None
        if processes.world_size() > 1 and not config.shard:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")  # `autocast` is ours
            self.loss = self._accelerator.prepare_model(loss)

    def __call__(self, prefetcher: Prefetcher, step: int) -> Metrics:
        """Take one step; return metrics averaged over all parts, and the gradient norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.optimizer.zero_grad()
        parts = [self._backward(prefetcher.take(), step, part) for part in _parts(self.config)]
        means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        metrics = processes.mean(means, self.device)
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"Loss is {metrics['loss']} at step {step}. Training stopped. Lower the lr and train again"
            )
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.optimizer.step()
        return metrics | {"gradient_norm": float(full_tensor(norm))}

    def _backward(self, batch: Mapping[str, Any], step: int, part: int) -> Metrics:
        """Add the gradient of one part.

        Processes exchange gradients at the last part. A sharded model exchanges them at every part, because there is no
        memory for a full gradient.
        """
        number = step * self.config.parts + part
        extra = {"generator": step_generator(self.config.seed, number), "progress": step / self.config.steps}
        parts = _parts(self.config)
        accelerator: Any = self._accelerator
        with nullcontext() if accelerator is None or part == parts[-1] else accelerator.no_sync(self.loss):
            with autocast(self.config.precision, self.device):
                loss, metrics = self.loss({**batch, **extra})
            (loss / len(parts)).backward()
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
    models = {f"model.{k}": v for k, v in trained.items()} | {f"ema.{k}": v for k, v in averaged.items()}
    run.save(step, {k: full_on_first_rank(v) for k, v in (models | tensors).items()}, {"optimizer": state})


@torch.no_grad()
def _resume(
    run: Run, trained: Mapping[str, Tensor], averaged: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    checkpoint = run.load()
    if checkpoint is None:
        return 0
    tensors = dict(checkpoint.tensors)
    with checkpoint_errors_as_input_errors(run.path):
        for index, (name, parameter) in enumerate(trained.items()):
            parameter.copy_(local_shard(tensors[f"model.{name}"], parameter))
            averaged[name].copy_(local_shard(tensors[f"ema.{name}"], parameter))
            for moment in (f"optimizer.{index}.exp_avg", f"optimizer.{index}.exp_avg_sq"):
                if moment in tensors:  # absent before the first gradient
                    tensors[moment] = local_shard(tensors[moment], parameter)
        load_optimizer_tensors(optimizer, tensors, checkpoint.state["optimizer"])
    return checkpoint.step
