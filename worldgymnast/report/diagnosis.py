"""Tables, charts and frame strips of `diagnose`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import ClosedLoop, Episode, by_policy, closed_loop
from worldgymnast.evaluation.recall import STRICT
from worldgymnast.evaluation.success import EpisodeResult, SuccessTable, numbers, success_table
from worldgymnast.files import read_json_object
from worldgymnast.report.charts import Bars, Curve, Series
from worldgymnast.report.world import Sheet
from worldgymnast.video import png, read_picture

FILE = "diagnosis.json"
"""Name of the file in a run folder."""
AGAIN = "remove it and run diagnose again"
MAIN = 6
"""Number of `sheets` that a terminal shows; the report has all."""
_LEVEL = 0.05
"""Significance level."""
_JUDGED = {"real": "real frames", "imagined": "replays"}
"""Sources of frames on which the judge's verdicts are compared with the outcomes."""
SOURCES = {"real": "real frames", "round_trip": "reconstruction", "imagined": "imagined"}
CAUSES = {"judge": "judge", "round_trip": "reconstruction", "dynamics": "dynamics", "world": "world model"}
_STRICT = f"{100 * STRICT:.0f} %"
_THRESHOLDS = {"own": "the judge's own threshold", "strict": f"thresholds with {_STRICT} true-negative rate"}
_Group = Mapping[str, Any]
_Cell = Callable[[_Group], str]


@dataclass(frozen=True)
class StripView:
    """A missed success: a row per source, a column per time."""

    title: str
    note: str
    rows: Sequence[str]
    columns: Sequence[str]
    contact: int
    image: str


@dataclass(frozen=True)
class DiagnosisView:
    """The section of the page.

    Attributes:
        sentences: summary.
        bars: missed successes by cause, per task.
        curves: fidelity by frame, and reliability.
        sheets: visible tables.
        more: collapsed tables.
        strips: missed successes around contact.
        command: command line.
        agreement: of all imagined and real outcomes of a world model or simulator, by its name.
    """

    sentences: Sequence[str]
    bars: Sequence[Bars]
    curves: Sequence[Curve]
    sheets: Sequence[Sheet]
    more: Sequence[Sheet]
    strips: Sequence[StripView]
    command: str = ""
    agreement: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def view(run: Path) -> DiagnosisView | None:
    """Build the section of a run folder; None without a diagnosis.

    Raises:
        InputError: `diagnose` did not write the file.
    """
    file = run / FILE
    if not file.exists():
        return None
    diagnosis = read_json_object(file, AGAIN)
    try:
        return _view(diagnosis, run)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: was not written by diagnose ({error!r:.80}); {AGAIN}") from error


def _view(diagnosis: Mapping[str, Any], run: Path) -> DiagnosisView:
    loops = [closed_loop_sheet(name, loop) for name, loop in diagnosis.get("closed_loop", {}).items()]
    agreement = {name: loop["all"] for name, loop in diagnosis.get("closed_loop", {}).items()}
    if "all" not in diagnosis:
        return DiagnosisView((), (), (), loops, (), (), str(diagnosis.get("command", "")), agreement)
    made = sheets(diagnosis)
    recorded = [recorded_sheet(diagnosis["recorded"])] if "recorded" in diagnosis else []
    return DiagnosisView(
        sentences(diagnosis),
        [_bars(diagnosis, threshold) for threshold in _THRESHOLDS],
        [*_fidelity_curves(diagnosis), _reliability_curve(diagnosis)],
        [*recorded, *made[: len(_THRESHOLDS)], *loops],
        made[len(_THRESHOLDS) :],
        [_strip(one, run) for one in diagnosis.get("strips", ())],
        str(diagnosis.get("command", "")),
        agreement,
    )


# ---------------------------------------------------------------- tables


def sentences(diagnosis: Mapping[str, Any]) -> list[str]:
    """Summarize the causes of missed successes, by kind of threshold."""
    made = []
    for threshold, name in _THRESHOLDS.items():
        split = diagnosis["all"]["missed"][threshold]
        wrong = split["wrong"]
        if not wrong["count"]:
            continue
        parts = [f"{CAUSES[cause]} {split[cause]['successes']}" for cause in _causes(diagnosis)]
        made.append(
            f"With {name}, {wrong['successes']} of {wrong['count']} true successes are missed on imagined replays. "
            f"By cause: {', '.join(parts)}."
        )
    return [*_recorded_sentences(diagnosis), *made]


def _recorded_sentences(diagnosis: Mapping[str, Any]) -> list[str]:
    """Compare imagined and recorded success of the policy, and name the tasks in which they differ."""
    if "recorded" not in diagnosis:
        return []
    recorded = diagnosis["recorded"]
    table, pairs = _recorded_table(recorded), [p for p in recorded["pairs"] if p["imagined"] is not None]
    gap, agree = table.difference, sum(p["imagined"] == p["real"] for p in pairs)
    made = [
        f"With the policy acting, {table.after} of its imagined and {table.before} of its recorded episodes succeed; "
        f"imagined minus recorded {gap}. The outcome of {agree} of {len(pairs)} single episodes agrees."
    ]
    shown = {"all tasks": gap} if gap.p_value < _LEVEL else {}
    shown |= {
        f"'{row.task}'": row.difference for row in table.rows if row.difference.p_value < _LEVEL / len(table.rows)
    }
    if not shown:
        return made
    found = [f"{'optimistic' if each.mean > 0 else 'pessimistic'} in {name}" for name, each in shown.items()]
    judged = [f"{_judge_gap(diagnosis['rows'], source):+.0f} points on {where}" for source, where in _JUDGED.items()]
    return [
        *made,
        f"World model and judge are {', '.join(found)}. With the recorded actions the judge is off by "
        f"{' and '.join(judged)}. What this does not explain is the world model's, provided that this policy recorded "
        "the episodes as it acts here. Before RL, train the world model on more rollouts of the policy, or for longer.",
    ]


def _judge_gap(rows: Sequence[Mapping[str, Any]], source: str) -> float:
    """Return the share of judged minus the share of true successes on a source of frames, in points."""
    known = [row for row in rows if row[source]["success"] is not None]
    return 100 * sum(row[source]["success"] - row["success"] for row in known) / max(len(known), 1)


def _recorded_table(recorded: Mapping[str, Any]) -> SuccessTable:
    def results(kind: str) -> list[EpisodeResult]:
        return [EpisodeResult(pair["task"], pair["episode"], 0, pair[kind], 0) for pair in recorded["pairs"]]

    return success_table(results("real"), results("imagined"))


def recorded_sheet(recorded: Mapping[str, Any]) -> Sheet:
    """Make the table of recorded and imagined success of the policy that acted in both."""
    table = _recorded_table(recorded)
    rows = [[row.task, str(row.before), str(row.after), str(row.difference)] for row in table.rows]
    rows.append(["mean over tasks", str(table.before), str(table.after), str(table.difference)])
    note = (
        "Imagined: the policy acts in the world model from the first frame of each recorded episode; after a failure "
        "for as many actions, after a success for as many as the longest episode of the task. Above 0 points, world "
        "model and judge are optimistic."
    )
    head = ["task", "recorded", "imagined", "imagined minus recorded"]
    return Sheet(f"Success of the policy {recorded['policy']}, recorded and imagined", head, rows, note)


def sheets(diagnosis: Mapping[str, Any]) -> list[Sheet]:
    """Make the tables of a diagnosis, the `MAIN` ones first."""
    made = [
        *(_splits(diagnosis, "missed", threshold) for threshold in _THRESHOLDS),
        _by_source(diagnosis, f"True-positive rate at {_STRICT} true-negative rate", _strict, _STRICT_NOTE),
        _by_source(diagnosis, "True-positive / true-negative rate at the judge's own threshold", _own),
        _fidelity(diagnosis),
        _calibration(diagnosis),
        _by_source(diagnosis, "AUROC of the judge's probability", lambda one: _number(one["auroc"], 3)),
        _by_source(diagnosis, "True-positive / true-negative rate at the best threshold", _best, _BEST_NOTE),
        _splits(diagnosis, "claimed", "own"),
        _reliability(diagnosis),
    ]
    if len(diagnosis["policies"]) > 1:
        made.append(_by_policy_and_task(diagnosis))
    return made


_STRICT_NOTE = "Optimistic: each cell has its own threshold, chosen on these rollouts."
_BEST_NOTE = f"Best: highest balanced accuracy. {_STRICT_NOTE}"


def _causes(diagnosis: Mapping[str, Any]) -> list[str]:
    return ["judge", "round_trip", "dynamics"] if "round_trip" in diagnosis["sources"] else ["judge", "world"]


def _groups(diagnosis: Mapping[str, Any]) -> dict[str, _Group]:
    """Return all rollouts, and those of each task and policy."""
    policies = diagnosis["policies"] if len(diagnosis["policies"]) > 1 else {}
    return {
        f"all {diagnosis['all']['episodes']}": diagnosis["all"],
        **{name or "no task": group for name, group in diagnosis["tasks"].items()},
        **{f"policy: {name}": group for name, group in policies.items()},
    }


def _by_source(diagnosis: Mapping[str, Any], title: str, cell: _Cell, note: str = "") -> Sheet:
    sources = diagnosis["sources"]
    rows = [
        [name, f"{group['successes']} of {group['episodes']}", *(cell(group["sources"][s]) for s in sources)]
        for name, group in _groups(diagnosis).items()
    ]
    return Sheet(title, ["rollouts", "succeeded", *(SOURCES[s] for s in sources)], rows, note)


def _own(one: _Group) -> str:
    errors = one["known"]["errors"] + one["refused"]["errors"]
    suffix = f", {errors} errors" if errors else ""
    return f"{_share(one['known'])} / {_share(one['refused'], False)}{suffix}"


def _strict(one: _Group) -> str:
    return _point(one["strict"], f"{_share(one['strict']['known'])}")


def _best(one: _Group) -> str:
    return _point(one["best"], f"{_share(one['best']['known'])} / {_share(one['best']['refused'], False)}")


def _point(point: _Group, rates: str) -> str:
    return "unknown" if point["threshold"]["value"] is None else f"{rates} at {point['threshold']['value']:.2f}"


def _splits(diagnosis: Mapping[str, Any], kind: str, threshold: str) -> Sheet:
    title, wrong = {
        "missed": ("Missed successes by cause", "missed"),
        "claimed": ("Failures judged successful by cause", "judged successful"),
    }[kind]
    causes = _causes(diagnosis)
    rows = []
    for name, group in _groups(diagnosis).items():
        split = group[kind][threshold]
        columns = (*causes, "mended")
        counts = [str(split[column]["successes"]) if split["wrong"]["count"] else "-" for column in columns]
        rows.append([name, _rate(split["wrong"]), *counts])
    head = ["rollouts", wrong, *(CAUSES[cause] for cause in causes), "corrected"]
    note = "Corrected: wrong on the real frames, right on the imagined ones."
    if threshold == "strict":
        note += " Each row has its own threshold, so rows do not add up."
    return Sheet(f"{title}, with {_THRESHOLDS[threshold]}", head, rows, note)


def _by_policy_and_task(diagnosis: Mapping[str, Any]) -> Sheet:
    sources, causes = diagnosis["sources"], _causes(diagnosis)
    rows = []
    for policy, tasks in diagnosis["policies"].items():
        for task, group in tasks["tasks"].items():
            succeeded = f"{group['successes']} of {group['episodes']}"
            rates = [_share(group["sources"][source]["known"]) for source in sources]
            missed = [str(group["missed"]["own"][cause]["successes"]) for cause in ("wrong", *causes)]
            rows.append([f"{policy}, {task or 'no task'}", succeeded, *rates, "/".join(missed)])
    missed_head = "/".join(["missed", *(CAUSES[cause] for cause in causes)])
    head = ["policy, task", "succeeded", *(SOURCES[source] for source in sources), missed_head]
    return Sheet("True-positive rate at the judge's own threshold, by policy and task", head, rows)


def _fidelity(diagnosis: Mapping[str, Any]) -> Sheet:
    fidelity = diagnosis["all"]["fidelity"]
    others = [s for s in diagnosis["sources"] if s != "real"]
    metrics = {"psnr": ("PSNR", 1), "sharpness": ("sharpness", 2), "contrast": ("contrast", 2)}
    columns = [(metric, source) for metric in metrics for source in others]
    rows = [
        [
            str(frame),
            *(
                _at(fidelity[metric][s], i, metrics[metric][1], s == "imagined" and metric != "contrast")
                for metric, s in columns
            ),
        ]
        for i, frame in enumerate(fidelity["frames"])
    ]
    head = ["frame", *(f"{metrics[metric][0]}: {SOURCES[s]}" for metric, s in columns)]
    note = "PSNR in dB. Sharpness (gradient energy) and contrast are relative to the same real frame: 1 is equal."
    return Sheet("Fidelity by frame", head, rows, note)


def _calibration(diagnosis: Mapping[str, Any]) -> Sheet:
    rows = []
    for source in diagnosis["sources"]:
        one = diagnosis["all"]["sources"][source]
        scores = [_number(one["brier"], 3), _plain(one["base_brier"], 3), _number(one["calibration_error"], 3)]
        rows.append([SOURCES[source], *scores])
    head = ["", "Brier score", "Brier score of the base rate", "expected calibration error"]
    return Sheet("The judge's probability as a prediction of real success", head, rows, "0 is best in every column.")


def _reliability(diagnosis: Mapping[str, Any]) -> Sheet:
    tables = {s: diagnosis["all"]["bins"][s] for s in diagnosis["sources"]}
    rows = [
        [f"{group[0]['low']:.1f}-{group[0]['high']:.1f}", *(_bin(one) for one in group)]
        for group in zip(*tables.values(), strict=True)
    ]
    note = "Mean probability in the bin: share of its rollouts that truly succeeded."
    return Sheet("Reliability of the judge's probability", ["bin", *(SOURCES[s] for s in tables)], rows, note)


def _bin(one: _Group) -> str:
    return f"{one['belief']:.2f}: {_rate(one['successes'])}" if one["successes"]["count"] else "-"


def closed_loop_sheet(name: str, loops: Mapping[str, Any]) -> Sheet:
    """Make the table of imagined and real outcomes per policy."""
    rows = []
    for policy, loop in {f"all {len(loops['policies'])}": loops["all"], **loops["policies"]}.items():
        unknown = f", {loop['unknown']} unknown" if loop["unknown"] else ""
        correlations = [_number(loop["phi"], 2), _number(loop["within"], 2)]
        counts = [str(loop[key]) for key in ("both", "only_imagined", "only_real", "neither")]
        rows.append([policy, f"{loop['count']}{unknown}", *correlations, *counts])
    head = ["policy", "episodes", "phi", "within tasks", "both", "imagined only", "real only", "neither"]
    note = (
        "Phi is the correlation of imagined and real success of the same episode, with 95 % intervals over layouts; 0 "
        "means no correlation. Within tasks: without the differences between tasks. Counts: episodes that succeeded in "
        "both, in one or in neither."
    )
    return Sheet(f"Imagined vs. real outcome by episode: {name}", head, rows, note)


def plain_loops(episodes: Sequence[Episode], seed: int = 0) -> dict[str, Any]:
    """Compute `closed_loop` per policy, in the format of diagnosis.json."""

    def plain(loop: ClosedLoop) -> dict[str, Any]:
        return numbers(loop) | {"count": loop.count}

    policies = {name: plain(loop) for name, loop in by_policy(episodes, seed).items()}
    return {"all": plain(closed_loop(episodes, seed)), "policies": policies}


def _share(rate: _Group, interval: bool = True) -> str:
    if rate["value"] is None:
        return "unknown"
    percent = f"{100 * rate['value']:.0f} %"
    return f"{percent} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]" if interval else percent


def _rate(rate: _Group) -> str:
    errors = f", {rate['errors']} errors" if rate["errors"] else ""
    return f"{_share(rate)} ({rate['successes']}/{rate['count']}{errors})"


def _plain(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _number(estimate: _Group, digits: int) -> str:
    if estimate["value"] is None or estimate["low"] is None:
        return _plain(estimate["value"], digits)
    return f"{estimate['value']:.{digits}f} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


def _at(curve: _Group, i: int, digits: int, interval: bool) -> str:
    low, high = (curve[name][i] if interval else None for name in ("low", "high"))
    return _number({"value": curve["mean"][i], "low": low, "high": high}, digits)


# ---------------------------------------------------------------- charts


def _bars(diagnosis: Mapping[str, Any], threshold: str) -> Bars:
    """Make the chart of detected and missed successes per task."""
    causes, rows = _causes(diagnosis), {}
    for name, group in diagnosis["tasks"].items():
        split = group["missed"][threshold]
        wrong = split["wrong"]
        missed = [split[cause]["successes"] for cause in causes]
        rows[name or "no task"] = [wrong["count"] - wrong["successes"], *missed]
    parts = ["detected", *(f"missed: {CAUSES[cause]}" for cause in causes)]
    return Bars(f"True successes, with {_THRESHOLDS[threshold]}", parts, rows, "true successes")


def _fidelity_curves(diagnosis: Mapping[str, Any]) -> list[Curve]:
    fidelity, curves = diagnosis["all"]["fidelity"], []
    for metric, title in {
        "psnr": "PSNR, dB",
        "sharpness": "Sharpness (real = 1)",
        "contrast": "Contrast (real = 1)",
    }.items():
        lines = fidelity[metric]
        series = [
            Series(SOURCES[s], fidelity["frames"], *(_gaps(lines[s][name]) for name in ("mean", "low", "high")))
            for s in ("imagined", "round_trip")
            if s in lines
        ]
        curves.append(Curve(title, series, x="frame"))
    return curves


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _reliability_curve(diagnosis: Mapping[str, Any]) -> Curve:
    """Make the reliability curve, with the diagonal."""
    series = []
    for source in ("imagined", "real"):
        bins = [one for one in diagnosis["all"]["bins"][source] if one["successes"]["count"]]
        rates = [[one["successes"][name] for one in bins] for name in ("value", "low", "high")]
        bounds = rates[1:] if source == "imagined" else [None, None]
        series.append(Series(SOURCES[source], [100 * one["belief"] for one in bins], rates[0], *bounds))
    diagonal = Series("perfect calibration", [0, 100], [0, 1])
    return Curve("Share of true successes", [*series, diagonal], x="judge's probability, %", percent=True)


def _strip(one: Mapping[str, Any], run: Path) -> StripView:
    name = Path(one["file"])
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{run / FILE}: refers to a picture outside the folder ({one['file']}); {AGAIN}")
    probabilities = []
    for source in one["sources"]:
        value = one["beliefs"][source]
        probabilities.append(f"{SOURCES[source]} {'no answer' if value is None else format(value, '.2f')}")
    return StripView(
        f"{one['task'] or 'no task'}: {one['instruction']}",
        f"Missed because of: {CAUSES[one['fault']]}. Judge's probability of success: {', '.join(probabilities)}. "
        f"Policy {one['policy']}, episode {one['episode']}.",
        [SOURCES[s] for s in one["sources"]],
        [str(time) for time in one["times"]],
        one["times"].index(one["success_frame"]),
        "data:image/png;base64," + base64.b64encode(png(read_picture(run / name))).decode(),
    )
