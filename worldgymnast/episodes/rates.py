"""Frames per second of robot time: what a data set says, and what a person says of it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from worldgymnast.errors import FieldError, InputError

SLOWEST, FASTEST = 1e-3, 1e4
_TOLERANCE = 0.01


def check_given(fps: float | None) -> None:
    """Raise InputError for a rate that no robot has."""
    if fps is not None and not SLOWEST <= fps <= FASTEST:
        what = "more than 0" if not fps >= SLOWEST else f"at most {FASTEST:g}"
        raise FieldError("fps", f"found {fps:g}, expected {what}")


def agreed_rate(
    path: str | Path, said: float | None, given: float | None = None, assumed: float | None = None
) -> float:
    """The rate of a data set.

    Args:
        path: the data set, for messages.
        said: by the data set, None where its format does not say.
        given: by a person, who may only repeat what the data set says.
        assumed: taken, with a line on stderr, where neither says it.

    Raises:
        InputError: nobody says the rate, or two say different ones.

    >>> agreed_rate("my_set", None, 10)
    10
    """
    if said is not None:
        if given is not None and not math.isclose(said, given, rel_tol=_TOLERANCE):
            raise InputError(
                f"{path}: found {said:g} frames per second by the data set, expected {given:g} as given (--fps); leave "
                "it out, or correct the data set"
            )
        return said
    if given is None and assumed is not None:
        print(f"{path}: does not say its rate; taken is {assumed:g} frames per second", file=sys.stderr, flush=True)
    rate = given or assumed
    if rate is None:
        raise InputError(
            f"{path}: RLDS does not say how many frames there are in a second; give the robot's rate with --fps (in "
            "Python: fps=...)"
        )
    return rate
