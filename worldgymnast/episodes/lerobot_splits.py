"""Splits of a LeRobotDataset; of several, only "train" is read."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import short

SPLITS = "splits"
_SPAN = re.compile(r"\s*([0-9]{0,15})\s*:\s*([0-9]{0,15})\s*")


@dataclass(frozen=True)
class Splits:
    """Result of `splits` in `meta/info.json`.

    Attributes:
        left_out: numbers of the episodes in splits other than "train".
        found: value to report, "" for none.
        hint: explanation of the consequence.
    """

    left_out: frozenset[int] = frozenset()
    found: str = ""
    hint: str = ""


def read_splits(info: dict[str, Any], path: Path, episodes: Collection[int]) -> Splits:
    """Determine the episodes that are not read.

    A single split is read entirely, regardless of its bounds, which are outdated if episodes were removed.

    Args:
        info: the content of `path`, `meta/info.json`.
        path: the file.
        episodes: the numbers of all episodes.

    Raises:
        InputError: there are several splits and none is "train", or "train" has no episodes.
    """
    value = info.get(SPLITS)
    if value is None:
        return Splits()
    spans = _spans(value)
    if spans is None:
        return Splits(found=short(value), hint="ignored: every episode is read; correct it")
    spans = {name: span for name, span in spans.items() if any(index in span for index in episodes)}
    if len(spans) < 2:
        return Splits()
    if "train" not in spans:
        raise InputError(
            f"{path}: field 'splits': found {sorted(spans)}, expected 'train' among them; add it, or move each split "
            "into a separate folder"
        )
    others = [span for name, span in spans.items() if name != "train"]
    left_out = frozenset(i for i in episodes if i not in spans["train"] and any(i in span for span in others))
    if not left_out:
        return Splits()
    kept = len(episodes) - len(left_out)
    hint = f"only 'train' is read: {kept} of {len(episodes)} episodes; to read all, keep 'train' as the only split"
    return Splits(left_out, ", ".join(sorted(spans)), hint)


def _spans(value: Any) -> dict[str, range] | None:
    """Episode numbers by split; None if the value is invalid."""
    if not isinstance(value, dict):
        return None
    spans = {}
    for name, text in value.items():
        match = _SPAN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        spans[name] = range(int(match[1] or 0), int(match[2] or 10**15))
    return spans
