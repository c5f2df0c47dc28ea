"""A policy, world model, judge and environment as somebody else would write them: nothing of ours is inherited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.types import ActionChunk, Clip, Layout, Observation, Start, Verdict, WorldState

SPEC = ActionSpec(("brightness", "gripper"), "10 levels", (-1.0, -1.0), (1.0, 1.0), gripper="effort", rate=10.0)
HEIGHT, WIDTH = 12, 20
"""Not square."""


@dataclass(frozen=True)
class MineConfig:
    """Of `Mine`."""

    width: int = 8


class Mine(nn.Module):
    """A Gaussian policy with one log-probability a chunk; its sample is a mapping of two tensors."""

    config_type = MineConfig
    chunk, cameras, needs, action_spec = 2, ("image",), frozenset({"image"}), SPEC

    def __init__(self, config: MineConfig | None = None):
        super().__init__()
        self.config = config or MineConfig()
        self.net = nn.Sequential(nn.Linear(3, self.config.width), nn.Tanh(), nn.Linear(self.config.width, 4))

    @classmethod
    def from_config(cls, config: MineConfig, info: Any) -> Mine:
        del info
        return cls(config)

    def _mean(self, obs: Observation) -> Tensor:
        return self.net(obs.images["image"].float().mean((1, 2)) / 255).unflatten(-1, (2, 2))

    def _density(self, mean: Tensor, drawn: Tensor, temperature: float) -> Tensor:
        return torch.distributions.Normal(mean, 0.5 * (temperature or 1.0)).log_prob(drawn).sum((1, 2))

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        mean = self._mean(obs)
        noise = torch.randn(mean.shape, generator=generator)
        drawn = mean + 0.5 * temperature * noise
        sample = {"drawn": drawn, "noise": noise}
        return ActionChunk(drawn.clamp(-1, 1), sample, self._density(mean, drawn, temperature), temperature)

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        assert isinstance(chunk.sample, Mapping)
        return self._density(self._mean(obs), chunk.sample["drawn"], chunk.temperature)

    def trainable_state(self) -> dict[str, Tensor]:
        return dict(self.state_dict())

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(dict(state))

    @property
    def identity(self) -> str:
        return " ".join(f"{float(weight.sum()):.6f}" for weight in self.state_dict().values())


class Dimmer:
    """A world of frames that are not square: the first number of an action makes them brighter by 10 levels."""

    fps, action_spec, frame_size, identity = 10.0, SPEC, (HEIGHT, WIDTH), "dimmer"

    def start(self, frames: Tensor) -> WorldState:
        return WorldState(frames.float(), 0)

    def step(
        self, state: WorldState, actions: Tensor, *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, Tensor]:
        shown = []
        for action in actions.unbind(1):
            state = WorldState((state.latent + 10 * action[:, :1, None, None]).clamp(0, 255), state.frame + 1)
            shown.append(state.latent.round().byte())
        return state, torch.stack(shown, 1)[:, every - 1 :: every]


class Bright:
    """Success is a frame brighter than 128 on average."""

    name = identity = identity = "brighter than 128"
    is_remote = False

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        found = []
        for clip in clips:
            hit = np.flatnonzero(clip.frames.mean((1, 2, 3)) > 128)
            found.append(Verdict(float(len(hit) > 0), success_frame=int(hit[0]) if len(hit) else None))
        return found


class Room(VectorEnv[Any, Any, Any]):
    """Rows of the real room: as `Dimmer`, from a brightness that the layout's seed decides."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's contract

    def __init__(self, rows: int, chunk: int, horizon: int, every: int):
        self.num_envs, self.chunk, self.horizon, self.every = rows, chunk, horizon, every
        box = gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.single_observation_space = gym.spaces.Dict({"image": box})
        self.single_action_space = gym.spaces.Box(-1, 1, (chunk, 2), np.float32)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        starts = [s if isinstance(s, Layout) else s.scene for s in (options or {})["starts"]]
        self.levels = np.stack([frame_of(layout.seed).astype(np.float64) for layout in starts])
        self.actions, self.seen = 0, [self.levels.mean((1, 2, 3)) > 128]
        return {"image": self.levels.astype(np.uint8)}, {}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        frames = []
        for action in np.moveaxis(actions, 1, 0):
            self.levels = np.clip(self.levels + 10 * action[:, :1, None, None], 0, 255)
            frames.append(self.levels.round().astype(np.uint8))
            self.seen.append(self.levels.mean((1, 2, 3)) > 128)
        self.actions += self.chunk
        shown, done = np.stack(frames, 1)[:, self.every - 1 :: self.every], self.actions >= self.horizon
        success = np.stack(self.seen[-self.chunk :], 1).reshape(self.num_envs, -1, self.every).any(2)
        info: dict[str, Any] = {"frames": shown, "success": success}
        if done:
            hits = np.stack(self.seen, 1)
            info["score"], info["probability"] = hits.any(1).astype(float), hits.any(1).astype(float)
            info["success_frame"] = np.where(hits.any(1), hits.argmax(1), -1)
        none = np.zeros(self.num_envs, bool)
        return {"image": frames[-1]}, np.zeros(self.num_envs), none, np.full(self.num_envs, done), info

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing to close."""


def frame_of(seed: int) -> np.ndarray:
    """What is seen first in the layout of that seed."""
    rng = np.random.default_rng(seed)
    return rng.integers(60, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8) + np.uint8(10 * (seed % 2))


@dataclass(frozen=True)
class Light:
    """The real environment: a lamp that is to be lit."""

    action_spec = SPEC
    tasks = ("light",)
    horizon = 8
    identity = "a real lamp"

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        return {"image": (HEIGHT, WIDTH)}

    def instructions(self, task: str) -> tuple[str, ...]:
        return ("light the lamp", "make it bright")

    def layouts(self, per_task: int, first: int) -> list[Layout]:
        return [Layout("light", first + i, "light the lamp") for i in range(per_task)]

    def photograph(self, layouts: Sequence[Layout]) -> list[Start]:
        return [layout.start(frame_of(layout.seed)) for layout in layouts]

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> Room:
        return Room(rows, chunk, horizon, chunk if keyframes_only else 1)
