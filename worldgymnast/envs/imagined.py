"""A Gymnasium vector environment whose physics is a world model and whose reward is a judge.

It speaks like the real vector environment (`envs.wrappers`): the same `reset` options, the same `info`. The policy
looks once a chunk; the judge looks once a rollout, at the frame of every look. Autoreset is disabled: all rows begin
and end together.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import Foreseeing, Judge, WorldModel
from worldgymnast.types import IMAGE, Clip, Start, Verdict, WorldState


class ImaginedVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """`rows` imagined rollouts side by side.

    Args:
        world: the world model.
        judge: the judge, called once at the last look of all rows; None leaves judging, and so the reward, to others.
        rows: number of rollouts.
        chunk: actions a look, k.
        horizon: actions in a rollout; must be a multiple of `chunk`.
        generator: every random draw of the imagination.
        every: decode only the last of each so many frames; `chunk` decodes only what policy and judge look at.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's contract

    def __init__(
        self,
        world: WorldModel,
        judge: Judge | None,
        *,
        rows: int,
        chunk: int,
        horizon: int,
        generator: torch.Generator,
        every: int = 1,
    ):
        if horizon % chunk:
            raise FieldError("horizon", f"found {horizon}, expected a multiple of the policy's chunk ({chunk})")
        self.world, self.judge, self.generator = world, judge, generator
        self.num_envs, self.chunk, self.horizon, self.every = rows, chunk, horizon, every
        spec = world.action_spec
        self.single_observation_space = gym.spaces.Dict(
            {IMAGE: gym.spaces.Box(0, 255, (*world.frame_size, 3), np.uint8)}
        )
        low, high = (np.broadcast_to(np.array(x, np.float32), (chunk, spec.dim)).copy() for x in (spec.low, spec.high))
        self.single_action_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, rows)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, rows)
        self._state: WorldState | None = None
        self._starts: list[Start] = []
        self._looked: list[np.ndarray] = []
        self._foreseen: list[np.ndarray] = []
        self._actions = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins at `options["starts"]`, one `Start` per row; equal frames are encoded once and forked."""
        if isinstance(seed, int):
            self.generator.manual_seed(seed)
        self._starts = list((options or {})["starts"])
        if len(self._starts) != self.num_envs:
            raise InputError(f"imagined environment: {len(self._starts)} starts, expected {self.num_envs}, one per row")
        unique: dict[int, int] = {}
        rows = [unique.setdefault(id(s.frame), len(unique)) for s in self._starts]
        frames = {unique[id(s.frame)]: s.frame for s in self._starts}
        images = np.stack([frames[i] for i in range(len(frames))])
        self._state = self.world.start(torch.from_numpy(images)).fork(torch.tensor(rows))
        self._looked, self._foreseen, self._actions = [images[rows]], [np.zeros(len(rows), np.float32)], 0
        return {IMAGE: self._looked[0]}, {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagines the frames of one chunk per row, float32 [b k a]; judges at the last one."""
        assert self._state is not None, "call reset first"
        self._state, frames = self.world.step(
            self._state, torch.from_numpy(actions), generator=self.generator, every=self.every
        )
        seen = frames.cpu().numpy()
        self._looked.append(seen[:, -1])
        self._foresee()
        self._actions += actions.shape[1]
        ended = self._actions >= self.horizon
        info: dict[str, Any] = {"frames": seen}
        reward = np.zeros(self.num_envs)
        if ended and (foreseen := self._all_foreseen()) is not None:
            info["foreseen"] = foreseen
        if ended and self.judge is not None:
            verdicts = self._judge(self.judge)
            reward = np.array([v.score or 0.0 for v in verdicts])
            info |= verdict_info(verdicts, self.chunk)
        flags = np.zeros(self.num_envs, bool)
        return {IMAGE: seen[:, -1]}, reward, flags, np.full(self.num_envs, ended), info

    def _foresee(self) -> None:
        """Asks the world for its own opinion, where it has one."""
        if not isinstance(self.world, Foreseeing) or self._state is None:
            return
        found = self.world.foreseen(self._state, [start.instruction for start in self._starts])
        if found is not None:
            self._foreseen.append(found.float().cpu().numpy())

    def _all_foreseen(self) -> np.ndarray | None:
        """At the start, where nothing is done yet, and after each look, [b n+1]; None where the world says nothing."""
        return np.stack(self._foreseen, 1) if len(self._foreseen) == len(self._looked) else None

    def _judge(self, judge: Judge) -> list[Verdict]:
        clips, foreseen = np.stack(self._looked, 1), self._all_foreseen()
        return judge.score(
            [
                Clip(clip, start.instruction, start.task, True, None if foreseen is None else foreseen[row])
                for row, (clip, start) in enumerate(zip(clips, self._starts, strict=True))
            ]
        )


def verdict_info(verdicts: list[Verdict], stride: int) -> dict[str, np.ndarray]:
    """Verdicts on clips of every `stride`-th frame as the `info` of a vector environment."""
    frames = [-1 if v.success_frame is None else v.success_frame * stride for v in verdicts]
    return {
        "score": np.array([np.nan if v.score is None else v.score for v in verdicts]),
        "probability": np.array([np.nan if v.probability is None else v.probability for v in verdicts]),
        "success_frame": np.array(frames),
        "judge_error": np.array([v.error for v in verdicts], dtype=object),
    }
