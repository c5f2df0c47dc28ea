"""Small parts for tests with Ray workers, which import this module too."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldgymnast.actions import metaworld_spec
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.finetune import finetune
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.run import weights_hash
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.ray_dispatch import RecoveryConfig
from worldgymnast.surrogates.ray_pool import RayConfig, RayPool, ray_pool
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Clip, RolloutGroup, Start, Verdict, WorldState

SPEC, SIZE, CHUNK, HORIZON = metaworld_spec(3), 16, 2, 8
SENTENCE, QUESTION = "turn the lamp on", "question 1"


class NoisyLamp:
    """A world in which action x makes all pixels brighter by 10 x a frame, and chance flickers.

    Args:
        pause: seconds per step.
        size: height and width of a frame.
        trap: a folder: whichever worker first makes the file "trap" in it, calls `spring`.
    """

    identity = "noisy lamp"

    def __init__(self, pause: float = 0.0, trap: Path | None = None, size: int = SIZE):
        self.frame_size = (size, size)
        self.action_spec, self.fps, self.pause, self.trap = SPEC, 10.0, pause, trap

    def start(self, frames: Tensor) -> WorldState:
        return WorldState(frames.float(), 0)

    def step(
        self, state: WorldState, actions: Tensor, *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, Tensor]:
        time.sleep(self.pause)
        if self.trap is not None and state.frame == CHUNK and _is_first(self.trap):
            self.spring()
        shown = []
        for action in actions.unbind(1):
            noise = 4 * torch.randn(state.latent.shape, generator=generator)
            state = WorldState((state.latent + 10 * action[:, :1, None, None] + noise).clamp(0, 255), state.frame + 1)
            shown.append(state.latent.round().byte())
        return state, torch.stack(shown[every - 1 :: every], 1)

    def spring(self) -> None:
        """End this process at once, as the out-of-memory killer does."""
        os.kill(os.getpid(), 9)


class Stalling(NoisyLamp):
    """A world that stalls once, on one worker."""

    def spring(self) -> None:
        time.sleep(60)


class Raising(NoisyLamp):
    """A world that fails once, on one worker."""

    def spring(self) -> None:
        raise OSError("device lost")


class Impossible(NoisyLamp):
    """A world that no worker survives."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), 9)


def _is_first(folder: Path) -> bool:
    """Whether this call, of all processes, is the first one for this folder."""
    try:
        os.close(os.open(folder / "trap", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Bright:
    """Success is a last frame brighter than 128; a remote one answers after `pause` seconds."""

    is_remote: bool = False
    pause: float = 0.0
    name: str = "bright"
    identity: str = "bright"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        time.sleep(self.pause)
        return [Verdict(float(c.frames[-1].mean() > 128), float(c.frames[-1].mean() / 255)) for c in clips]


@dataclass(frozen=True)
class Counting(Bright):
    """A remote judge that appends the number of its process to a file for every clip."""

    path: Path = Path()
    is_remote: bool = True
    trap: Path | None = None

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        if self.trap is not None and _is_first(self.trap):
            os.kill(os.getpid(), 9)
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n" * len(clips))
        return super().score(clips)


@dataclass(frozen=True)
class Outage(Bright):
    """A judge in each worker, one of which fails once."""

    trap: Path = Path()

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        if _is_first(self.trap):
            raise ConnectionError("no judge")
        return super().score(clips)


class Rooms:
    """The sampler of `starts`."""

    identity = "rooms"

    def __call__(self, rng: np.random.Generator, count: int) -> list[Start]:
        return starts(rng, count)


def small_policy(seed: int = 0) -> SmallVLA:
    torch.manual_seed(seed)
    text = SentenceEncoder()
    text([SENTENCE, QUESTION])  # so that no worker loads the encoder
    return SmallVLA(SmallVLAConfig(chunk=CHUNK, width=16, blocks=1, hidden=32), SPEC, text)


def imagination(world: NoisyLamp | None = None, judge: Any = None) -> Imagination:
    return Imagination(world or NoisyLamp(), judge or Bright(), CHUNK, HORIZON, every=CHUNK)


def starts(rng: np.random.Generator, count: int, size: int = SIZE) -> list[Start]:
    """Rooms in which chance lights some lamps."""
    frames = rng.integers(90, 150, (count, 1, 1, 1)) + rng.integers(-20, 21, (count, size, size, 3))
    return [Start(frame.astype(np.uint8), SENTENCE, "lamp") for frame in frames]


STARTS, GROUP = 6, 4
FAST = RecoveryConfig(patience=1.0, slow=2.0, attempts=3, restarts=3)


def local(surrogate: Imagination, **kwargs: Any) -> LocalPool:
    source = surrogate.verdict_source
    return LocalPool(small_policy(), surrogate, source, rows=8, temperature=1.0, seed=0, streams="group", **kwargs)


def remote(surrogate: Imagination, workers: int = 2, recovery: RecoveryConfig = FAST) -> Any:
    config = RayConfig(workers=workers, recovery=recovery)
    return ray_pool(small_policy(1), surrogate, config, rows=8, temperature=1.0, seed=0)


def collect(pool: LocalPool | RayPool) -> list[RolloutGroup]:
    """Groups of two versions, and of a second begin at the last."""
    rng, groups = np.random.default_rng(0), []
    for version in (3, 4):
        pool.sync(small_policy(version).trainable_state(), version)
        groups += pool.begin(starts(rng, STARTS), GROUP)()
    return groups + pool.begin(starts(rng, 2), GROUP)()


def content(groups: Sequence[RolloutGroup]) -> list[Any]:
    """All that a group contains, as values that can be compared."""
    rows = []
    for rollout in (r for group in groups for r in group.rollouts):
        chunk = rollout.chunks
        tensors = {"actions": chunk.actions, "logprobs": chunk.logprobs}
        pixels = {name: images.tobytes() for name, images in rollout.images.items()}
        rows.append([weights_hash(tensors), pixels, rollout.frames.tobytes(), rollout.verdict, rollout.policy_version])
        rows[-1] += [rollout.start.frame.tobytes(), rollout.looks_until_success]
    return rows


def train(
    out: Path, make_pool: Any = None, judge: Any = None, world: NoisyLamp | None = None, **changes: Any
) -> tuple[str, list[dict[str, Any]]]:
    """Hash of the trained weights, and the metrics that do not measure time."""
    config = ReinforceConfig(
        steps=3,
        starts=4,
        group_size=4,
        horizon=HORIZON,
        rows=8,
        temperature=1.0,
        evaluate_every=100,
        save_every=1,
        streams="group",
        trainer=TrainerConfig(lr=5e-3),
    )
    config = replace(config, **changes)
    done = finetune(small_policy(), imagination(world, judge), Rooms(), out, config, make_pool=make_pool)
    rows = [
        {k: v for k, v in row.items() if not k.startswith(("seconds", "time", "pool/", "imagined_frames"))}
        for row in done.rows()
    ]
    return weights_hash(done.policy.trainable_state()), rows
