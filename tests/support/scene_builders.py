"""Scenes drawn by hand, the plate of one, and folders of pictures with a sentence each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldgymnast.scenes.plate import Plate, estimate_plate
from worldgymnast.video import encode

TABLE, WALL, ROBOT = (60, 120, 150), (200, 200, 210), (180, 20, 20)


def scene(robot: int | None = None, size: int = 48) -> np.ndarray:
    """A table under a wall; a robot's arm from above at that column."""
    frame = np.full((size, size, 3), TABLE, np.uint8)
    frame[: size // 3] = WALL
    if robot is not None:
        frame[: size * 3 // 4, robot : robot + 8] = ROBOT
    return frame


def bare_plate() -> Plate:
    """What stays where it is while the robot moves."""
    return estimate_plate(np.stack([scene(robot) for robot in range(0, 40, 2)]))


def put(folder: Path, name: str, said: Any = None, shape: tuple[int, int] = (64, 64), value: int = 100) -> Path:
    """A picture or a video in `folder`, with what is said beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    frame = np.full((*shape, 3), value, np.uint8)
    if path.suffix == ".mp4":
        encode(path, np.stack([frame, 255 - frame]), 5.0)
    else:
        Image.fromarray(frame).save(path)
    if said is not None:
        path.with_suffix(".json").write_text(said if isinstance(said, str) else json.dumps(said))
    return path
