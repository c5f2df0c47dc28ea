"""Gymnasium vector environment whose dynamics are a world model and whose reward is a judge.

It has the interface of the real vector environment (`envs.wrappers`): the same `reset` options and `info`. The policy
sees one frame per chunk. The judge scores the keyframes once, at the end of a rollout. Autoreset is disabled: all rows
start and end together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import (
    Judge,
    PredictsState,
    PredictsSuccess,
    WorldModel,
    predicts_state,
    require_state_dim,
    start_at,
    tiling_of,
)
from worldgymnast.types import IMAGE, STATE, Clip, Start, Verdict, WorldState, require_frame_size


class ImaginedVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """A batch of imagined rollouts.

    Args:
        world: the world model.
        judge: called once, after the last look of all rows; None gives no reward, for judging elsewhere.
        rows: number of rollouts.
        chunk: actions per look, k.
        horizon: actions in a rollout; a multiple of `chunk`.
        generator: source of all randomness.
        every: decode only the last of each `every` frames; `chunk` decodes keyframes only.

    Raises:
        FieldError: `horizon` is not a multiple of `chunk`.
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
        self.tiling = tiling_of(world)
        spec = world.action_spec
        spaces: dict[str, gym.Space[Any]] = {IMAGE: gym.spaces.Box(0, 255, (*world.frame_size, 3), np.uint8)}
        if predicts_state(world) and isinstance(world, PredictsState):
            spaces[STATE] = gym.spaces.Box(-np.inf, np.inf, (world.state_dim,), np.float32)
        self.single_observation_space = gym.spaces.Dict(spaces)
        low, high = (np.broadcast_to(np.array(x, np.float32), (chunk, spec.dim)).copy() for x in (spec.low, spec.high))
        self.single_action_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, rows)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, rows)
        self._state: WorldState | None = None
        self._starts: list[Start] = []
        self._keyframes: list[np.ndarray] = []
        self._foreseen: list[np.ndarray] = []
        self._actions = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start from `options["starts"]`, one `Start` per row.

        Identical frames are encoded once and forked.
        """
        if isinstance(seed, int):
            self.generator.manual_seed(seed)
        self._starts = list((options or {})["starts"])
        if len(self._starts) != self.num_envs:
            raise InputError(
                f"imagined environment: found {len(self._starts)} starts, expected {self.num_envs}, one per row"
            )
        for start in self._starts:
            if not isinstance(start, Start):
                raise InputError(
                    f"starts: found {type(start).__name__}, which has no frame to imagine from. Photograph it with the "
                    "real environment's photograph()"
                )
            require_frame_size(start.frame.shape, self.world.frame_size)
        unique: dict[tuple[int, int], int] = {}
        rows = [unique.setdefault((id(s.frame), id(s.state)), len(unique)) for s in self._starts]
        distinct = [self._starts[rows.index(i)] for i in range(len(unique))]
        images = np.stack([start.frame for start in distinct])
        self._state = start_world(self.world, distinct).fork(torch.tensor(rows))
        self._keyframes, self._foreseen, self._actions = [images[rows]], [np.zeros(len(rows), np.float32)], 0
        return observed(self.world, self._state, images[rows]), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine one chunk per row, float32 [b k a].

        Judge the rollouts at the horizon.
        """
        assert self._state is not None, "call reset first"
        self._state, frames = self.world.step(
            self._state, torch.from_numpy(actions), generator=self.generator, every=self.every
        )
        decoded = frames.cpu().numpy()
        self._keyframes.append(decoded[:, -1])
        self._predict_success()
        self._actions += actions.shape[1]
        is_over = self._actions >= self.horizon
        info: dict[str, Any] = {"frames": decoded}
        reward = np.zeros(self.num_envs)
        if is_over and (foreseen := self._all_foreseen()) is not None:
            info["foreseen"] = foreseen
        if is_over and self.judge is not None:
            verdicts = self._judge(self.judge)
            reward = np.array([v.score or 0.0 for v in verdicts])
            info |= verdict_info(verdicts, self.chunk)
        flags = np.zeros(self.num_envs, bool)
        return observed(self.world, self._state, decoded[:, -1]), reward, flags, np.full(self.num_envs, is_over), info

    def _predict_success(self) -> None:
        """Record the world model's own success probability, if it has a success head."""
        if not isinstance(self.world, PredictsSuccess) or self._state is None:
            return
        probability = self.world.predict_success(self._state, [start.instruction for start in self._starts])
        if probability is not None:
            self._foreseen.append(probability.float().cpu().numpy())

    def _all_foreseen(self) -> np.ndarray | None:
        """Success probabilities [b n+1] at the start (always 0) and after each look.

        None without a success head.
        """
        return np.stack(self._foreseen, 1) if len(self._foreseen) == len(self._keyframes) else None

    def _judge(self, judge: Judge) -> list[Verdict]:
        clips, foreseen = np.stack(self._keyframes, 1), self._all_foreseen()
        return judge.score(
            [
                Clip(clip, start.instruction, start.task, True, None if foreseen is None else foreseen[row])
                for row, (clip, start) in enumerate(zip(clips, self._starts, strict=True))
            ]
        )


def start_world(world: WorldModel, starts: Sequence[Start]) -> WorldState:
    """State of a world model at these starts, with the robot's state where it is known.

    Raises:
        InputError: a start has a state of another width than the world model predicts.
    """
    known, frames = known_states(world, starts), np.stack([start.frame for start in starts])
    return start_at(world, torch.from_numpy(frames), None if known is None else torch.from_numpy(known))


def known_states(world: WorldModel, starts: Sequence[Start]) -> np.ndarray | None:
    """The robot's state at these starts, float32 [n s], NaN where it is unknown; None if `world` does not predict it.

    Raises:
        InputError: a start has a state of another width than the world model predicts.
    """
    if not isinstance(world, PredictsState) or not predicts_state(world):
        return None
    known = np.full((len(starts), world.state_dim), np.nan, np.float32)
    for row, start in zip(known, starts, strict=True):
        if start.state is not None:
            require_state_dim(world, len(start.state), f"start of task '{start.task}'")
            row[:] = start.state
    return known


def observed(world: WorldModel, state: WorldState, images: np.ndarray) -> dict[str, np.ndarray]:
    """Observation of an imagined environment: the frames, and the robot's state if the world model predicts it.

    Args:
        world: the world model.
        state: its state.
        images: the newest frames, uint8 [b h w 3].
    """
    if not isinstance(world, PredictsState) or not predicts_state(world):
        return {IMAGE: images}
    robot = world.predict_state(state)
    if robot is None:
        raise InputError(
            f"world model {type(world).__name__} has state_dim {world.state_dim}, but predict_state returned "
            "None. Return the state at the newest frame, also at the start"
        )
    return {IMAGE: images, STATE: robot.float().cpu().numpy()}


def verdict_info(verdicts: list[Verdict], stride: int) -> dict[str, np.ndarray]:
    """Convert verdicts on clips of every `stride`-th frame to the `info` of a vector environment."""
    frames = [-1 if v.success_frame is None else v.success_frame * stride for v in verdicts]
    return {
        "score": np.array([np.nan if v.score is None else v.score for v in verdicts]),
        "probability": np.array([np.nan if v.probability is None else v.probability for v in verdicts]),
        "success_frame": np.array(frames),
        "judge_error": np.array([v.error for v in verdicts], dtype=object),
    }
