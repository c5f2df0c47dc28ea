"""Which cameras hold depth rather than color: they are read only where they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DEEP_GRAY = re.compile(r"gray(f|9|1[0-6])")
_FLAGS = ("is_depth_map", "video.is_depth_map")
_FORMATS = ("pix_fmt", "video.pix_fmt")


def is_depth_name(name: str) -> bool:
    """Whether a camera's name says depth.

    >>> is_depth_name("observation.images.wrist_depth"), is_depth_name("top")
    (True, False)
    """
    return "depth" in name.lower()


def is_depth(name: str, feature: Mapping[str, Any]) -> bool:
    """Whether a LeRobot feature is a depth map, by its name, its flags, or a format of one channel beyond 8 bits.

    A flag that says no does not count: LeRobot writes it for every video.
    """
    notes = [note for note in (feature, feature.get("info"), feature.get("video_info")) if isinstance(note, dict)]
    is_flagged = any(note.get(flag) in (True, "true") for note in notes for flag in _FLAGS)
    formats = [str(note.get(key, "")) for note in notes for key in _FORMATS]
    return is_flagged or is_depth_name(name) or any(_DEEP_GRAY.match(text) for text in formats)
