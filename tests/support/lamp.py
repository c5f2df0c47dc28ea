"""A world that is known to the last bit, a judge of it, and episodes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from episode_builders import SPEC, episode
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.evaluation.uncertainty import imagine_clips
from worldgymnast.types import Clip, Episode, Verdict, WorldState

SIZE = 16


class Lamp:
    """A world that is known to the last bit: action x makes all pixels brighter by 10 x a frame, to 255 at most.

    `fades` adds that many levels a frame on top, which is what it gets wrong.
    """

    frame_size = (SIZE, SIZE)

    @property
    def identity(self) -> str:
        return f"lamp {self.fades} {self.action_spec}"

    def __init__(self, fades: float = 0.0, spec: ActionSpec = SPEC):
        self.fades, self.action_spec, self.fps = fades, spec, spec.rate or 10.0

    def start(self, frames: Tensor) -> WorldState:
        return WorldState(frames.float(), 0)

    def step(
        self, state: WorldState, actions: Tensor, *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, Tensor]:
        shown = []
        for action in actions.unbind(1):
            bright = (state.latent + 10 * action[:, :1, None, None] + self.fades).clamp(0, 255)
            state = WorldState(bright, state.frame + 1)
            shown.append(bright.round().byte())
        return state, torch.stack(shown, 1)


class Seer(Lamp):
    """A lamp that knows how bright it is."""

    def predict_success(self, state: WorldState, instruction: Sequence[str]) -> Tensor:
        assert len(instruction) == len(state.latent)
        return state.latent.mean((1, 2, 3)) / 255


class BrightJudge:
    """Success is a last frame brighter than 128; it is as sure as it is far from there."""

    name = identity = identity = "bright-v1"
    is_remote = False

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        levels = [float(c.frames[-1].mean()) for c in clips]
        return [Verdict(float(x > 128), float(np.clip((x - 64) / 128, 0, 1))) for x in levels]


def lamp_episode(index: int, steps: int = 8, world: Lamp | None = None) -> Episode:
    """An episode of noise lit by the true lamp; its actions are whole tenths, so that nothing is rounded."""
    rng = np.random.default_rng(index)
    first = rng.integers(60, 140, (SIZE, SIZE, 3), dtype=np.uint8)
    actions = np.round(rng.uniform(-1, 1, (steps, 4)), 1).astype(np.float32)
    frames = imagine_clips(world or Lamp(), first[None], actions[None], 0)[0]
    return replace(
        episode(index, steps=steps, size=SIZE),
        frames=frames,
        actions=actions,
        success=np.arange(steps + 1) == steps if frames[-1].mean() > 128 else np.zeros(steps + 1, bool),
        task="lamp",
    )
