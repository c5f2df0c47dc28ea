"""What `diagnose` found: tables of words for terminal and page, and the page's charts and strips.

Everything here reads the plain JSON of `measure.diagnosis` (and of `cli.commands.diagnose`), so that a report can be
made of the file alone, on any machine.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import ClosedLoop, Episode, by_policy, closed_loop
from worldgymnast.evaluation.recall import STRICT
from worldgymnast.evaluation.success import numbers
from worldgymnast.files import read_json_object
from worldgymnast.report.charts import Bars, Curve, Series
from worldgymnast.report.world import Sheet
from worldgymnast.video import picture, png

FILE = "diagnosis.json"
"""In a run folder."""
AGAIN = "remove it and run diagnose again"
MAIN = 6
"""Tables of `sheets` that a terminal shows; the others are in the report."""
SOURCES = {"real": "real frames", "round_trip": "round trip", "imagined": "imagined"}
CAUSES = {"judge": "the judge", "round_trip": "the round trip", "dynamics": "the dynamics", "world": "the world"}
_KNOWN = f"{100 * STRICT:.0f} %"
_WAYS = {"own": "the judge's own threshold", "strict": f"thresholds that know {_KNOWN} of the failures"}
_Group = Mapping[str, Any]
_Cell = Callable[[_Group], str]


@dataclass(frozen=True)
class StripView:
    """A missed success on the page: a picture with a row a source of frames and a column a frame."""

    title: str
    note: str
    rows: Sequence[str]
    columns: Sequence[str]
    contact: int
    image: str


@dataclass(frozen=True)
class DiagnosisView:
    """The page's section.

    Attributes:
        sentences: what was found, in words.
        bars: where the successes went, by task.
        curves: fidelity by frame, and the reliability of beliefs.
        sheets: tables that are shown.
        more: tables that are folded away.
        strips: some missed successes at contact.
        command: the command line.
    """

    sentences: Sequence[str]
    bars: Sequence[Bars]
    curves: Sequence[Curve]
    sheets: Sequence[Sheet]
    more: Sequence[Sheet]
    strips: Sequence[StripView]
    command: str = ""


def view(run: Path) -> DiagnosisView | None:
    """The section of a run folder; None where there was no diagnosis.

    Raises:
        InputError: the file is not what `diagnose` writes.
    """
    file = run / FILE
    if not file.exists():
        return None
    found = read_json_object(file, AGAIN)
    try:
        return _view(found, run)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: found something else than diagnose writes ({error!r:.80}); {AGAIN}") from error


def _view(found: Mapping[str, Any], run: Path) -> DiagnosisView:
    loops = [closed_loop_sheet(name, own) for name, own in found.get("closed_loop", {}).items()]
    if "all" not in found:
        return DiagnosisView((), (), (), loops, (), (), str(found.get("command", "")))
    shown = {sheet.title: sheet for sheet in sheets(found)}
    first = [shown.pop(title) for title in list(shown)[: len(_WAYS)]]
    return DiagnosisView(
        sentences(found),
        [_bars(found, way) for way in _WAYS],
        [*_pictures(found), _reliability_curve(found)],
        [*first, *loops],
        list(shown.values()),
        [_strip(one, run) for one in found.get("strips", ())],
        str(found.get("command", "")),
    )


# ---------------------------------------------------------------- words


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Where the missed successes were lost, by both kinds of threshold; nothing where there are none."""
    made = []
    for way, name in _WAYS.items():
        split = found["all"]["missed"][way]
        wrong = split["wrong"]
        if not wrong["count"]:
            continue
        parts = [f"{split[cause]['successes']} by {CAUSES[cause]}" for cause in _causes(found)]
        made.append(
            f"With {name}, {wrong['successes']} of {wrong['count']} true successes are missed on imagined replays: "
            f"{', '.join(parts)}."
        )
    return made


def sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """The tables of a diagnosis; the `MAIN` that say most come first."""
    made = [_splits(found, "missed", way) for way in _WAYS]
    made += [_by_source(found, f"Successes known where {_KNOWN} of the failures are", _strict, _STRICT_NOTE)]
    made += [
        _by_source(found, "Successes / failures known at the judge's own threshold", _own),
        _fidelity(found),
        _calibration(found),
        _by_source(found, "AUROC of the judge's belief", lambda one: _number(one["auroc"], 3)),
        _by_source(found, "Best threshold (balanced accuracy): successes / failures known", _best, _STRICT_NOTE),
        _splits(found, "claimed", "own"),
        _reliability(found),
    ]
    return made + ([_cells(found)] if len(found["policies"]) > 1 else [])


_STRICT_NOTE = "Each row and source of frames has a threshold of its own, chosen on these very rollouts: optimistic."


def _causes(found: Mapping[str, Any]) -> list[str]:
    return ["judge", "round_trip", "dynamics"] if "round_trip" in found["sources"] else ["judge", "world"]


def _groups(found: Mapping[str, Any]) -> dict[str, _Group]:
    """All rollouts, those of every task, and of every kind of policy where there are several."""
    policies = found["policies"] if len(found["policies"]) > 1 else {}
    return {
        f"all {found['all']['episodes']}": found["all"],
        **{name or "no task": own for name, own in found["tasks"].items()},
        **{f"policy: {name}": own for name, own in policies.items()},
    }


def _by_source(found: Mapping[str, Any], title: str, cell: _Cell, note: str = "") -> Sheet:
    rows = [
        [name, f"{own['successes']} of {own['episodes']}", *(cell(own["sources"][s]) for s in found["sources"])]
        for name, own in _groups(found).items()
    ]
    return Sheet(title, ["rollouts", "succeeded", *(SOURCES[s] for s in found["sources"])], rows, note)


def _own(one: _Group) -> str:
    errors = one["known"]["errors"] + one["refused"]["errors"]
    return f"{_share(one['known'])} / {_share(one['refused'], False)}" + f", {errors} errors" * bool(errors)


def _strict(one: _Group) -> str:
    return _point(one["strict"], f"{_share(one['strict']['known'])}")


def _best(one: _Group) -> str:
    return _point(one["best"], f"{_share(one['best']['known'])} / {_share(one['best']['refused'], False)}")


def _point(point: _Group, said: str) -> str:
    return "unknown" if point["threshold"]["value"] is None else f"{said} at {point['threshold']['value']:.2f}"


def _splits(found: Mapping[str, Any], kind: str, way: str) -> Sheet:
    what, wrong = {
        "missed": ("Where missed successes were lost", "missed"),
        "claimed": ("Where failures became successes", "called a success"),
    }[kind]
    causes = _causes(found)
    rows = []
    for name, own in _groups(found).items():
        split = own[kind][way]
        parts = [str(split[cause]["successes"]) if split["wrong"]["count"] else "-" for cause in causes]
        mended = str(split["mended"]["successes"]) if split["wrong"]["count"] else "-"
        rows.append([name, _rate(split["wrong"]), *parts, mended])
    head = ["rollouts", wrong, *(f"by {CAUSES[cause]}" for cause in causes), "mended"]
    note = "Mended: wrong on the real frames, right on the imagined ones."
    return Sheet(f"{what}, by {_WAYS[way]}", head, rows, note)


def _cells(found: Mapping[str, Any]) -> Sheet:
    rows = [
        [
            f"{policy}, {task or 'no task'}", f"{own['successes']} of {own['episodes']}",
            *(_share(own["sources"][s]["known"]) for s in found["sources"]),
            "/".join(str(own["missed"]["own"][cause]["successes"]) for cause in ("wrong", *_causes(found))),
        ]
        for policy, every in found["policies"].items()
        for task, own in every["tasks"].items()
    ]  # fmt: skip
    lost = "/".join(["missed", *(cause.replace("_", " ") for cause in _causes(found))])
    head = ["policy, task", "succeeded", *(SOURCES[s] for s in found["sources"]), lost]
    return Sheet("Successes known at the judge's own threshold, by policy and task", head, rows)


def _fidelity(found: Mapping[str, Any]) -> Sheet:
    own = found["all"]["fidelity"]
    others = [s for s in found["sources"] if s != "real"]
    metrics = {"psnr": ("PSNR", 1), "sharpness": ("sharpness", 2), "contrast": ("contrast", 2)}
    columns = [(metric, source) for metric in metrics for source in others]
    rows = [
        [
            str(frame),
            *(
                _at(own[metric][s], i, metrics[metric][1], s == "imagined" and metric != "contrast")
                for metric, s in columns
            ),
        ]
        for i, frame in enumerate(own["frames"])
    ]
    head = ["frame", *(f"{metrics[metric][0]}: {SOURCES[s]}" for metric, s in columns)]
    note = "PSNR in dB. Sharpness (gradient energy) and contrast are over those of the same real frame: 1 is like it."
    return Sheet("Fidelity by frame", head, rows, note)


def _calibration(found: Mapping[str, Any]) -> Sheet:
    rows = [
        [SOURCES[s], _number(one["brier"], 3), _plain(one["base_brier"], 3), _number(one["calibration_error"], 3)]
        for s in found["sources"]
        for one in (found["all"]["sources"][s],)
    ]
    head = ["", "Brier score", "of the base rate", "expected calibration error"]
    return Sheet("The judge's belief as a probability of real success", head, rows, "0 is best in every column.")


def _reliability(found: Mapping[str, Any]) -> Sheet:
    tables = {s: found["all"]["bins"][s] for s in found["sources"]}
    rows = [
        [f"{group[0]['low']:.1f}-{group[0]['high']:.1f}", *(_bin(one) for one in group)]
        for group in zip(*tables.values(), strict=True)
    ]
    note = "Mean belief, then how many of these rollouts truly succeeded."
    return Sheet("Reliability of beliefs", ["belief", *(SOURCES[s] for s in tables)], rows, note)


def _bin(one: _Group) -> str:
    return f"{one['belief']:.2f}: {_rate(one['successes'])}" if one["successes"]["count"] else "-"


def closed_loop_sheet(name: str, found: Mapping[str, Any]) -> Sheet:
    """Phi of the policies in a file, from `closed_loops`."""
    groups = {f"all {len(found['policies'])}": found["all"], **found["policies"]}
    rows = [
        [
            who, str(own["count"]) + f", {own['unknown']} unknown" * bool(own["unknown"]), _number(own["phi"], 2),
            _number(own["within"], 2), str(own["both"]), str(own["only_imagined"]), str(own["only_real"]),
            str(own["neither"]),
        ]
        for who, own in groups.items()
    ]  # fmt: skip
    head = ["policy", "episodes", "phi", "within tasks", "both", "only imagined", "only real", "neither"]
    note = (
        "Phi is the correlation of both outcomes of the same episode, with 95 % intervals over layouts; within tasks: "
        "after each policy's success rates in its tasks are taken away. At 0 the imagined outcome says nothing."
    )
    return Sheet(f"Closed loop, episode by episode: {name}", head, rows, note)


def plain_loops(episodes: Sequence[Episode], seed: int = 0) -> dict[str, Any]:
    """`closed_loop` of some episodes and of every policy, as diagnosis.json and `closed_loop_sheet` have it."""

    def plain(found: ClosedLoop) -> dict[str, Any]:
        return numbers(found) | {"count": found.count}

    policies = {name: plain(own) for name, own in by_policy(episodes, seed).items()}
    return {"all": plain(closed_loop(episodes, seed)), "policies": policies}


def _share(found: _Group, interval: bool = True) -> str:
    if found["value"] is None:
        return "unknown"
    said = f"{100 * found['value']:.0f} %"
    return f"{said} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]" if interval else said


def _rate(found: _Group) -> str:
    errors = f", {found['errors']} errors" if found["errors"] else ""
    return f"{_share(found)} ({found['successes']}/{found['count']}{errors})"


def _plain(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _number(found: _Group, digits: int) -> str:
    if found["value"] is None or found["low"] is None:
        return _plain(found["value"], digits)
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _at(curve: _Group, i: int, digits: int, interval: bool) -> str:
    low, high = (curve[name][i] if interval else None for name in ("low", "high"))
    return _number({"value": curve["mean"][i], "low": low, "high": high}, digits)


# ---------------------------------------------------------------- pictures


def _bars(found: Mapping[str, Any], way: str) -> Bars:
    """Of every task, how many true successes are known when imagined, and where the others were lost."""
    causes, rows = _causes(found), {}
    for name, own in found["tasks"].items():
        split = own["missed"][way]
        wrong = split["wrong"]
        lost = [split[cause]["successes"] for cause in causes]
        rows[name or "no task"] = [wrong["count"] - wrong["successes"], *lost]
    names = ["known", *(f"lost by {CAUSES[cause]}" for cause in causes)]
    return Bars(f"True successes, by {_WAYS[way]}", names, rows, "true successes")


def _pictures(found: Mapping[str, Any]) -> list[Curve]:
    own, made = found["all"]["fidelity"], []
    for metric, title in {
        "psnr": "PSNR, dB",
        "sharpness": "Sharpness, real is 1",
        "contrast": "Contrast, real is 1",
    }.items():
        series = [
            Series(SOURCES[s], own["frames"], *(_gaps(own[metric][s][name]) for name in ("mean", "low", "high")))
            for s in ("imagined", "round_trip")
            if s in own[metric]
        ]
        made.append(Curve(title, series, x="frame"))
    return made


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _reliability_curve(found: Mapping[str, Any]) -> Curve:
    """Share of true successes by mean belief, in percent, and the diagonal."""
    series = []
    for source in ("imagined", "real"):
        full = [one for one in found["all"]["bins"][source] if one["successes"]["count"]]
        rates = [[one["successes"][name] for one in full] for name in ("value", "low", "high")]
        bounds = rates[1:] if source == "imagined" else [None, None]
        series.append(Series(SOURCES[source], [100 * one["belief"] for one in full], rates[0], *bounds))
    diagonal = Series("belief is right", [0, 100], [0, 1])
    return Curve("True successes by belief", [*series, diagonal], x="the judge's belief, %", percent=True)


def _strip(one: Mapping[str, Any], run: Path) -> StripView:
    name = Path(one["file"])
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{run / FILE}: found a picture outside the folder ({one['file']}); {AGAIN}")
    beliefs = ", ".join(
        f"{SOURCES[s]} {'no answer' if one['beliefs'][s] is None else format(one['beliefs'][s], '.2f')}"
        for s in one["sources"]
    )
    return StripView(
        f"{one['task'] or 'no task'}: {one['instruction']}",
        f"Lost by {CAUSES[one['fault']]}. The judge's belief: {beliefs}. Episode {one['episode']} of the data, by "
        f"{one['policy']}.",
        [SOURCES[s] for s in one["sources"]],
        [str(time) for time in one["times"]],
        one["times"].index(one["success_frame"]),
        "data:image/png;base64," + base64.b64encode(png(picture(run / name))).decode(),
    )
