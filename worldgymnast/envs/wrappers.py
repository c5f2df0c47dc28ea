"""From one real environment to rows of a `gymnasium.vector.VectorEnv` that executes action chunks.

Real and imagined environments speak the same way, so that one `rl.rollout.roll_out` serves both:

- `reset(options={"starts": [...]})`, one `Layout` per row, or one `Start` where the environment is imagined;
- `step(chunks)` with float32 [b k a] returns {"image": uint8 [b h w 3]} and `info["frames"]` uint8 [b k h w 3], or
  [b k/every h w 3] where only the last of each `every` frames is looked at;
- at the last look `truncated` is set and `info` holds "score" (NaN where there is no verdict), "probability"
  (belief, or progress in an environment that reports it) and "success_frame" (-1 for none), each [b].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from worldgymnast.errors import FieldError, InputError
from worldgymnast.types import Layout

Observed = dict[str, Any]


class ChunkedEnv(gym.Env[Observed, np.ndarray]):
    """Row `row` of a vector environment: executes a whole chunk a step and reports every frame that was looked at.

    `info["success"]` has an entry for each of these frames: whether the task was accomplished there or since the one
    before.

    Args:
        make: makes the environment that executes single actions and reports `info["success"]`.
        chunk: actions per look, k.
        row: which of `options["starts"]` is this environment's own.
    """

    def __init__(self, make: Callable[[], gym.Env[Observed, np.ndarray]], chunk: int, row: int):
        self.env = make()
        self.chunk, self.row, self.every = chunk, row, getattr(self.env, "every", 1)
        if chunk % self.every:
            raise FieldError("every", f"found {self.every}, expected a divisor of the policy's chunk ({chunk})")
        horizon = getattr(getattr(self.env, "config", None), "horizon", chunk)
        if horizon % chunk:
            raise FieldError("horizon", f"found {horizon}, expected a multiple of the policy's chunk ({chunk})")
        single = self.env.action_space
        assert isinstance(single, gym.spaces.Box)
        self.action_space = gym.spaces.Box(
            np.broadcast_to(single.low, (chunk, *single.shape)).copy(),
            np.broadcast_to(single.high, (chunk, *single.shape)).copy(),
            dtype=np.float32,
        )
        assert isinstance(self.env.observation_space, gym.spaces.Dict)
        self.observation_space = gym.spaces.Dict({"image": self.env.observation_space["image"]})
        self._successes: list[bool] = []
        self._progress: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observed, Observed]:
        """Lays out this row's start; a row beyond the end of the list repeats the last start."""
        del seed
        starts = (options or {})["starts"]
        start = starts[min(self.row, len(starts) - 1)]
        layout = start if isinstance(start, Layout) else start.scene
        if layout is None:
            raise InputError(
                f"start of task '{start.task}': field 'layout': found none, expected the scene's seed; a photograph "
                "or a frame from the middle of an episode can be imagined from, not really started from"
            )
        observed, _ = self.env.reset(seed=layout.seed, options={"task": layout.task})
        self._successes, self._progress = [False], [0.0]
        return {"image": observed["image"]}, {}

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, Observed]:
        """Executes the chunk [k a] action by action."""
        frames, reward, truncated = [], 0.0, False
        observed: Observed = {}
        for single in action:
            observed, gained, _, truncated, info = self.env.step(single)
            reward += float(gained)
            frames.append(observed["image"])
            self._successes.append(bool(info["success"]))
            self._progress.append(float(info["success"] or info.get("progress", 0.0)))
        success = np.array(self._successes[-len(frames) :]).reshape(-1, self.every)
        report: Observed = {"frames": np.stack(frames[self.every - 1 :: self.every]), "success": success.any(1)}
        if truncated:
            hit = np.flatnonzero(self._successes)
            report["score"] = float(len(hit) > 0)
            report["probability"] = max(self._progress)
            report["success_frame"] = int(hit[0]) if len(hit) else -1
        return {"image": observed["image"]}, reward, False, truncated, report

    def close(self) -> None:
        """Closes the environment inside."""
        self.env.close()


def vectorize(make: Callable[[], gym.Env[Observed, np.ndarray]], rows: int, chunk: int) -> VectorEnv[Any, Any, Any]:
    """`rows` environments in as many processes (one row stays in this process), autoreset disabled."""
    members = [functools.partial(ChunkedEnv, make, chunk, row) for row in range(rows)]
    if rows == 1:
        return SyncVectorEnv(members, autoreset_mode=AutoresetMode.DISABLED)
    return AsyncVectorEnv(members, shared_memory=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
