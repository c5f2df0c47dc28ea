"""Time of a look of published policies in full size, and what vision, language model and head take of it.

The weights are random: they cost the same time as the published ones, and no file is read. Prints a row of a table.
With several rows, its last column is the largest |ratio - 1| of the looks rescored one at a time.

    OMP_NUM_THREADS=1 python -m benchmarks.vla_speed SmolVLA --update
    python -m benchmarks.vla_speed OpenVLA --rows 8 --device cuda
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.tiny_models import full_size
from benchmarks.vla_ratio import ratio_error
from worldgymnast.policies.full_size import FULL_SIZES
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_language import restore_rotary
from worldgymnast.types import Observation

SENTENCE = "put the carrot on the plate"
SIDE = 256
"""Pixels of a frame."""


class Clock:
    """Seconds spent in named parts; a part inside another counts for the inner one alone."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self._open = device, dict[str, float](), list[tuple[str, float]]()

    def now(self) -> float:
        """The time, after all work on the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _add(self, now: float) -> None:
        name, since = self._open.pop()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - since

    def enter(self, name: str) -> None:
        """Begin a part."""
        now = self.now()
        if self._open:
            outer = self._open[-1][0]
            self._add(now)
            self._open.append((outer, now))
        self._open.append((name, now))

    def leave(self) -> None:
        """End the innermost part."""
        now = self.now()
        self._add(now)
        if self._open:
            self._open[-1] = (self._open[-1][0], now)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, timed as a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(name)
            try:
                return call(*args, **kwargs)
            finally:
                self.leave()

        return timed


def parts_of(policy: Any) -> list[tuple[str, Any, str]]:
    """Name of a part, and the object and method that compute it."""
    if isinstance(policy, OpenVLA):
        towers = (policy.vision_backbone, policy.projector)
        return [
            *(("vision", tower, "forward") for tower in towers),
            ("language", policy.language_model.model, "forward"),
        ]
    modules = dict(policy.model.named_modules())
    towers = [
        m for name, m in modules.items() if name.endswith((".vision_model", ".vision_tower", "projector", "connector"))
    ]
    return [
        *(("vision", tower, "forward") for tower in towers),
        ("language", policy.model, "context"),
        ("head", policy.model, "hidden"),
        ("head", policy.model, "velocity"),
    ]  # fmt: skip


@torch.no_grad()
def randomize(policy: nn.Module, device: torch.device) -> None:
    """Give a policy of the "meta" device random weights on a device."""
    policy.to_empty(device=device)
    for parameter in policy.parameters():
        parameter.normal_(std=0.02)
    for buffer in policy.buffers():  # scales of actions and state
        buffer.fill_(1)
    if isinstance(policy, OpenVLA):
        restore_rotary(policy.language_model)


def seconds_of(call: Callable[[], Any], clock: Clock, repeats: int) -> float:
    """Mean seconds of a call."""
    began = clock.now()
    for _ in range(repeats):
        call()
    return (clock.now() - began) / repeats


def peak(device: torch.device) -> float:
    """Most GB at one time, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=FULL_SIZES)
    parser.add_argument("--rows", type=int, default=1, help="looks at a time")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--update", action="store_true", help="also log-probabilities and gradient")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        policy = full_size(args.kind, Path(folder))
        randomize(policy, device)
        clock = Clock(device)
        frames = torch.randint(256, (args.rows, SIDE, SIDE, 3), dtype=torch.uint8)
        obs = Observation.of(frames, [SENTENCE] * args.rows)
        chunk: Any = None

        def act() -> None:
            nonlocal chunk
            chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))

        def update() -> None:
            policy.logprobs(obs, chunk).sum().backward()

        act()
        for name, owner, method in parts_of(policy):
            setattr(owner, method, clock.around(name, getattr(owner, method)))
        look = seconds_of(act, clock, args.repeats)
        shares = {name: clock.seconds.get(name, 0.0) / (args.repeats * look) for name in ("vision", "language")}
        learn = seconds_of(update, clock, 1) if args.update else None
        error = ratio_error(policy, obs, chunk) if args.rows > 1 else None
    row = {
        "policy": FULL_SIZES[args.kind].name,
        "weights, G": f"{sum(parameter.numel() for parameter in policy.parameters()) / 1e9:.2f}",
        "rows": args.rows,
        "look, s": f"{look:.2f}",
        "chunks/s": f"{args.rows / look:.3f}",
        "tokens or numbers/s": f"{chunk.actions.numel() / look:.2f}",
        "vision": f"{shares['vision']:.0%}",
        "language": f"{shares['language']:.0%}",
        "head, rest": f"{1 - sum(shares.values()):.0%}",
        "update, s": "" if learn is None else f"{learn:.1f}",
        "peak, GB": f"{peak(device):.1f}",
        "ratio error": "" if error is None else f"{error:.1e}",
    }
    print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
    print("| " + " | ".join(str(cell) for cell in row.values()) + " |")


if __name__ == "__main__":
    main()
