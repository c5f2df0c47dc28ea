"""A run as the page of `watch` shows it: the report's own data, read again whenever a file of the run changes.

Everything is read by `report.collect`, so an unfinished or killed run can be watched, on any machine that sees its
folder. Nothing in the folder is locked or written.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Difference, Rate
from worldgymnast.metrics import METRICS
from worldgymnast.report.collect import collect, learners_of
from worldgymnast.report.folder import command_of, config_of, inside, metrics_of
from worldgymnast.report.report import Curve, Pair, Report, Series
from worldgymnast.video import viewable

_QUIET_STEPS, _QUIET_SECONDS = 4.0, 120.0
"""A run is called quiet after this many typical steps and seconds without a new one."""
_FILES = ("*.json", "*.jsonl", "command.txt")
_SHARES = (("imagine", "seconds_imagine"), ("judge", "seconds_judge"), ("update", "seconds_update"))
TRAINED = ("loss", "relative_error", "token_accuracy", "accuracy", "success_loss", "gradient_norm", "lr")
"""Metrics of trainings without rollouts: of a policy by imitation, an autoencoder, a world model or a judge."""
NEWEST = (
    "reward",
    "imagined_success",
    "real_success",
    "gap",
    "zero_advantage_groups",
    "judge_error_rate",
    "kl_to_start",
    "entropy",
    "imagined_frames_per_second",
    "staleness",
    "pool/workers",
    "pool/queued",
    "pool/requeued",
    "pool/restarts",
    *TRAINED,
)
"""Metrics of a training whose newest values the page shows."""
_KINDS = {"0..1": "percent", "-1..1": "points"}


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        name: name of its folder.
        steps: steps in the log.
        total: steps of the whole training; None if unknown.
        last: time of the newest step, in seconds since 1970; None before the first.
        step_seconds: typical duration of a step, or None.
        is_finished: whether the training has ended.
        newest: newest value of each of `NEWEST`.
        interval: 95 % interval of the newest gap, or None.
        shares: seconds of the newest step by part.
    """

    name: str
    steps: int
    total: int | None
    last: float | None
    step_seconds: float | None
    is_finished: bool
    newest: Mapping[str, float]
    interval: tuple[float, float] | None
    shares: Mapping[str, float]

    def state(self, now: float) -> str:
        """One of "finished", "running", "quiet" and "starting"."""
        if self.is_finished:
            return "finished"
        if self.last is None:
            return "starting"
        limit = max(_QUIET_SECONDS, _QUIET_STEPS * (self.step_seconds or 0.0))
        return "running" if now - self.last < limit else "quiet"


def progress(folder: Path) -> Progress:
    """Progress of the training in a folder.

    Raises:
        InputError: a file of the run is damaged.
    """
    rows = metrics_of(folder)
    times = np.array([row["time"] for row in rows if "time" in row], np.float64)
    steps = np.array([row["step"] for row in rows if "time" in row], np.float64)
    gaps = np.diff(times)[np.diff(steps) > 0] / np.diff(steps)[np.diff(steps) > 0]
    newest = {
        key: known[-1]
        for key in NEWEST
        if (known := [row[key] for row in rows if not math.isnan(row.get(key, math.nan))])
    }
    ends = [(row["gap_low"], row["gap_high"]) for row in rows if "gap_low" in row and "gap_high" in row]
    config = config_of(folder)
    total = (inside(config, "rl") or inside(config, "fit")).get("steps")
    updates = len({row["step"] for row in rows if "reward" in row})
    timed = [row for row in rows if any(key in row for _, key in _SHARES)]
    return Progress(
        folder.name,
        updates or int(steps[-1] if len(steps) else -1) + 1,
        total if isinstance(total, int) and not isinstance(total, bool) else None,
        float(times[-1]) if len(times) else None,
        float(np.median(gaps)) if len(gaps) else None,
        (folder / "summary.json").is_file(),
        newest,
        ends[-1] if ends else None,
        {name: timed[-1][key] for name, key in _SHARES if timed and key in timed[-1]},
    )


def plain(value: Any) -> Any:
    """A value of the report as JSON; NaN becomes None, and frames are left out.

    >>> plain({"a": (1.5, math.nan)})
    {'a': [1.5, None]}
    """
    if isinstance(value, Rate):
        low, high = value.interval if value.count else (math.nan, math.nan)
        return plain({"value": value.value, "low": low, "high": high, "count": value.count})
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) or math.isinf(value) else float(value)
    if isinstance(value, np.ndarray):
        return None
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in asdict_names(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    return [plain(one) for one in value] if isinstance(value, Sequence) else str(value)


def asdict_names(value: Any) -> list[str]:
    """Names of the fields of a dataclass."""
    return list(value.__dataclass_fields__)


class Watch:
    """A run folder, read again when it changes.

    Attributes:
        run: the folder.
    """

    def __init__(self, run: Path):
        """Watch a folder.

        Raises:
            InputError: there is no such folder.
        """
        if not run.is_dir():
            raise InputError(f"{run}: no such folder. Check the path")
        self.run = run
        self._lock, self._version = threading.Lock(), ""
        self._page: dict[str, Any] = {}
        self._pairs: Sequence[Pair] = ()
        self._encoded: dict[tuple[int, str], bytes] = {}

    def snapshot(self, known: str = "") -> dict[str, Any]:
        """Everything that the page shows, as JSON values.

        Args:
            known: version that the page has; if it is the newest, only the state and times are returned.
        """
        with self._lock:
            version = self._fingerprint()
            if version != self._version:
                self._read()
                self._version = version
            now = time.time()
            trainings = [self._running(one, now) for one in self._trainings]
            moving = {"version": self._version, "trainings": trainings, "now": now}
            return moving if known == self._version else moving | self._page

    def _fingerprint(self) -> str:
        """Text that changes when a file of the run does."""
        try:
            folders = [self.run, *(path for path in sorted(self.run.iterdir()) if path.is_dir())]
        except FileNotFoundError:
            return "gone"
        files = [file for folder in folders for kind in _FILES for file in sorted(folder.glob(kind))]
        parts = []
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue  # replaced at this moment
            parts.append((file.name, file.parent.name, status.st_mtime_ns, status.st_size))
        return f"{hash(tuple(parts)):x}"

    def _read(self) -> None:
        self._encoded = {}
        try:
            report = collect(self.run)
            self._trainings = [progress(path) for path in learners_of(self.run)]
        except InputError as error:
            self._pairs = ()
            rows = metrics_of(self.run)
            self._trainings = [progress(self.run)] if rows else []
            self._page = {"title": self.run.resolve().name, "problem": str(error), "command": ""}
            if rows:
                curves = _curves(rows)
                self._page = _page(Report(self.run.resolve().name, command_of([self.run]), curves=curves))
            return
        self._pairs = report.gallery
        self._page = _page(report)

    def _running(self, one: Progress, now: float) -> dict[str, Any]:
        left = None
        if one.total and one.step_seconds and not one.is_finished:
            left = one.step_seconds * max(0, one.total - one.steps)
        return plain(asdict(one)) | {"state": one.state(now), "left": left}

    def video(self, index: int, kind: str) -> bytes:
        """Video of a pair as an mp4 file; `kind` is "imagined" or "real".

        Raises:
            InputError: there is no such video.
        """
        with self._lock:
            if (index, kind) in self._encoded:
                return self._encoded[index, kind]
            frames = None
            if 0 <= index < len(self._pairs) and kind in ("imagined", "real"):
                frames = self._pairs[index].imagined if kind == "imagined" else self._pairs[index].real
            if frames is None:
                raise InputError(f"video: there is no {kind} video {index}")
            self._encoded[index, kind] = viewable(frames, self._pairs[index].fps)
            return self._encoded[index, kind]


def _curves(rows: Sequence[Mapping[str, float]]) -> list[Curve]:
    """Curves of a training without rollouts."""
    curves = []
    for key in TRAINED:
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            series = Series(key, [step for step, _ in points], [value for _, value in points])
            curves.append(Curve(METRICS[key].label, [series], percent=METRICS[key].is_share))
    return curves


def _page(report: Report) -> dict[str, Any]:
    """The report as JSON values, with videos by address."""
    table = None
    if report.table is not None:
        difference: Difference = report.table.difference
        table = {"before": report.table.before, "after": report.table.after, "difference": difference}
        table["rows"] = report.table.rows
    return {
        "title": report.title,
        "command": report.command,
        "problem": "",
        "names": [[key, METRICS[key].title, _KINDS.get(METRICS[key].unit, "number")] for key in NEWEST],
        "table": plain(table),
        "gap": plain(list(report.gap)),
        "curves": plain([*report.curves, *report.fidelity]),
        "gallery": [
            plain(pair) | {"wrong": pair.is_wrong, "imagined": pair.imagined is not None, "real": pair.real is not None}
            for pair in report.gallery
        ],
        "tasks": plain(list(report.tasks)),
        "budget": plain(report.budget),
        "stages": plain(report.stages),
        "notes": [*report.warnings, *report.costs, *report.notes],
        "versions": dict(report.versions),
    }
