"""Damaged pictures, videos, starts and cache entries: whatever is in them ends in `InputError` or in frames.

    python tests/support/fuzz_pixels.py --minutes 5 --seed 1

prints how many inputs were tried and how they ended, and stops at the first other exception. `test_field_starts.py`
runs a few hundred of them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from foreign_data import episode, mp4
from PIL import Image

from worldgymnast.episodes.cache import cached_frames
from worldgymnast.episodes.starts import read_starts
from worldgymnast.errors import InputError
from worldgymnast.pictures import FORMATS, open_picture
from worldgymnast.video_reader import frame_times, iterate_timed

VIDEOS = (
    ("a.mp4", "libx264", "yuv420p", "mp4", {"bf": "2", "g": "4"}),
    ("b.mp4", "libx265", "yuv420p", "mp4", {}),
    ("c.webm", "libvpx-vp9", "yuva420p", "webm", {}),
    ("d.avi", "mjpeg", "yuvj420p", "avi", {}),
    ("e.mkv", "ffv1", "bgra", "matroska", {}),
    ("f.gif", "gif", "rgb8", "gif", {}),
)
SAID = b'{"instruction": ["open the drawer", "pull it \\u2028 open"], "task": "drawer", "note": [1, null, {"a": 0.5}]}'
NUMBERS = (0, 1, 127, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1)


def mutated(blob: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, put in, cut out or replaced by a number that fields often fail on; or cut short."""
    found = bytearray(blob)
    for _ in range(rng.integers(1, 5)):
        at, count = int(rng.integers(0, len(found) + 1)), int(rng.integers(1, 9))
        change = rng.integers(0, 5)
        if change == 0:
            found[at : at + count] = rng.bytes(count)
        elif change == 1:
            found[at:at] = rng.bytes(count)
        elif change == 2:
            del found[at : at + count]
        elif change == 3:
            found[at : at + 4] = int(rng.choice(NUMBERS)).to_bytes(4, "big")
        elif rng.random() < 0.3:
            del found[at:]
    return bytes(found)


def inputs(folder: Path) -> list[tuple[str, bytes, Callable[[bytes], object]]]:
    """Every kind: its name, a good input, and what reads it."""
    kinds: list[tuple[str, bytes, Callable[[bytes], object]]] = []
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    for fmt in FORMATS:
        made, exif = io.BytesIO(), Image.Exif()
        exif[274] = 6
        Image.fromarray(pixels).save(made, fmt, **({} if fmt in ("BMP", "GIF") else {"exif": exif}))
        kinds.append((fmt, made.getvalue(), lambda blob: open_picture(blob, "a picture")))
    for name, codec, form, container, options in VIDEOS:
        mp4(folder / name, episode(1, 6), 10, codec=codec, pix=form, fmt=container, opts=options)
        kinds.append((f"{codec} in {container}", (folder / name).read_bytes(), _video(folder / name)))
    kinds.append(("start", SAID, _start(folder / "starts")))
    kinds.append(("cache", _cached(folder), lambda blob: _cached(folder, blob)))
    return kinds


def _video(path: Path) -> Callable[[bytes], object]:
    def read(blob: bytes) -> None:
        path.write_bytes(blob)
        for _ in iterate_timed(path):
            pass
        frame_times(path)

    return read


def _start(folder: Path) -> Callable[[bytes], object]:
    folder.mkdir()
    Image.fromarray(episode(1, 1)[0]).save(folder / "a.png")

    def read(blob: bytes) -> None:
        (folder / "a.json").write_bytes(blob)
        read_starts(folder, 64)

    return read


def _cached(folder: Path, blob: bytes | None = None) -> bytes:
    """Reads frames through the cache, whose entry holds `blob`; they are the decoded ones wherever sizes differ."""
    os.environ["WORLDGYMNAST_CACHE"] = str(folder / "cache")
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    for path in folder.glob("cache/frames/*.npy"):
        path.write_bytes(blob or b"")
    found = cached_frames(folder, "cam", "k", 3, lambda: (("a", frame) for frame in frames))
    assert len(found) == 3, "the cache was believed"
    return next(folder.glob("cache/frames/*.npy")).read_bytes()


def run(tries: int | None, seconds: float, seed: int) -> Counter[str]:
    """How the inputs ended; raises what is no `InputError`."""
    ended: Counter[str] = Counter()
    until, rng = time.monotonic() + seconds, np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        kinds = inputs(Path(folder))
        for number in itertools.count():
            if (tries is not None and number >= tries) or time.monotonic() > until:
                return ended
            name, blob, read = kinds[number % len(kinds)]
            damaged = mutated(blob, rng)
            try:
                read(damaged)
                ended[f"{name}: read"] += 1
            except InputError as error:
                lines = len(str(error).splitlines())
                ended[f"{name}: refused" if lines == 1 else f"{name}: {lines} lines"] += 1
            except BaseException:
                Path("fuzz-failed").write_bytes(damaged)
                print(f"{name}: input {number} of seed {seed} is kept as fuzz-failed", file=sys.stderr)
                raise
    return ended


if __name__ == "__main__":
    given = argparse.ArgumentParser()
    given.add_argument("--minutes", type=float, default=5)
    given.add_argument("--seed", type=int, default=0)
    asked = given.parse_args()
    results = run(None, 60 * asked.minutes, asked.seed)
    print(f"{sum(results.values()):,} inputs", *(f"{kind}: {n:,}" for kind, n in sorted(results.items())), sep="\n")
