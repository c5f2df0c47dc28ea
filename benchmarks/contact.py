"""Real frames at contact, and the same actions imagined by one or more world models.

    python benchmarks/contact.py DATA docs/pictures/contact.png WORLD [WORLD ...] [--tasks TASK ...]

Columns: six and three actions before the first success, at it, and three after, for one success of every task. Rows:
real frames, then two imaginations of each world model, from the first frame alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.registry import load_world
from worldgymnast.training.replay import replay
from worldgymnast.video import contact_sheet, enlarge

OFFSETS, IMAGINATIONS, SCALE = (-6, -3, 0, 3), 2, 2


def success_frame(episodes: EpisodeSet, index: int) -> int:
    """The first successful frame of an episode that succeeded."""
    success = episodes.episode(index).success
    assert success is not None
    return int(success.argmax())


def chosen(episodes: EpisodeSet, tasks: list[str]) -> EpisodeSet:
    """The first success of every task that has six frames before and three after its first successful frame."""
    rows = []
    for task in tasks:
        for e in map(int, np.flatnonzero(episodes.succeeded)):
            frame = success_frame(episodes, e)
            if episodes.task[e] == task and -OFFSETS[0] < frame <= episodes.length[e] - OFFSETS[-1]:
                rows.append(e)
                break
        else:
            raise SystemExit(f"{task}: found no success with frames before and after it. Leave it out of --tasks")
    return episodes.select(np.array(rows, np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("worlds", type=Path, nargs="+")
    parser.add_argument("--tasks", nargs="+", default=["drawer-open", "door-close", "button-press"])
    flags = parser.parse_args()

    real = chosen(formats.read(flags.data), flags.tasks)
    futures = [
        replay(world, real, seed=seed) for world in map(load_world, flags.worlds) for seed in range(IMAGINATIONS)
    ]
    columns = [success_frame(real, e) + np.array(OFFSETS) for e in range(len(real))]
    rows = [
        np.concatenate([episodes.episode(e).frames[frames] for e, frames in enumerate(columns)])
        for episodes in (real, *futures)
    ]
    Image.fromarray(enlarge(contact_sheet(rows, 2), SCALE)).quantize(256).save(flags.out, optimize=True)
    print(flags.out, [f"{real.task[e]} at action {success_frame(real, e)}" for e in range(len(real))])


if __name__ == "__main__":
    main()
