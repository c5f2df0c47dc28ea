"""Building the `Report` of a run folder, finished or not."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast import metrics
from worldgymnast.episodes.lerobot_layout import INFO, read_layout
from worldgymnast.errors import InputError
from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.closed_loop import evaluation_episodes
from worldgymnast.evaluation.success import Difference, EpisodeResult, Rate, SuccessTable, success_table
from worldgymnast.records import (
    COPIED,
    DECISIONS,
    UNPLAYED,
    is_count,
    is_number,
    read_outcomes,
    read_rows,
    read_seconds,
)
from worldgymnast.report import powered, rates
from worldgymnast.report.by_task import histories
from worldgymnast.report.diagnosis import closed_loop_sheet, plain_loops, view
from worldgymnast.report.folder import (
    budget_of,
    command_of,
    config_of,
    gallery_of,
    gate_of,
    inside,
    metrics_of,
    summary_of,
    versions_of,
)
from worldgymnast.report.judging import costs, warnings
from worldgymnast.report.offline import offline_doubts, offline_notes, offline_sheets
from worldgymnast.report.report import Curve, GapRow, Pair, Report, Series
from worldgymnast.report.world import Sheet
from worldgymnast.run_folder import os_errors_as_input_errors
from worldgymnast.video import decode

Rows = Sequence[Mapping[str, Any]]

_KINDS = {
    "expert": "demonstrations",
    "noisy": "noisy-expert episodes",
    "play": "play episodes",
    "replayed": "replayed demonstrations",
    "plan": "executed plans",
    "policy": "labelled policy rollouts",
}
_CURVES = (
    "reward",
    "zero_advantage_groups",
    "judge_error_rate",
    "outside_rate",
    "audit_denied_share",
    "real_denied_share",
    "seconds_judge",
    "last_ratio",
    "last_clip_fraction",
    "entropy",
    "kl_to_start",
    "kl_to_anchor",
    "flipped_rate",
    "imagined_frames_per_second",
)
"""Metrics of RL that get a chart."""
_TRAININGS = (
    ("sft", "Imitation"),
    ("adapted", "Imitation, also of imagined demonstrations"),
    ("world/autoencoder", "Autoencoder"),
    ("world", "World model"),
    ("judge", "Judge"),
)
"""Folders of trainings in a run folder or, before exploration, in the folder of a round."""
_MAX_SERIES = 4
_SCORING = ("gap", "gap_low", "gap_high", "imagined_success", "real_success")
"""Metrics of a scoring."""


def collect(run: Path) -> Report:
    """Build the report of a run folder.

    Raises:
        InputError: there is no such folder, or it has no policy rollouts.
    """
    with os_errors_as_input_errors(Path(run)):
        return _collect(Path(run))


def _collect(run: Path) -> Report:
    if not run.is_dir():
        raise InputError(f"{run}: no such folder. Check the path")
    learners = learners_of(run)
    evaluation, gate = read_outcomes(run / "evaluation.json"), gate_of(run)
    logs = {path.name: metrics_of(path) for path in learners}
    before, summary, name = next(iter(evaluation), ""), summary_of(run), Path(os.path.abspath(run)).name
    is_reproduction = (run / "data").is_dir() and not (run / "meta").is_dir()  # meta: a data set
    diagnosis, episodes = view(run), evaluation_episodes(evaluation)
    loops = plain_loops(episodes) if episodes else {}
    if not (learners or evaluation or gate or is_reproduction or diagnosis):
        raise InputError(
            f"{run}: has no policy rollouts (no RL metrics, no evaluation.json). Give the run folder of reproduce, "
            "quickstart, rl, adapt, dyna, evaluate, diagnose or a baseline"
        )
    return Report(
        title=f"{name}: RL in a world model" if learners else name,
        command=command_of([run, *learners]) or (diagnosis.command if diagnosis else ""),
        versions=versions_of([run, *learners]),
        table=success(evaluation, run / "evaluation.json"),
        rates=alone(evaluation),
        is_unfinished=list(evaluation) == ["before"] and not summary,
        powered=powered.sheet(evaluation, read_outcomes(run / UNPLAYED), _after(evaluation)),
        gap=[*(row for path in learners[:1] for row in _gap(logs[path.name], config_of(path))), *evaluated(evaluation)],
        loops=[closed_loop_sheet("evaluation", loops)] if loops else [],
        agreement=loops.get("all", {}),
        tasks=[history for path in learners[:1] for history in histories(logs[path.name])],
        curves=[*_learning(logs), *_training(run)],
        fidelity=_fidelity(gate),
        gallery=[pair for path in learners[:1] for pair in _gallery(path)],
        budget=_budget(run, learners, logs, evaluation),
        stages=read_seconds(run / "stages.json") or _elapsed(logs),
        warnings=warnings(run, logs),
        costs=costs(run, logs),
        notes=[
            *_notes(summary, gate, learners, evaluation),
            *_kept_steps(logs),
            *_decisions(run),
        ],
        seeds={
            after: table.difference
            for after in list(evaluation)[1:]
            if (table := success({before: evaluation[before], after: evaluation[after]}, run / "evaluation.json"))
        },
        gate=gate,
        diagnosis=diagnosis,
        offline=offline_sheets(run),
        offline_notes=offline_notes(run),
        offline_doubts=offline_doubts(run),
    )


def _elapsed(logs: Mapping[str, Rows]) -> dict[str, float]:
    """Return the seconds between the first and the last logged step of each training, pauses included."""
    times = {name: [row["time"] for row in rows if "time" in row] for name, rows in logs.items()}
    return {f"{name}, from its first to its last logged step": t[-1] - t[0] for name, t in times.items() if len(t) > 1}


def success(evaluation: Mapping[str, Rows], file: Path | str = "evaluation.json") -> SuccessTable | None:
    """Make the paired table of an evaluation, or None.

    Raises:
        InputError: an episode has no partner, or appears twice; the message names `file`.
    """
    names = list(evaluation)
    if len(names) < 2:
        return None
    after = [row for name in _after(evaluation) for row in evaluation[name]]
    keys = {(row["task"], row["layout"], row["seed"]) for row in after}
    before = [row for row in evaluation[names[0]] if (row["task"], row["layout"], row["seed"]) in keys]
    if not before or not after:
        return None
    try:
        return success_table(_results(before), _results(after))
    except ValueError as error:
        raise InputError(f"{file}: {error}. Remove it, then rerun the same command") from error


def alone(evaluation: Mapping[str, Rows]) -> Sheet | None:
    """Make the table of an evaluation of one policy, or None."""
    return rates.sheet(_results(next(iter(evaluation.values())))) if len(evaluation) == 1 else None


def _after(evaluation: Mapping[str, Rows]) -> list[str]:
    """Return the policies to compare with the first.

    These are all others if each has its own layouts (RL seeds), or the last one if they share layouts (rounds).
    """
    others = list(evaluation)[1:]
    keys = [(row["task"], row["layout"], row["seed"]) for name in others for row in evaluation[name]]
    return others if len(keys) == len(set(keys)) else others[-1:]


def _results(rows: Rows) -> list[EpisodeResult]:
    return [EpisodeResult(r["task"], r["layout"], r["seed"], r.get("success"), int(r.get("frames") or 0)) for r in rows]


# ---------------------------------------------------------------- files


def learners_of(run: Path) -> list[Path]:
    """Return the folders of the RL runs: those in the folder, or the folder itself."""
    runs = sorted(path for path in run.glob("rl*") if (path / "metrics.jsonl").is_file())
    if not runs and any("reward" in row for row in metrics_of(run)[:2]):  # Iter-SFT scores before it imagines
        runs = [run]
    return runs


# ---------------------------------------------------------------- curves


def _series(name: str, rows: Rows, key: str, scale: float = 1) -> Series | None:
    points = [(row["step"], scale * row[key]) for row in rows if key in row]
    return Series(name, [x for x, _ in points], [y for _, y in points]) if points else None


def _learning(logs: Mapping[str, Rows]) -> list[Curve]:
    """Make the curves of RL, a line per run."""
    curves = []
    rates = [("imagined", "imagined_success"), ("real", "real_success"), ("gap", "gap")]
    for name, rows in logs.items():
        lines = [line for label, key in rates if (line := _series(label, rows, key, 100))]
        if lines:
            suffix = f" ({name})" if len(logs) > 1 else ""
            curves.append(Curve(f"Success on the same starts{suffix}, %", lines))
    for key in _CURVES:
        lines = [line for name, rows in logs.items() if (line := _series(name, rows, key))]
        if lines and (metric := metrics.find(key)):
            curves.append(Curve(metric.label, lines[:_MAX_SERIES], percent=metric.is_share))
    return curves + _workers(logs)


def _workers(logs: Mapping[str, Rows]) -> list[Curve]:
    """Make the curve of the slowest Ray workers, of the first run that has workers."""
    for rows in logs.values():
        rates: dict[str, list[float]] = {}
        for key, value in (item for row in rows for item in row.items() if item[0].startswith(f"{metrics.RATE}/")):
            rates.setdefault(key, []).append(value)
        slowest = sorted(rates, key=lambda key: (sum(rates[key]) / len(rates[key]), key))[:_MAX_SERIES]
        lines = [line for key in slowest if (line := _series(f"worker {key.rpartition('/')[2]}", rows, key))]
        if lines:
            return [Curve("Groups per second of the slowest workers", lines)]
    return []


def _fidelity(gate: Mapping[str, Any]) -> list[Curve]:
    fidelity = gate.get("fidelity")
    if not fidelity:
        return []
    steps = fidelity["horizon"]
    lines = [
        Series("world model", steps, fidelity["psnr"], fidelity["psnr_low"], fidelity["psnr_high"]),
        Series("first frame copied", steps, fidelity["copy"]),
        Series("shuffled actions", steps, fidelity["shuffled"]),
    ]
    return [Curve("PSNR on held-out real actions, dB", lines, x="imagined frame")]


def _training(run: Path) -> list[Curve]:
    folders = [("", run), *((f", {path.name.replace('-', ' ')}", path) for path in sorted(run.glob("round-*")))]
    lines = [
        (f"{title}{suffix}", _series("loss", metrics_of(folder / name), "loss"))
        for name, title in _TRAININGS
        for suffix, folder in folders
    ]
    return [Curve(f"{title}: loss", [line]) for title, line in lines if line]


def _scorings(rows: Rows) -> list[Mapping[str, float]]:
    return [row for row in rows if all(name in row for name in _SCORING)]


def _starts(config: Mapping[str, Any]) -> int:
    """Return the number of starts of one scoring."""
    scoring = inside(config, "scoring")  # runs of an earlier version have these elsewhere
    starts = scoring.get("per_task") or (inside(config, "rl") or config).get("evaluate_starts", 0)
    tasks = scoring.get("tasks") or inside(config, "env").get("tasks", ())
    return starts * len(tasks) if is_count(starts) and isinstance(tasks, list | tuple) else 0


def _gap(rows: Rows, config: Mapping[str, Any]) -> list[GapRow]:
    count = _starts(config)

    def rate(share: float) -> Rate:
        return Rate(0, 0) if math.isnan(share) else Rate(round(min(max(share, 0.0), 1.0) * count), count)

    return [
        GapRow(
            f"step {int(row['step'])}",
            rate(row["imagined_success"]),
            rate(row["real_success"]),
            Difference(row["gap"], row["gap_low"], row["gap_high"], count, math.nan),
        )
        for row in _scorings(rows)
    ]


def evaluated(evaluation: Mapping[str, Rows]) -> list[GapRow]:
    """Compare imagined and real success in the evaluation."""
    names = list(evaluation)
    first = "evaluation" if len(names) == 1 else "evaluation, before"
    groups = {first: names[:1], "evaluation, after": _after(evaluation)}
    gaps = []
    for when, members in groups.items():
        rows = [row for name in members for row in evaluation[name] if "imagined" in row]
        if rows:
            imagined, real = [row["imagined"] for row in rows], [row.get("success") for row in rows]
            gap = success_gap(imagined, real, strata=[row["task"] for row in rows])
            gaps.append(GapRow(when, Rate.of(imagined), Rate.of(real), gap, is_training=False))
    return gaps


# ---------------------------------------------------------------- videos, cost, notes


def _gallery(learner: Path) -> list[Pair]:
    def clip(name: str) -> np.ndarray | None:
        file = learner / "videos" / f"{name}.mp4"
        try:
            return decode(file) if file.is_file() else None
        except (InputError, OSError) as error:
            print(f"{file}: video skipped: {error}", file=sys.stderr)
            return None

    return [
        Pair(
            row["instruction"],
            clip(f"{row['name']}-imagined"),
            clip(f"{row['name']}-real"),
            row["fps"],
            None if row.get("verdict") is None else row["verdict"] > 0.5,
            row.get("probability"),
            row.get("real_success"),
            note=f"{row['task']}, layout {row.get('layout')}",
        )
        for row in gallery_of(learner)
    ]


def _budget(
    run: Path, learners: Sequence[Path], logs: Mapping[str, Rows], evaluation: Mapping[str, Rows]
) -> dict[str, int]:
    """Count real episodes by kind, for training and for evaluation only."""
    counts = recorded(run)
    counts |= {f"{kind} (starter components)": count for kind, count in budget_of(summary_of(run)).items()}
    scored = sum(len(_scorings(logs[path.name])) * _starts(config_of(path)) for path in learners)
    if scored:
        counts[f"scoring episodes during RL ({_purpose(learners)})"] = scored
    if measured := sum(not row.get(COPIED) for rows in evaluation.values() for row in rows):
        counts["evaluation episodes (no training)"] = measured
    return counts


def recorded(run: Path) -> dict[str, int]:
    """Count real episodes by kind in the data sets of `reproduce`."""
    counts: dict[str, int] = {}
    for data in sorted((run / "data").glob("*")) if (run / "data").is_dir() else []:
        if not (data / INFO).is_file():
            continue
        for record in read_layout(data, "all").records:
            kind = record.source.partition("@")[0]
            name = _KINDS.get(kind, kind or "other episodes")
            name += ", held out" if data.name == "held_out" else ""
            name += ", of explorers" if data.name.startswith("explored") else ""
            counts[name] = counts.get(name, 0) + 1
    return counts


def _purpose(learners: Sequence[Path]) -> str:
    """Describe the purpose of real scoring during RL."""
    is_selecting = any((inside(config_of(path), "rl") or {"keep_best": True}).get("keep_best") for path in learners)
    return "checkpoint selection" if is_selecting else "no training"


def _notes(
    summary: Mapping[str, Any], gate: Mapping[str, Any], learners: Sequence[Path], evaluation: Mapping[str, Rows]
) -> list[str]:
    notes = []
    if "photographs" in summary:
        notes.append(
            f"RL used no real episodes: all rollouts were imagined, from {summary['photographs']} photographs of new "
            f"layouts. Real scoring during RL: {_purpose(learners)}."
        )
    if "imagined_true_positive" in gate:
        success_rate, failure_rate = gate["imagined_true_positive"], gate["imagined_true_negative"]
        notes.append(
            f"Gate before RL: on imagined replays of held-out real rollouts, {_share(success_rate)} of true successes "
            f"and {_share(failure_rate)} of true failures are classified correctly (target 90 % each)."
        )
    if len(after := _after(evaluation)) > 1:
        notes.append(f"'After' pools {len(after)} policies, one per seed, each on its own layouts.")
    elif len(evaluation) > 2:
        notes.append(f"'After' is the policy of '{after[0]}'; the others were evaluated on the same layouts.")
    if learners and all(_is_unscored(config_of(path)) for path in learners):
        notes.append("No real scoring: all success rates are imagined, and the result is the last step.")
    for path in learners:
        mismatch = inside(config_of(path), "inputs", "simulator").get("mismatch")
        if is_number(mismatch):
            notes.append(
                f"{path.name} was trained in a simulator of mismatch {mismatch:g}, not in a world model: "
                "'imagined' means simulated here."
            )
    if len(learners) > 1:
        notes.append(f"Imagined vs. real success and the videos are those of {learners[0].name}.")
    return notes


def _is_unscored(config: Mapping[str, Any]) -> bool:
    return "scoring" in config and config["scoring"] is None


def _decisions(run: Path) -> list[str]:
    """Return which rounds of Dyna replaced the policy, and why."""
    return [row["said"] for row in read_rows(run / DECISIONS, lambda row: isinstance(row.get("said"), str))]


def _kept_steps(logs: Mapping[str, Rows]) -> list[str]:
    """Return the step whose weights each training has selected so far."""
    notes = []
    for name, rows in logs.items():
        steps = [row["kept_step"] for row in rows if "kept_step" in row]
        if steps and not math.isnan(steps[-1]):
            policy = "the start policy" if steps[-1] == 0 else f"step {int(steps[-1])}"
            notes.append(f"{name}: the selected checkpoint is {policy}.")
    return notes


def _share(value: float) -> str:
    return "an unknown share" if math.isnan(value) else f"{100 * value:.0f} %"
