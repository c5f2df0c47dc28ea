"""A moving picture of real episodes beside the same actions imagined.

    python benchmarks/replays.py DATA WORLD docs/pictures/libero.webp [TASK TASK]

Above a success, below a failure; left real, right imagined from the first frame alone. The episodes are the first of
their kind in DATA, of the two tasks if they are given.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.registry import load_world
from worldgymnast.training.replay import replay
from worldgymnast.video import enlarge, side_by_side

SCALE, GAP, QUALITY = 2, 4, 60


def chosen(episodes: EpisodeSet, tasks: list[str]) -> EpisodeSet:
    """The first success, and the first failure."""
    rows = []
    for wanted, task in zip((True, False), tasks or ["", ""], strict=True):
        candidates = [e for e in np.flatnonzero(episodes.succeeded == wanted) if episodes.task[e] == task or not task]
        rows.append(candidates[0])
    return episodes.select(np.array(rows, np.int64))


def moving_picture(real: EpisodeSet, imagined: EpisodeSet) -> np.ndarray:
    """Frames uint8 [t h w 3]: a line per episode, real and imagined."""
    pairs = [(real.episode(e).frames, imagined.episode(e).frames) for e in range(len(real))]
    length = max(len(frames) for pair in pairs for frames in pair)
    lines = []
    for pair in pairs:
        line = side_by_side(pair, GAP)
        lines.append(np.concatenate([line, line[-1:].repeat(length - len(line), 0)]))
    bar = np.full((length, GAP, lines[0].shape[2], 3), 255, np.uint8)
    parts = [part for line in lines for part in (line, bar)][:-1]
    return enlarge(np.concatenate(parts, axis=1), SCALE)


def main() -> None:
    data, world, out, *tasks = sys.argv[1:]
    real = chosen(formats.read(Path(data)), tasks)
    imagined = replay(load_world(Path(world)), real, seed=0)
    first, *others = (Image.fromarray(frame) for frame in moving_picture(real, imagined))
    durations = [round(1000 / real.fps)] * len(others) + [1500]
    first.save(out, save_all=True, append_images=others, duration=durations, loop=0, quality=QUALITY, method=6)
    print(out, [f"{real.task[e]} from {real.source[e]}" for e in range(len(real))], Path(out).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
