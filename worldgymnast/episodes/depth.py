"""Recognize depth cameras, which are read only if named explicitly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DEPTH_FORMAT = re.compile(r"gray(f|9|1[0-6])")
_FLAGS = ("is_depth_map", "video.is_depth_map")
_FORMATS = ("pix_fmt", "video.pix_fmt")


def is_depth_name(name: str) -> bool:
    """Whether a camera's name contains "depth".

    >>> is_depth_name("observation.images.wrist_depth"), is_depth_name("top")
    (True, False)
    """
    return "depth" in name.lower()


def is_depth(name: str, feature: Mapping[str, Any]) -> bool:
    """Whether a LeRobot feature is a depth map.

    Formats of one channel with more than 8 bits are depth. A false flag is ignored, since LeRobot writes it for every
    video.

    >>> is_depth("top", {"dtype": "video", "info": {"video.pix_fmt": "gray16le"}})
    True
    """
    notes = [note for note in (feature, feature.get("info"), feature.get("video_info")) if isinstance(note, dict)]
    is_flagged = any(note.get(flag) in (True, "true") for note in notes for flag in _FLAGS)
    formats = [str(note.get(key, "")) for note in notes for key in _FORMATS]
    return is_flagged or is_depth_name(name) or any(_DEPTH_FORMAT.match(text) for text in formats)
