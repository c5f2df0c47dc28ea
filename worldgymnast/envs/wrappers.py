"""Wrappers from one real environment to a `gymnasium.vector.VectorEnv` that executes action chunks.

Real and imagined environments share one interface, so `rl.rollout.roll_out` serves both:

- `reset(options={"starts": [...]})` takes one `Layout` per row, or one `Start` if the environment is imagined.
- `step(chunks)` with float32 [b k a] returns {"image": uint8 [b h w 3]} and `info["frames"]` uint8 [b k h w 3], or
  [b k/every h w 3] if only the last of each `every` frames is rendered.
- An environment with proprioception also returns "state" float32 [b s], and `info["states"]` at the rendered frames.
- Several cameras are tiled into the image; the vector environment's `tiling` says where each lies (see `HasTiling`).
- After the last chunk `truncated` is set, and `info` has "score" (NaN without a verdict), "probability" (of success, or
  progress if the environment reports it) and "success_frame" (-1 for none), each [b]; real environments add "executed",
  the actions before the episode ended.
- Rows end together, at the horizon. A row whose episode ended before is stepped no more: it keeps its last frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from worldgymnast.errors import FieldError, InputError
from worldgymnast.types import IMAGE, STATE, Layout

Values = dict[str, Any]


class ChunkedEnv(gym.Env[Values, np.ndarray]):
    """One row of a vector environment: executes a chunk per step and reports every rendered frame.

    `info["success"]` has one entry per rendered frame: whether the task was accomplished at or since the previous one.
    Where the environment does not know (None), there is no success. Without a success, and if it does not know at the
    end either, there is no score.

    Args:
        make: builds the environment, which executes single actions and reports `info["success"]`. If its config has a
            horizon, the row ends there, even if the episode `terminated` before.
        chunk: actions per look, k.
        row: index of this row's start in `options["starts"]`.
    """

    def __init__(self, make: Callable[[], gym.Env[Values, np.ndarray]], chunk: int, row: int):
        self.env = make()
        self.chunk, self.row, self.every = chunk, row, getattr(self.env, "every", 1)
        if chunk % self.every:
            raise FieldError("every", f"found {self.every}, expected a divisor of the policy's chunk ({chunk})")
        self.horizon = getattr(getattr(self.env, "config", None), "horizon", 0)
        if self.horizon % chunk:
            raise FieldError("horizon", f"found {self.horizon}, expected a multiple of the policy's chunk ({chunk})")
        single = self.env.action_space
        assert isinstance(single, gym.spaces.Box)
        self.action_space = gym.spaces.Box(
            np.broadcast_to(single.low, (chunk, *single.shape)).copy(),
            np.broadcast_to(single.high, (chunk, *single.shape)).copy(),
            dtype=np.float32,
        )
        assert isinstance(self.env.observation_space, gym.spaces.Dict)
        spaces = self.env.observation_space.spaces
        self._keys = [key for key in (IMAGE, STATE) if key in spaces]
        self.observation_space = gym.spaces.Dict({key: spaces[key] for key in self._keys})
        self._successes: list[bool | None] = []
        self._progress: list[float] = []
        self._executed, self._is_over = 0, False
        self._seen: Values = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Values, Values]:
        """Reset to this row's start.

        A row beyond the end of the list repeats the last start.

        Raises:
            InputError: the start has no layout.
        """
        del seed
        starts = (options or {})["starts"]
        start = starts[min(self.row, len(starts) - 1)]
        layout = start if isinstance(start, Layout) else start.scene
        if layout is None:
            raise InputError(
                f"start of task '{start.task}': field 'layout': found none, expected the scene's seed. A photograph or "
                "a frame from the middle of an episode can only start an imagined rollout"
            )
        observation, _ = self.env.reset(seed=layout.seed, options={"task": layout.task})
        self._successes, self._progress = [False], [0.0]
        self._executed, self._is_over, self._seen = 0, False, self._visible(observation)
        return self._seen, {}

    def _visible(self, observation: Values) -> Values:
        """The image, and the state if the environment has one."""
        return {key: observation[key] for key in self._keys}

    def step(self, action: np.ndarray) -> tuple[Values, float, bool, bool, Values]:
        """Execute the chunk [k a] action by action."""
        seen, reward = list[Values](), 0.0
        for single in action:
            reward += self._repeat() if self._is_over else self._execute(single)
            seen.append(self._seen)
        rendered = seen[self.every - 1 :: self.every]
        success = np.array([bool(one) for one in self._successes[-len(seen) :]]).reshape(-1, self.every)
        report: Values = {"frames": np.stack([one[IMAGE] for one in rendered]), "success": success.any(1)}
        if STATE in self._keys:
            report["states"] = np.stack([one[STATE] for one in rendered]).astype(np.float32)
        is_over = len(self._successes) > self.horizon if self.horizon else self._is_over
        if is_over:
            report |= self._outcome()
        return self._seen, reward, False, is_over, report

    def _execute(self, action: np.ndarray) -> float:
        """Execute one action; return its reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen, self._is_over = self._visible(observation), bool(terminated or truncated)
        self._executed += 1
        success = info["success"]
        unknown = np.nan if success is None else 0.0
        self._successes.append(None if success is None else bool(success))
        self._progress.append(1.0 if success else float(info.get("progress", unknown)))
        return float(reward)

    def _repeat(self) -> float:
        """Keep the last frame of an episode that ended; return no reward."""
        self._successes.append(self._successes[-1])
        return 0.0

    def _outcome(self) -> Values:
        """Score of the episode: NaN if the environment does not know it."""
        success_frames = np.flatnonzero([bool(one) for one in self._successes])
        is_unknown = not len(success_frames) and self._successes[-1] is None
        progress = [one for one in self._progress[1:] if not np.isnan(one)]
        return {
            "score": np.nan if is_unknown else float(len(success_frames) > 0),
            "probability": max(progress, default=np.nan if is_unknown else 0.0),
            "success_frame": int(success_frames[0]) if len(success_frames) else -1,
            "executed": self._executed,
        }

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()


def vectorize(make: Callable[[], gym.Env[Values, np.ndarray]], rows: int, chunk: int) -> VectorEnv[Any, Any, Any]:
    """Vector of `rows` environments, one process each.

    A single row runs in this process. Autoreset is disabled.
    """
    members = [functools.partial(ChunkedEnv, make, chunk, row) for row in range(rows)]
    if rows == 1:
        return SyncVectorEnv(members, autoreset_mode=AutoresetMode.DISABLED)
    return AsyncVectorEnv(members, shared_memory=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
