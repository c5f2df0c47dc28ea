"""From a run folder to its `Report`: reads files only, so that it works on any machine and on unfinished runs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes.lerobot_layout import INFO, read_layout
from worldgymnast.errors import InputError
from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.closed_loop import of_evaluation
from worldgymnast.evaluation.guard import GuardConfig, alarm, history_of
from worldgymnast.evaluation.success import Difference, EpisodeResult, Rate, SuccessTable, success_table
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.records import DECISIONS, UNPLAYED, is_number, is_whole, read_outcomes, read_rows, read_seconds
from worldgymnast.registry import from_dict
from worldgymnast.report import powered
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
from worldgymnast.report.report import Curve, GapRow, Pair, Report, Series
from worldgymnast.report.world import Sheet
from worldgymnast.run_folder import readable
from worldgymnast.video import decode

Rows = Sequence[Mapping[str, Any]]

_KINDS = {
    "expert": "demonstrations",
    "noisy": "noisy-expert episodes",
    "play": "play episodes",
    "policy": "labelled policy rollouts",
}
_CURVES = (
    ("Reward in imagination", "reward", True),
    ("Groups without signal", "zero_advantage_groups", True),
    ("Failed judgements", "judge_error_rate", True),
    ("Claimed successes that the audit judge denies", "audit_denied_share", True),
    ("Imagined successes that are none for real", "real_denied_share", True),
    ("Seconds waiting for verdicts", "seconds_judge", False),
    ("Probability ratio", "last_ratio", False),
    ("Clip fraction", "last_clip_fraction", True),
    ("Entropy, nats a token", "entropy", False),
    ("KL to the start policy, nats a token", "kl_to_start", False),
    ("KL from the anchors of held tasks, nats a token", "kl_to_anchor", False),
    ("Imagined successes that are none when imagined again", "flipped_rate", True),
    ("Imagined frames per second", "imagined_frames_per_second", False),
)
_TRAINED = (("sft", "Imitation"), ("world/autoencoder", "Autoencoder"), ("world", "World model"), ("judge", "Judge"))
"""What is trained, in this folder or, before policies have explored, in one of its rounds'."""
_MOST_SERIES = 4
_SCORED = ("gap", "gap_low", "gap_high", "imagined_success", "real_success")
"""What is logged of a scoring."""


def collect(run: Path) -> Report:
    """The report on the folder of a run that rolls a policy out (`reproduce`, `rl`, `evaluate` ...), finished or not.

    Raises:
        InputError: the folder is none of these.
    """
    with readable(Path(run)):
        return _collected(Path(run))


def _collected(run: Path) -> Report:
    learners = _learners(run)
    evaluation, gate = read_outcomes(run / "evaluation.json"), gate_of(run)
    logs = {path.name: metrics_of(path) for path in learners}
    before, summary, name = next(iter(evaluation), ""), summary_of(run), Path(os.path.abspath(run)).name
    begun = (run / "data").is_dir() and not (run / "meta").is_dir()  # which a data set has
    diagnosis = view(run)
    if not (learners or evaluation or gate or begun or diagnosis):
        raise InputError(
            f"{run}: found no rollouts of a policy (no metrics of RL, no evaluation.json), expected the folder of "
            "reproduce, quickstart, rl, adapt, dyna, evaluate, diagnose or a baseline; check the path"
        )
    return Report(
        title=f"{name}: a policy finetuned in a world model" if learners else name,
        command=command_of([run, *learners]) or (diagnosis.command if diagnosis else ""),
        versions=versions_of([run, *learners]),
        table=success(evaluation, run / "evaluation.json"),
        powered=powered.sheet(evaluation, read_outcomes(run / UNPLAYED), _after(evaluation)),
        gap=[*(row for path in learners[:1] for row in _gap(logs[path.name], config_of(path))), *evaluated(evaluation)],
        loops=loops(evaluation),
        tasks=[history for path in learners[:1] for history in histories(logs[path.name])],
        curves=[*_learning(logs), *_fidelity(gate), *_training(run)],
        gallery=[pair for path in learners[:1] for pair in _gallery(path)],
        budget=_budget(run, learners, logs, evaluation),
        stages=read_seconds(run / "stages.json"),
        notes=[*_notes(summary, gate, learners, evaluation), *_kept(logs), *_judged(run, logs), *_decided(run)],
        seeds={
            after: table.difference
            for after in list(evaluation)[1:]
            if (table := success({before: evaluation[before], after: evaluation[after]}, run / "evaluation.json"))
        },
        gate=gate,
        diagnosis=diagnosis,
    )


def success(evaluation: Mapping[str, Rows], file: Path | str = "evaluation.json") -> SuccessTable | None:
    """The paired table of an evaluation: its first policy against `_after`; None where one is missing.

    Raises:
        InputError: an episode has no partner, or is there twice; the message names `file`.
    """
    names = list(evaluation)
    if len(names) < 2:
        return None
    after = [row for name in _after(evaluation) for row in evaluation[name]]
    there = {(row["task"], row["layout"], row["seed"]) for row in after}
    before = [row for row in evaluation[names[0]] if (row["task"], row["layout"], row["seed"]) in there]
    if not before or not after:
        return None
    try:
        return success_table(_results(before), _results(after))
    except ValueError as error:
        raise InputError(f"{file}: {error}; remove it and run the same command again") from error


def _after(evaluation: Mapping[str, Rows]) -> list[str]:
    """The policies that are compared with the first: all others where each has layouts of its own, as RL seeds have;
    the last one where they were tried on the same, as those of rounds are."""
    others = list(evaluation)[1:]
    places = [(row["task"], row["layout"], row["seed"]) for name in others for row in evaluation[name]]
    return others if len(places) == len(set(places)) else others[-1:]


def _results(rows: Rows) -> list[EpisodeResult]:
    return [EpisodeResult(r["task"], r["layout"], r["seed"], r.get("success"), int(r.get("frames") or 0)) for r in rows]


# ---------------------------------------------------------------- files


def _learners(run: Path) -> list[Path]:
    """RL runs: those inside, or the folder itself."""
    inside = sorted(path for path in run.glob("rl*") if (path / "metrics.jsonl").is_file())
    own = any("reward" in row for row in metrics_of(run)[:2])  # Iter-SFT scores before it imagines
    return inside or ([run] if own else [])


# ---------------------------------------------------------------- curves


def _series(name: str, rows: Rows, key: str) -> Series | None:
    shown = [(row["step"], row[key]) for row in rows if key in row]
    return Series(name, [x for x, _ in shown], [y for _, y in shown]) if shown else None


def _learning(logs: Mapping[str, Rows]) -> list[Curve]:
    """What RL logs every step, a line a seed, and imagined beside real success."""
    curves = []
    rates = [("imagined", "imagined_success"), ("real", "real_success"), ("gap", "gap")]
    for name, rows in logs.items():
        lines = [line for label, key in rates if (line := _series(label, rows, key))]
        if lines:
            curves.append(Curve(f"Success on the same starts, {name}", lines, percent=False))
    for title, key, percent in _CURVES:
        lines = [line for name, rows in logs.items() if (line := _series(name, rows, key))]
        if lines:
            curves.append(Curve(title, lines[:_MOST_SERIES], percent=percent))
    return curves


def _fidelity(gate: Mapping[str, Any]) -> list[Curve]:
    found = gate.get("fidelity")
    if not found:
        return []
    steps = found["horizon"]
    lines = [
        Series("world", steps, found["psnr"], found["psnr_low"], found["psnr_high"]),
        Series("copy of the first frame", steps, found["copy"]),
        Series("shuffled actions", steps, found["shuffled"]),
    ]
    return [Curve("PSNR on held-out real actions, dB", lines, x="imagined frame")]


def _training(run: Path) -> list[Curve]:
    places = [("", run), *((f", {place.name.replace('-', ' ')}", place) for place in sorted(run.glob("round-*")))]
    found = [
        (f"{title}{when}", _series("loss", metrics_of(place / folder), "loss"))
        for folder, title in _TRAINED
        for when, place in places
    ]
    return [Curve(f"{title}: loss", [line]) for title, line in found if line]


def _scorings(rows: Rows) -> list[Mapping[str, float]]:
    return [row for row in rows if all(name in row for name in _SCORED)]


def _starts(config: Mapping[str, Any]) -> int:
    """Starts of one scoring, of RL or of the rounds of Iter-SFT."""
    scoring = inside(config, "scoring")  # of a run of an earlier version these are elsewhere
    starts = scoring.get("per_task") or (inside(config, "rl") or config).get("evaluate_starts", 0)
    tasks = scoring.get("tasks") or inside(config, "env").get("tasks", ())
    return starts * len(tasks) if is_whole(starts) and isinstance(tasks, list | tuple) else 0


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
    """Imagined against real success on the starts of the evaluation: the first policy, and all others together."""
    names = list(evaluation)
    groups = {"evaluation, before": names[:1], "evaluation, after": _after(evaluation)}
    found = []
    for when, members in groups.items():
        rows = [row for name in members for row in evaluation[name] if "imagined" in row]
        if rows:
            dreamt, truly = [row["imagined"] for row in rows], [row.get("success") for row in rows]
            gap = success_gap(dreamt, truly, strata=[row["task"] for row in rows])
            found.append(GapRow(when, Rate.of(dreamt), Rate.of(truly), gap))
    return found


def loops(evaluation: Mapping[str, Rows]) -> list[Sheet]:
    """Real and imagined outcome of every episode of an evaluation, correlated; nothing where none was imagined."""
    episodes = of_evaluation(evaluation)
    return [closed_loop_sheet("evaluation", plain_loops(episodes))] if episodes else []


# ---------------------------------------------------------------- videos, cost, words


def _gallery(learner: Path) -> list[Pair]:
    def clip(name: str) -> np.ndarray | None:
        file = learner / "videos" / f"{name}.mp4"
        try:
            return decode(file) if file.is_file() else None
        except (InputError, OSError) as error:
            print(f"{file}: video left out: {error}", file=sys.stderr)
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
    """Real episodes by kind: those that trained something, and those that only measured."""
    counts = recorded(run)
    counts |= {f"{kind} (made the starter)": count for kind, count in budget_of(summary_of(run)).items()}
    scored = sum(len(_scorings(logs[path.name])) * _starts(config_of(path)) for path in learners)
    if scored:
        counts[f"scoring episodes during RL ({_purpose(learners)})"] = scored
    if measured := sum(len(rows) for rows in evaluation.values()):
        counts["evaluation episodes (no training)"] = measured
    return counts


def recorded(run: Path) -> dict[str, int]:
    """Real episodes by kind in the data sets of a run of `reproduce`."""
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
    """What the real scorings during RL decide: with `keep_best` they choose the weights that are handed out."""
    chosen = any((inside(config_of(path), "rl") or {"keep_best": True}).get("keep_best") for path in learners)
    return "choose the step that is kept" if chosen else "no training"


def _notes(
    summary: Mapping[str, Any], gate: Mapping[str, Any], learners: Sequence[Path], evaluation: Mapping[str, Rows]
) -> list[str]:
    notes = []
    if "photographs" in summary:
        notes.append(
            f"The gradient came from imagination alone, starting from {summary['photographs']} photographs of new "
            f"layouts: 0 real episodes. The real scorings during RL: {_purpose(learners)}."
        )
    if "imagined_true_positive" in gate:
        success_rate, failure_rate = gate["imagined_true_positive"], gate["imagined_true_negative"]
        notes.append(
            "Gate before RL: in imagined replays of held-out real rollouts, world and judge together know "
            f"{_share(success_rate)} of the true successes and {_share(failure_rate)} of the true failures "
            "(90 % of each is asked for)."
        )
    if len(after := _after(evaluation)) > 1:
        notes.append(f"The policy after is {len(after)} policies, one a seed, each on layouts of its own.")
    elif len(evaluation) > 2:
        notes.append(f"The policy after is that of '{after[0]}'; the others were tried on the same layouts.")
    if learners and all("scoring" in (own := config_of(path)) and own["scoring"] is None for path in learners):
        notes.append(
            "It was not scored for real: there was no real environment, so the last step is kept, and what is called "
            "success here is imagined."
        )
    for path in learners:
        mismatch = inside(config_of(path), "inputs", "simulator").get("mismatch")
        if is_number(mismatch):
            notes.append(
                f"{path.name} practised in a simulator of mismatch {mismatch:g}, not in a world model: "
                "what is called imagined here is simulated."
            )
    if len(learners) > 1:
        notes.append(f"Imagined against real success and the videos are those of {learners[0].name}.")
    return notes


def _decided(run: Path) -> list[str]:
    """Which rounds of Dyna replaced the policy that was kept, and why."""
    return [row["said"] for row in read_rows(run / DECISIONS, lambda row: isinstance(row.get("said"), str))]


def _kept(logs: Mapping[str, Rows]) -> list[str]:
    """The scored step whose weights every training has kept so far."""
    chosen = {name: [row["kept_step"] for row in rows if "kept_step" in row] for name, rows in logs.items()}
    return [
        f"{name} has kept {'its start policy' if steps[-1] == 0 else f'the policy of step {int(steps[-1])}'}."
        for name, steps in chosen.items()
        if steps and not math.isnan(steps[-1])
    ]


def _judged(run: Path, logs: Mapping[str, Rows]) -> list[str]:
    """What the guard has to say of every training, and what judges behind servers have cost."""
    notes = []
    for name, rows in logs.items():
        folder = _folder(run, name)
        guard = from_dict(GuardConfig, inside(config_of(folder), "rl", "guard"), str(folder / "config.json"))
        for source, who in (("audit", "the audit judge"), ("real", "the real environment")):
            if heard := alarm(history_of(source, rows), guard):
                notes.append(f"Reward hacking? {name}, asked {who}: {heard}.")
        if failed := sum(claims.errors for claims in history_of("audit", rows)):
            shown = failed + sum(claims.count for claims in history_of("audit", rows))
            notes.append(f"The audit judge failed on {failed} of {shown} claims in {name}; they count for nothing.")
    for folder in dict.fromkeys([run, *(_folder(run, name) for name in logs)]):
        if (folder / FILE).is_file():
            try:
                with contextlib.closing(Ledger(folder / FILE)) as ledger:
                    spent = ledger.spent()
            except InputError as error:
                notes.append(f"What judges behind servers have cost is not known: {error}.")
                continue
            money = f", {spent.money:.2f} in money" if spent.money else ""
            notes.append(f"Judges behind servers: {spent.requests} requests, {spent.tokens} tokens{money}.")
    return notes


def _folder(run: Path, learner: str) -> Path:
    """The folder of a learner inside the run, or the run itself."""
    return run / learner if (run / learner).is_dir() else run


def _share(value: float) -> str:
    return "an unknown share" if math.isnan(value) else f"{100 * value:.0f} %"
