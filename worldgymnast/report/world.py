"""Tables of `eval-world`, for the terminal (`tables.sheet`) and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.agreement import GATE

Curve = Mapping[str, Sequence[float] | np.ndarray]
_NAMES = {
    "world": "world model",
    "copy": "start frame copied",
    "copy_first": "first frame copied",
    "shuffled": "shuffled actions",
    "zero": "zero actions",
}
_UNITS = {"psnr": ("PSNR, dB", 1), "ssim": ("SSIM", 3), "lpips": ("LPIPS (lower is better)", 3)}


@dataclass(frozen=True)
class Sheet:
    """A formatted table: title, column names, rows and a note."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """Make a table of each measurement in `results`."""
    made: list[Sheet] = []
    if fidelity := results.get("fidelity"):
        made += [_fidelity(fidelity, metric) for metric in _UNITS if metric in fidelity] + [_following(fidelity)]
    if state := results.get("state"):
        made += [_state(state), _state_by_axis(state)]
    if drift := results.get("drift"):
        made.append(_drift(drift))
    if gate := results.get("gate"):
        made.append(_gate(gate))
    if detection := results.get("detection"):
        made += [_detection(detection), _kept(results["kept"])]
    return made


def markdown(results: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """Write the tables as a Markdown page."""
    return page(sheets(results), title, notes)


def page(tables: Sequence[Sheet], title: str, notes: Sequence[str] = ()) -> str:
    """Write tables as a Markdown page, followed by `notes`."""
    parts = [f"# {title}"]
    for sheet in tables:
        lines = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
        parts += [f"## {sheet.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        parts += [sheet.note] if sheet.note else []
    return "\n\n".join([*parts, *notes]) + "\n"


def _marks(steps: int) -> list[int]:
    """Return the indices of the frames that a table shows."""
    return sorted({0, *range(4, steps, 5), steps - 1})


def _cell(curve: Curve, t: int, digits: int, sign: str = "") -> str:
    mean, low, high = (float(curve[name][t]) for name in ("mean", "low", "high"))
    if math.isnan(mean):
        return "unknown"
    if math.isnan(low):  # a single episode has no interval
        return f"{mean:{sign}.{digits}f}"
    return f"{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _fidelity(fidelity: Mapping[str, Any], metric: str) -> Sheet:
    title, digits = _UNITS[metric]
    columns = {name: fidelity[metric][name] for name in _NAMES if name in fidelity[metric]}
    rows = [
        [f"{fidelity['horizon'][t]:.0f}", *(_cell(curve, t, digits) for curve in columns.values())]
        for t in _marks(len(fidelity["horizon"]))
    ]
    plural = "s" if fidelity["starts"] > 1 else ""
    starts = f"{fidelity['episodes']} episodes, {fidelity['starts']} start{plural} each"
    return Sheet(f"{title} of imagined replays; {starts}", ["frame", *(_NAMES[name] for name in columns)], rows)


_STATES = {
    "world": "world model",
    "estimated": "start estimated from its frame",
    "held": "state as at the start",
}


def _state(state: Mapping[str, Any]) -> Sheet:
    rows = [
        [f"{state['horizon'][t]:.0f}", *(_cell(state[name]["overall"], t, 3) for name in _STATES)]
        for t in sorted({0, *(mark + 1 for mark in _marks(len(state["horizon"]) - 1))})
    ]
    title = f"State error, standard deviations of the data; {state['episodes']} episodes"
    return Sheet(title, ["frame", *_STATES.values()], rows, "Mean absolute error over the axes of the state.")


def _state_by_axis(state: Mapping[str, Any]) -> Sheet:
    last = len(state["horizon"]) - 1
    columns = {name: np.asarray(state[name]["raw"]) for name in _STATES}
    head = ["axis", "deviation", *(f"{title}, frame {last}" for title in _STATES.values()), "frame 1"]
    rows = [
        [
            axis,
            f"{float(state['deviation'][i]):.4g}",
            *(f"{raw[last, i]:.4g}" for raw in columns.values()),
            f"{columns['world'][min(1, last), i]:.4g}",
        ]
        for i, axis in enumerate(state["axes"])
    ]
    note = "Mean absolute error in the units of the data. The last column is the world model's, one frame ahead."
    return Sheet("State error by axis", head, rows, note)


def _following(fidelity: Mapping[str, Any]) -> Sheet:
    columns = fidelity["following"]
    rows = [
        [f"{fidelity['horizon'][t]:.0f}", *(_cell(curve, t, 1, "+") for curve in columns.values())]
        for t in _marks(len(fidelity["horizon"]))
    ]
    head = ["frame", *(f"true minus {_NAMES[name]}" for name in columns)]
    note = "0 means that predictions ignore the actions."
    return Sheet("Action-following: PSNR gain of the true actions, dB", head, rows, note)


def _drift(drift: Mapping[str, Any]) -> Sheet:
    columns = {
        "nearest": ("nearest real frame, dB", 1),
        "sharpness": ("sharpness", 2),
        "contrast": ("contrast", 2),
        "motion": ("motion", 2),
        "colour": ("color shift, levels", 1),
    }
    rows = [
        [f"{low}-{high}", *(_cell(drift[name], n, digits) for name, (_, digits) in columns.items())]
        for n, (low, high) in enumerate(np.asarray(drift["band"]).tolist())
    ]
    real = drift["real"]
    nearest = "unknown" if math.isnan(real["nearest"]) else f"{real['nearest']:.1f}"
    rows.append(["real frames", nearest, "1.00", "1.00", "1.00", f"{real['colour']:.1f}"])
    note = (
        "There is no ground truth that far. Sharpness (gradient energy), contrast and motion are relative to the real "
        "episode. The nearest real frame is of another episode, for the last frame of the range."
    )
    last = int(np.asarray(drift["band"])[-1, 1])
    title = f"Drift over {last} imagined frames, {drift['starts']} starts"
    return Sheet(title, ["frames", *(name for name, _ in columns.values())], rows, note)


def _gate(gate: Mapping[str, float]) -> Sheet:
    rows = []
    kinds = ("true_positive", "true-positive rate"), ("true_negative", "true-negative rate")
    for name, title in (*kinds, ("balanced_accuracy", "balanced accuracy")):
        imagined = gate[f"imagined_{name}"]
        rows.append([title, _percent(gate[f"real_{name}"]), _percent(imagined), _passed(imagined)])
    tasks = sorted(key.partition("/")[2] for key in gate if key.startswith("imagined_true_positive/"))
    for task in tasks:
        rates = (_percent(gate[f"imagined_{name}/{task}"]) for name, _ in kinds)
        rows.append([f"{task}: true-positive, true-negative rate", "", ", ".join(rates), ""])
    head = ["", "real frames", "imagined replays", f"target {100 * GATE:.0f} % reached"]
    return Sheet("Judge's verdicts vs. true outcomes", head, rows)


def gate_sheets(gate: Mapping[str, float]) -> list[Sheet]:
    """Make the table of the gate before RL, as in gate.json; none without it."""
    if "imagined_true_positive" not in gate:
        return []

    def row(name: str, prefix: str, suffix: str = "") -> list[str]:
        rates = (gate[f"{prefix}_true_{kind}{suffix}"] for kind in ("negative", "positive"))
        return [name, *("unknown" if math.isnan(rate) else f"{100 * rate:.0f} %" for rate in rates)]

    tasks = sorted(key.partition("/")[2] for key in gate if key.startswith("imagined_true_positive/"))
    rows = [row("real frames", "real"), row("imagined replays of the same actions", "imagined")]
    rows += [row(f"imagined, {task}", "imagined", f"/{task}") for task in tasks]
    title = f"World model and judge on held-out rollouts of the policy (target {100 * GATE:.0f} % each)"
    return [Sheet(title, ["", "true-negative rate", "true-positive rate"], rows)]


def _passed(rate: float) -> str:
    if math.isnan(rate):
        return "-"
    return "yes" if rate >= GATE else "no"


def _detection(detection: Mapping[str, Any]) -> Sheet:
    rows = [[name, _auroc(d["wrong"]), _auroc(d["false_success"])] for name, d in detection.items()]
    head = ["signal", "wrong verdicts", "false successes"]
    note = "0.50 is chance. No signal uses the true outcome; `futures` are perturbed, see --jitter."
    return Sheet("Uncertainty vs. error: AUROC [95 %] (errors of all)", head, rows, note)


def _auroc(auroc: Mapping[str, Any]) -> str:
    counts = f"({auroc['wrong']} of {auroc['wrong'] + auroc['right']})"
    if math.isnan(auroc["value"]):
        return f"unknown {counts}"
    return f"{auroc['value']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}] {counts}"


def _kept(selections: Sequence[Mapping[str, float]]) -> Sheet:
    rows = [
        [_percent(row["share"]), f"{row['threshold']:.3f}", _percent(row["wrong"]), f"{row['count']:.0f}"]
        for row in selections
    ]
    head = ["rollouts kept", "uncertainty threshold", "wrong verdicts", "count"]
    note = "The threshold is that of --rl.uncertainty-threshold."
    return Sheet("Selective prediction: dropping uncertain rollouts", head, rows, note)


def _percent(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{100 * value:.1f} %"
