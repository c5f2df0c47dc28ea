"""A robot of six joints with two cameras of different sizes, as a data set and as starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldgymnast.actions import ActionSpec, foreign_spec
from worldgymnast.episodes.lerobot import LeRobotWriter
from worldgymnast.types import Episode

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
JOINTS = tuple(f"joint_{i}.pos" for i in range(1, 7))
SPEC: ActionSpec = foreign_spec(tuple(f"delta_{i}" for i in range(1, 7)), (-0.2,) * 6, (0.2,) * 6, rate=10.0)


def front(joints: np.ndarray) -> np.ndarray:
    """A square whose position shows the first two joints, uint8 [48 64 3]."""
    frame = np.full((48, 64, 3), 40, np.uint8)
    row, column = (np.clip((joints[:2] + 1) / 2, 0, 1) * (36, 52)).astype(int)
    frame[row : row + 12, column : column + 12] = (220, 60, 60)
    return frame


def wrist(joints: np.ndarray) -> np.ndarray:
    """Three bands whose brightness shows the third to fifth joint, uint8 [40 40 3]; the sixth is invisible."""
    frame = np.zeros((40, 40, 3), np.uint8)
    for band, joint in enumerate(joints[2:5]):
        frame[13 * band : 13 * band + 13] = int(np.clip((joint + 1) / 2, 0, 1) * 250)
    return frame


def episode(index: int, length: int = 12, names: Sequence[str] = JOINTS) -> Episode:
    """An episode of small random motions; those of odd number succeed where the first joint is positive."""
    rng = np.random.default_rng(index)
    joints = [rng.uniform(-0.8, 0.8, 6)]
    actions = rng.uniform(-0.2, 0.2, (length, 6)).astype(np.float32)
    actions[:, 0] = 0.15 if index % 2 else -0.15
    for action in actions:
        joints.append(np.clip(joints[-1] + action, -1, 1))
    state = np.stack(joints).astype(np.float32)
    return Episode(
        frames=np.stack([front(each) for each in state]),
        actions=actions,
        instruction="move right",
        task="move",
        fps=10.0,
        spec=SPEC,
        success=(state[:, 0] > 0) & (index % 2 == 1),
        source="expert",
        camera=FRONT,
        cameras={WRIST: np.stack([wrist(each) for each in state])},
        state=state,
        state_names=tuple(names),
        robot="so101_follower",
    )


def write(path: Path, episodes: int = 8, **options: object) -> Path:
    """Write a data set with LeRobotWriter."""
    with LeRobotWriter(path, SPEC, 10.0) as writer:
        for index in range(episodes):
            writer.add(episode(index, **options))  # pyright: ignore[reportArgumentType]
    return path
