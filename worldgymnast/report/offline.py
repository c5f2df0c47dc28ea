"""Tables of what is known of a training without a real environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.records import OFFLINE, RERUN, read_hashed
from worldgymnast.report.world import Sheet

NOTHING_REAL = "Nothing was scored for real: whether the policy is better on the robot is unknown."
"""First sentence about a training without a real environment."""
DO_NOT_USE = "Do not use this policy yet: it was trained in a world model that does not predict the robot."
"""First sentence about a training in a world model that is known to be wrong."""
JUDGE = "judge: "
"""Start of the names of rows about the judge."""
_SAME = 0.1
"""Decibels that two sets of frames may differ by and count as equally close."""
_LABELS = (
    "No episode has a success label, so the judge's errors are unknown. Label some with `worldgymnast label DATA`, "
    "then run `worldgymnast diagnose`."
)


def offline_sheets(run: Path) -> dict[str, Sheet]:
    """Make the tables of RUN/offline.json, by section of the report; empty without this file.

    Raises:
        InputError: the file is damaged.
    """
    file = run / OFFLINE
    if not file.exists():
        return {}
    known = read_hashed(file, RERUN)
    try:
        trust = {"trust": _reality(known)} if "episodes" in known else {}
        return {"changed": _imagined(known), **trust, "real": _needed(known["needed"])}
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{file}: a value is missing or has another type ({error}); {RERUN}") from error


def offline_notes(run: Path) -> list[str]:
    """Return sentences about RUN/offline.json; empty without this file."""
    file = run / OFFLINE
    if not file.exists():
        return []
    known, notes = read_hashed(file, RERUN), list[str]()
    if known.get("labelled") == 0:
        notes.append(_LABELS)
    if seen_by := known.get("seen_by"):
        notes.append(
            f"The {' and the '.join(seen_by)} may have been trained on the real episodes of this table, so the numbers "
            "are optimistic. Hold episodes out (train-world, train-judge: --held-out N), or give others with --test."
        )
    if "episodes" not in known:
        notes.append("Without --data, world model and judge were not compared with real episodes.")
    return notes


def offline_doubts(run: Path) -> list[str]:
    """Return the `doubts` about the world model of RUN/offline.json; empty without this file."""
    file = run / OFFLINE
    return doubts(read_hashed(file, RERUN).get("fidelity")) if file.exists() else []


def doubts(fidelity: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on why a world model is wrong; empty without evidence.

    A world model is wrong where the first frame, copied, is certainly closer to the real frames, or where other actions
    would have given the same frames; both halfway through the episodes.

    Args:
        fidelity: see `measure.offline.measure_offline`; None if unknown.
    """
    if not fidelity:
        return []
    half = (len(fidelity["horizon"]) - 1) // 2
    frame, psnr = f"{fidelity['horizon'][half]:.0f}", fidelity["psnr"]

    def value(name: str, bound: str) -> float:
        found = psnr.get(name, {}).get(bound, [None] * (half + 1))[half]
        return math.nan if found is None else found

    mean = {name: value(name, "mean") for name in ("world", "copy", "shuffled")}
    found = []
    if value("world", "high") < value("copy", "low"):
        found.append(
            f"Imagined frame {frame} is farther from the real one than a copy of the first frame is "
            f"({mean['world']:.1f} against {mean['copy']:.1f} dB)."
        )
    if mean["world"] < mean["shuffled"] + _SAME:
        found.append(
            f"With actions of other episodes, imagined frame {frame} is as close to the real one as with the true ones "
            f"({mean['shuffled']:.1f} and {mean['world']:.1f} dB)."
        )
    return [*found, "Train the world model for longer, or on more episodes, before RL."] if found else []


def _imagined(known: Mapping[str, Any]) -> Sheet:
    """Make the table of imagined rollouts before and after."""
    imagined, doubt, outside = known["imagined"], known["doubt"], known["outside"]
    change = imagined["difference"]
    rows = [
        ["judged successes", _rate(imagined["before"]), _rate(imagined["after"]), _change(change)],
        ["unsure verdicts", _rate(doubt["before"]["unsure"]), _rate(doubt["after"]["unsure"]), ""],
    ]
    if outside["before"] is not None:
        expected = f"real episodes: {100 * outside['expected']:.0f} %"
        rows.append(["outside the data", _rate(outside["before"]), _rate(outside["after"]), expected])
    note = (
        f"{known['rollouts']} imagined rollouts of each policy, sampled from the same starts, {known['horizon']} "
        "actions each. Imagined success alone also rises where the policy exploits errors of world model or judge. "
        "Unsure: a success probability between 28 and 72 %. Outside: frames or actions unlike those of real episodes."
    )
    return Sheet("Imagined, not real", ["share of imagined rollouts", "before", "after", ""], rows, note)


def _reality(known: Mapping[str, Any]) -> Sheet:
    """Make the table of world model and judge on real episodes."""
    rows = []
    if fidelity := known["fidelity"]:
        frames = fidelity["horizon"]
        last = len(frames) - 1
        for t in sorted({0, last // 2, last}):
            cells = [_number(fidelity["psnr"].get(name), t) for name in ("world", "copy", "shuffled")]
            text = f"{cells[0]} dB (frame copied: {cells[1]}, wrong actions: {cells[2]})"
            rows.append([f"imagined frame {frames[t]:.0f}: PSNR", text, f"{fidelity['episodes']} episodes"])
    if judge := known["judge"]:
        names = {"known": ("true successes recognized", "successes"), "refused": ("true failures refused", "failures")}
        for key, (title, kind) in names.items():
            for source, frames in (("real", "real frames"), ("imagined", "imagined replays")):
                rows.append([f"{JUDGE}{title}, {frames}", _rate(judge[source][key]), f"{judge[kind]} {kind}"])
    title = f"World model and judge on {known['episodes']} real episodes"
    note = "Replays of logged actions from the first frame. A world model is useful where it beats the copied frame."
    return Sheet(title, ["", "value", "measured on"], rows, note)


def _needed(needed: Mapping[str, Any]) -> Sheet:
    """Make the table of the real episodes that would show a gain."""
    points = f"{100 * needed['gain']:.0f} points"
    lines: Sequence[tuple[str, str, int]] = (
        ("the same scenes for both, lost as often as imagined", "paired", 2),
        ("the same scenes for both, independent outcomes", "independent", 2),
        ("other scenes for each policy", "unpaired", 2),
    )
    corrected = needed.get("corrected")
    rows = [
        [name, *_counts(needed[key], times), *(_counts(corrected[key], times) if corrected else ())]
        for name, key, times in lines
    ]
    before = "unknown" if needed["before"] is None else f"{100 * needed['before']:.0f} %"
    note = (
        f"Episodes for a gain of {points} to be found with 80 % probability at the 5 % level, by exact tests, if real "
        f"success before is {before}, as imagined. {_correction(corrected)} If it may be near 50 %, plan for about 400 "
        "episodes of each policy."
    )
    head = ["", "per policy", "in total", *(["per policy, corrected", "in total, corrected"] if corrected else [])]
    return Sheet(f"Real episodes that show a gain of {points}", head, rows, note)


def _counts(count: int | None, times: int) -> tuple[str, str]:
    if count is None:
        return "", "more than 20000, or impossible"
    return str(count), str(times * count)


def _correction(corrected: Mapping[str, Any] | None) -> str:
    """Say what real success before is without the errors on labelled replays."""
    if corrected is None:
        return (
            "It is not corrected for the errors of world model and judge: that takes labelled episodes of both "
            "outcomes that the judge can separate on imagined replays."
        )
    rate, low, high = (100 * corrected[name] for name in ("before", "low", "high"))
    return (
        f"Corrected for the errors of world model and judge on the replays above it is {rate:.0f} % "
        f"[{low:.0f}, {high:.0f}], if they err as often on rollouts of the policy."
    )


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["count"]:
        return "unknown"
    interval = f"[{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
    return f"{100 * rate['value']:.0f} % {interval} ({rate['successes']}/{rate['count']})"


def _change(change: Mapping[str, Any]) -> str:
    if change["mean"] is None:
        return "unknown"
    return f"{100 * change['mean']:+.0f} points [{100 * change['low']:+.0f}, {100 * change['high']:+.0f}]"


def _number(curve: Mapping[str, Any] | None, t: int) -> str:
    value = None if curve is None else curve["mean"][t]
    return "unknown" if value is None or math.isnan(value) else f"{value:.1f}"
