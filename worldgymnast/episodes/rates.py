"""Frame rate of a dataset: declared, given by the user, or assumed."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from worldgymnast.errors import FieldError, InputError

MIN_FPS, MAX_FPS = 1e-3, 1e4
_TOLERANCE = 0.01


def check_fps(fps: float | None) -> None:
    """Raise InputError for a rate outside `MIN_FPS` to `MAX_FPS`."""
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        expected = "more than 0" if not fps >= MIN_FPS else f"at most {MAX_FPS:g}"
        raise FieldError("fps", f"found {fps:g}, expected {expected}")


def resolve_rate(
    path: str | Path, declared: float | None, given: float | None = None, assumed: float | None = None
) -> float:
    """The frame rate of a dataset, in robot time.

    Args:
        path: the dataset, for messages.
        declared: rate in the dataset's metadata; None if its format has none.
        given: rate given by the user; must agree with `declared` to within 1%, or be an integer fraction of it: then
            the caller subsamples.
        assumed: default without either, reported on stderr.

    Raises:
        InputError: the rates disagree, or there is none.

    >>> resolve_rate("my_set", None, 10)
    10
    """
    if declared is not None:
        if given is not None and given < declared:
            subsampling_factor(declared, given)
        elif given is not None and not math.isclose(declared, given, rel_tol=_TOLERANCE):
            raise InputError(
                f"{path}: found {declared:g} frames per second in the dataset, expected {given:g} (--fps); omit --fps, "
                "or correct the dataset"
            )
        return declared
    if given is None and assumed is not None:
        print(f"{path}: no frame rate; assuming {assumed:g} frames per second", file=sys.stderr, flush=True)
    rate = given or assumed
    if rate is None:
        raise InputError(f"{path}: RLDS stores no frame rate; give the robot's rate with --fps (in Python: fps=...)")
    return rate


def subsampling_factor(fps: float, target: float) -> int:
    """The integer factor between two frame rates.

    Args:
        fps: frames per second of the data.
        target: frames per second to write.

    Raises:
        InputError: the ratio is not an integer, to within 1%.

    >>> subsampling_factor(29.97, 10)
    3
    """
    every = round(fps / target)
    if every < 1 or abs(fps / target / every - 1) > _TOLERANCE:
        lower = f"{fps / (every + 1):.4g}" if every else f"{fps:.4g}"
        choices = f"{fps / every:.4g} or {lower}" if every else lower
        raise InputError(
            f"--fps: found {target:g} for data of {fps:g} frames per second, expected an integer fraction of it, such "
            f"as {choices}; frames can be dropped but not interpolated"
        )
    return every


def is_same_rate(first: float, second: float) -> bool:
    """Whether two frame rates are equal to within 1 %.

    >>> is_same_rate(30, 29.97), is_same_rate(30, 25)
    (True, False)
    """
    return math.isclose(first, second, rel_tol=_TOLERANCE)
