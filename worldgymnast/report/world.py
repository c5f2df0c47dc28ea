"""What `eval-world` found, as plain tables: for the terminal (`tables.sheet`) and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.agreement import GATE

Curve = Mapping[str, Sequence[float] | np.ndarray]
_NAMES = {
    "world": "world",
    "copy": "start frame copied",
    "copy_first": "episode's first frame copied",
    "shuffled": "shuffled actions",
    "zero": "no motion",
}
_UNITS = {"psnr": ("PSNR, dB", 1), "ssim": ("SSIM", 3), "lpips": ("LPIPS, less is better", 3)}


@dataclass(frozen=True)
class Sheet:
    """A table of words: a title, the names of the columns, the rows, and what has to be said about it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """The tables of what was measured; what is not in `found` has none."""
    made: list[Sheet] = []
    if fidelity := found.get("fidelity"):
        made += [_fidelity(fidelity, metric) for metric in _UNITS if metric in fidelity] + [_following(fidelity)]
    if drift := found.get("drift"):
        made.append(_drift(drift))
    if gate := found.get("gate"):
        made.append(_gate(gate))
    if detection := found.get("detection"):
        made += [_detection(detection), _kept(found["kept"])]
    return made


def markdown(found: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The same tables as a Markdown page."""
    return page(sheets(found), title, notes)


def page(shown: Sequence[Sheet], title: str, notes: Sequence[str] = ()) -> str:
    """Tables as a Markdown page, `notes` below them."""
    parts = [f"# {title}"]
    for sheet in shown:
        lines = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
        parts += [f"## {sheet.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        parts += [sheet.note] if sheet.note else []
    return "\n\n".join([*parts, *notes]) + "\n"


def _marks(steps: int) -> list[int]:
    """Which horizons a table shows, as indices."""
    return sorted({0, *range(4, steps, 5), steps - 1})


def _cell(curve: Curve, t: int, digits: int, sign: str = "") -> str:
    mean, low, high = (float(curve[name][t]) for name in ("mean", "low", "high"))
    if math.isnan(mean):
        return "unknown"
    if math.isnan(low):  # a single episode has no interval
        return f"{mean:{sign}.{digits}f}"
    return f"{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _fidelity(found: Mapping[str, Any], metric: str) -> Sheet:
    title, digits = _UNITS[metric]
    columns = {name: found[metric][name] for name in _NAMES if name in found[metric]}
    rows = [
        [f"{found['horizon'][t]:.0f}", *(_cell(curve, t, digits) for curve in columns.values())]
        for t in _marks(len(found["horizon"]))
    ]
    starts = f"{found['episodes']} episodes, {found['starts']} start{'s' if found['starts'] > 1 else ''} each"
    return Sheet(f"{title}, of imagined replays; {starts}", ["frame", *(_NAMES[name] for name in columns)], rows)


def _following(found: Mapping[str, Any]) -> Sheet:
    columns = found["following"]
    rows = [
        [f"{found['horizon'][t]:.0f}", *(_cell(curve, t, 1, "+") for curve in columns.values())]
        for t in _marks(len(found["horizon"]))
    ]
    head = ["frame", *(f"true minus {_NAMES[name]}" for name in columns)]
    note = "0 means that the world does not listen to its actions."
    return Sheet("Action-following: PSNR of the true actions above others, dB", head, rows, note)


def _drift(found: Mapping[str, Any]) -> Sheet:
    columns = {
        "nearest": ("nearest real frame, dB", 1),
        "sharpness": ("sharpness", 2),
        "contrast": ("contrast", 2),
        "motion": ("motion", 2),
        "colour": ("colour shift, levels", 1),
    }
    rows = [
        [f"{low}-{high}", *(_cell(found[name], n, digits) for name, (_, digits) in columns.items())]
        for n, (low, high) in enumerate(np.asarray(found["band"]).tolist())
    ]
    real = found["real"]
    nearest = "unknown" if math.isnan(real["nearest"]) else f"{real['nearest']:.1f}"
    rows.append(["real frames", nearest, "1.00", "1.00", "1.00", f"{real['colour']:.1f}"])
    note = (
        "No truth exists that far. Sharpness (gradient energy), contrast and motion are over those of the real "
        "episode; the nearest real frame is one of other episodes, at the last frame of the band."
    )
    last = int(np.asarray(found["band"])[-1, 1])
    title = f"Drift over {last} imagined frames, {found['starts']} starts"
    return Sheet(title, ["frames", *(name for name, _ in columns.values())], rows, note)


def _gate(found: Mapping[str, float]) -> Sheet:
    rows = []
    kinds = ("true_positive", "true-positive rate"), ("true_negative", "true-negative rate")
    for name, shown in (*kinds, ("balanced_accuracy", "balanced accuracy")):
        imagined = found[f"imagined_{name}"]
        passed = "-" if math.isnan(imagined) else "yes" if imagined >= GATE else "no"
        rows.append([shown, _percent(found[f"real_{name}"]), _percent(imagined), passed])
    tasks = sorted(key.partition("/")[2] for key in found if key.startswith("imagined_true_positive/"))
    for task in tasks:
        rates = (_percent(found[f"imagined_{name}/{task}"]) for name, _ in kinds)
        rows.append([f"{task}: true-positive, true-negative rate", "", ", ".join(rates), ""])
    head = ["", "real frames", "imagined replays", f"asked for: {100 * GATE:.0f} %"]
    return Sheet("Imagined against real outcome: the judge against the truth", head, rows)


def _detection(found: Mapping[str, Any]) -> Sheet:
    rows = [[name, _auroc(d["wrong"]), _auroc(d["false_success"])] for name, d in found.items()]
    head = ["signal", "wrong verdicts", "imagined successes that are failures"]
    note = "0.50 is chance. Every signal is made without the truth; `futures` are disturbed, see --jitter."
    return Sheet("Knowing when it lies: AUROC [95 %]", head, rows, note)


def _auroc(found: Mapping[str, Any]) -> str:
    counts = f"({found['wrong']} of {found['wrong'] + found['right']})"
    if math.isnan(found["value"]):
        return f"unknown {counts}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] {counts}"


def _kept(found: Sequence[Mapping[str, float]]) -> Sheet:
    rows = [
        [_percent(row["share"]), f"{row['threshold']:.3f}", _percent(row["wrong"]), f"{row['count']:.0f}"]
        for row in found
    ]
    head = ["rollouts kept", "judged futures at most", "wrong among them", "count"]
    return Sheet("Dropping what is doubtful", head, rows, "The threshold is that of --rl.uncertainty-threshold.")


def _percent(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{100 * value:.1f} %"
