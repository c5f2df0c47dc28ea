"""The splits of a LeRobotDataset: of several, only "train" is read."""

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
    """What `splits` in `meta/info.json` asks for.

    Attributes:
        left_out: numbers of the episodes that belong to another split than "train".
        found: what to say of it, "" for nothing.
        hint: what follows.
    """

    left_out: frozenset[int] = frozenset()
    found: str = ""
    hint: str = ""


def read_splits(info: dict[str, Any], path: Path, episodes: Collection[int]) -> Splits:
    """The episodes that are not read, by their numbers.

    A single split is the whole data set, whatever its bounds: they are old where episodes were removed.

    Args:
        info: the content of `path`, `meta/info.json`.
        path: the file.
        episodes: the numbers of all episodes.

    Raises:
        InputError: several splits, none of them "train", or "train" holds no episode.
    """
    given = info.get(SPLITS)
    if given is None:
        return Splits()
    spans = _spans(given)
    if spans is None:
        return Splits(found=short(given), hint="passed over: every episode is read; correct it")
    spans = {name: span for name, span in spans.items() if any(index in span for index in episodes)}
    if len(spans) < 2:
        return Splits()
    if "train" not in spans:
        raise InputError(
            f"{path}: field 'splits': found {sorted(spans)}, expected 'train' among them; name it there, or put each "
            "into a folder of its own"
        )
    others = [span for name, span in spans.items() if name != "train"]
    left_out = frozenset(i for i in episodes if i not in spans["train"] and any(i in span for span in others))
    if not left_out:
        return Splits()
    kept = len(episodes) - len(left_out)
    hint = f"only 'train' is read: {kept} of {len(episodes)} episodes; to read all leave 'train' alone there"
    return Splits(left_out, ", ".join(sorted(spans)), hint)


def _spans(given: Any) -> dict[str, range] | None:
    """Numbers of episodes by split, or None where something else stands there."""
    if not isinstance(given, dict):
        return None
    spans = {}
    for name, text in given.items():
        match = _SPAN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        spans[name] = range(int(match[1] or 0), int(match[2] or 10**15))
    return spans
