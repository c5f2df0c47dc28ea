"""Attributes wrong verdicts on imagined rollouts to judge, representation or dynamics.

Labeled rollouts are judged on their real frames, on the world model's round trip of these (if it has one, see
`protocols.RoundTrip`), and on imagined replays of the same actions. World model and judge are used only through their
Protocols. Episodes are imagined `rows` at a time, so memory does not grow with the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast.actions import converter
from worldgymnast.episodes.windows import EpisodeSet, warn_out_of_range
from worldgymnast.errors import InputError
from worldgymnast.evaluation.calibration import reliability
from worldgymnast.evaluation.fidelity import appearance, by_horizon, frame_scores
from worldgymnast.evaluation.recall import SOURCES, find_fault, recall, split_faults, threshold_verdicts
from worldgymnast.evaluation.success import Outcome, numbers
from worldgymnast.evaluation.uncertainty import success_probability
from worldgymnast.measure.gate import truncate
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, RoundTrip, WorldModel
from worldgymnast.training.replay import first_frames, frame_clips, imagine_actions, logged_actions
from worldgymnast.types import Verdict

FRAMES = (1, 5, 10, 20)
"""Imagined frames to measure; the start is frame 0."""
STRIP = (-3, -2, -1, 0, 1, 2)
"""Frames of a strip around the first success, in strides."""
ClipsBySource = Mapping[str, UInt8[np.ndarray, "r t1 h w 3"]]
"""Clips of the same rollouts, by source of frames."""


@dataclass(frozen=True)
class Strip:
    """A missed success around its first real success ("at contact").

    Attributes:
        task: name of the task.
        policy: source of the actions.
        instruction: the sentence.
        episode: index in the data.
        fault: see `recall.find_fault`.
        success_frame: index of the first real success.
        times: int [n], indices of the frames.
        frames: uint8 [n h w 3] by source.
        beliefs: success probabilities by source.
    """

    task: str
    policy: str
    instruction: str
    episode: int
    fault: str
    success_frame: int
    times: np.ndarray
    frames: Mapping[str, np.ndarray]
    beliefs: Mapping[str, float]


@dataclass
class Measurements:
    """Verdicts and statistics of n rollouts, in the order in which they were imagined.

    Attributes:
        order: index of each in the data.
        verdicts: by source of frames.
        pictures: "METRIC/SOURCE" to parts of float [r f], at `FRAMES`, NaN beyond the end of an episode.
        strips: of missed successes, by task and fault.
        seconds: time spent on imagination.
        frames: imagined frames.
    """

    order: list[int] = field(default_factory=list)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    strips: dict[tuple[str, str], list[Strip]] = field(default_factory=dict)
    seconds: float = 0.0
    frames: int = 0


@dataclass(frozen=True)
class Diagnosis:
    """All numbers as plain JSON (see `diagnose`), and strips of some missed successes."""

    numbers: dict[str, Any]
    strips: Sequence[Strip]


def diagnose(
    world: WorldModel,
    judge: Judge,
    episodes: EpisodeSet,
    *,
    horizon: int | None = None,
    stride: int = 2,
    seed: int = 0,
    rows: int = 32,
) -> dict[str, Any]:
    """Diagnose a world model and a judge: causes of wrong verdicts, fidelity and calibration, as plain JSON.

    Args:
        world: the world model; with a `RoundTrip`, faults of the representation are separated.
        judge: the judge.
        episodes: real rollouts; unlabeled ones are ignored. Their `source` is the kind of policy.
        horizon: actions of each episode to judge; success counts if it comes within them. None uses whole episodes.
        stride: frames between two that the judge sees.
        seed: of the imagination and the bootstraps.
        rows: episodes imagined in parallel.

    Returns:
        "judge", "horizon", "stride", "seed", "sources" (of frames), "imagined_frames_per_second", a group under "all",
        one per task under "tasks", one per kind of policy under "policies" (each again with "tasks"), and "rows", one
        per episode. A group holds its counts, a `recall.Recall` by source under "sources", the `recall.Split` of missed
        successes ("missed") and of claimed failures ("claimed") by the judge's own verdict ("own") and by the
        threshold of each source that knows `recall.STRICT` of the failures ("strict"), "fidelity" by frame, and "bins"
        (reliability) by source. Unknown values are None.

    Raises:
        InputError: no episode has both a label and an action.
    """
    return examine(world, judge, episodes, horizon=horizon, stride=stride, seed=seed, rows=rows, strips=0).numbers


def examine(
    world: WorldModel,
    judge: Judge,
    episodes: EpisodeSet,
    *,
    horizon: int | None = None,
    stride: int = 2,
    seed: int = 0,
    rows: int = 32,
    strips: int = 4,
) -> Diagnosis:
    """Run `diagnose`, and return up to `strips` strips of missed successes, those of the world model first."""
    usable = np.flatnonzero(episodes.labelled & (episodes.length > 0))
    if not len(usable):
        raise InputError(
            f"data: none of {len(episodes)} episodes has both a success label and an action. Give data recorded with "
            "record-policy, or label it"
        )
    real = episodes.select(usable)
    real = real if horizon is None else truncate(real, horizon)
    measured = _measure_all(world, judge, real, stride, seed, rows, strips)
    back = np.argsort(measured.order)
    table = _Table(
        truth=real.succeeded,
        task=real.kinds,
        policy=tuple(name or "unknown" for name in real.source),
        verdicts={name: [each[i] for i in back] for name, each in measured.verdicts.items()},
        pictures={name: np.concatenate(parts)[back] for name, parts in measured.pictures.items()},
        seed=seed,
    )
    all_rows = np.arange(len(real))
    by_policy = {
        name: _group(table, rows) | {"tasks": _by(table.task, rows, lambda part: _group(table, part, is_full=False))}
        for name, rows in _rows_by(table.policy, all_rows).items()
    }
    results: dict[str, Any] = {
        "judge": judge.name,
        "horizon": int(real.length.max()) if horizon is None else horizon,
        "stride": stride,
        "seed": seed,
        "sources": list(table.verdicts),
        "imagined_frames_per_second": measured.frames / measured.seconds if measured.seconds else None,
        "all": _group(table, all_rows),
        "tasks": _by(table.task, all_rows, lambda part: _group(table, part)),
        "policies": by_policy,
        "rows": [
            _row(table, i) | {"episode": int(usable[i]), "layout": int(real.layout[i])} for i in all_rows.tolist()
        ],
    }
    chosen = [replace(strip, episode=int(usable[strip.episode])) for strip in _choose_strips(measured.strips, strips)]
    return Diagnosis(results, chosen)


# ---------------------------------------------------------------- measuring


def _measure_all(
    world: WorldModel, judge: Judge, real: EpisodeSet, stride: int, seed: int, rows: int, strips: int
) -> Measurements:
    """Judge every source of frames, and measure the frames."""
    convert = converter(real.spec, world.action_spec)
    if real.spec.is_same_kind(world.action_spec):
        warn_out_of_range(real, world.action_spec, "world model")
    order, measured = np.argsort(real.length, kind="stable"), Measurements()
    with Progress("judging real, decoded and imagined frames", len(real)) as progress:
        for i in range(0, len(real), rows):
            index = order[i : i + rows]
            part = real.select(index)
            length = int(part.length.max())
            inside = np.minimum(np.arange(length + 1), part.length[:, None])  # the last frame repeats
            clips = {"real": np.asarray(real.frames[part.first[:, None] + inside])}
            if isinstance(world, RoundTrip):
                clips["round_trip"] = round_trip(world, clips["real"])
            actions = convert(logged_actions(part, np.arange(len(part)), length))
            began = time.perf_counter()
            generator, (starts, known) = torch.Generator().manual_seed(seed + i), first_frames(part)
            clips["imagined"], foreseen = imagine_actions(world, starts, actions, part.instruction, generator, known)
            measured.seconds += time.perf_counter() - began
            measured.frames += length * len(part)
            for name, frames in clips.items():
                judged = frame_clips(part, frames, stride, foreseen if name == "imagined" else None)
                measured.verdicts.setdefault(name, []).extend(judge.score(judged))
            _measure_frames(clips, part.length, measured)
            _keep_strips(part, index, clips, stride, strips, measured)
            measured.order += index.tolist()
            progress.advance(len(part))
    return measured


def round_trip(world: RoundTrip, clips: UInt8[np.ndarray, "r t1 h w 3"]) -> UInt8[np.ndarray, "r t1 h w 3"]:
    """Encode and decode real clips; the first frame stays real, as in imagined clips."""
    decoded = world.round_trip(torch.from_numpy(np.ascontiguousarray(clips))).cpu().numpy()
    return np.concatenate([clips[:, :1], decoded[:, 1:]], 1)


def _measure_frames(clips: ClipsBySource, length: np.ndarray, measured: Measurements) -> None:
    """Measure PSNR against the real frames, gradient energy and contrast of each source, at `FRAMES`."""
    marks = np.array(FRAMES)
    exists = marks <= length[:, None]  # [r f]
    marked = {name: frames[:, np.minimum(marks, frames.shape[1] - 1)] for name, frames in clips.items()}
    for name, frames in marked.items():
        statistics = [appearance(clip) for clip in frames]
        values = {metric: np.stack([each[metric] for each in statistics]) for metric in ("sharpness", "contrast")}
        if name != "real":
            values["psnr"] = frame_scores(marked["real"], frames)["psnr"]
        for metric, value in values.items():
            measured.pictures.setdefault(f"{metric}/{name}", []).append(np.where(exists, value, np.nan))


def _keep_strips(
    part: EpisodeSet, index: np.ndarray, clips: ClipsBySource, stride: int, most: int, measured: Measurements
) -> None:
    """Keep strips of missed successes, at most `most` per task and fault."""
    newest = {name: verdicts[-len(part) :] for name, verdicts in measured.verdicts.items()}
    for row in np.flatnonzero(part.succeeded).tolist():
        cause = find_fault({name: verdicts[row].succeeded for name, verdicts in newest.items()}, True)
        kept = measured.strips.setdefault((part.kinds[row], cause), []) if cause else []
        if not cause or len(kept) >= most:
            continue
        first, length = int(part.first[row]), int(part.length[row])
        success = int(np.argmax(part.success[first : first + length + 1]))
        times = np.unique(np.clip(success + stride * np.array(STRIP), 0, length))
        kept.append(
            Strip(
                part.kinds[row],
                part.source[row],
                part.instruction[row],
                int(index[row]),
                cause,
                success,
                times,
                {name: frames[row][times].copy() for name, frames in clips.items()},
                {name: success_probability(verdicts[row]) for name, verdicts in newest.items()},
            )
        )


def _choose_strips(strips: Mapping[tuple[str, str], Sequence[Strip]], most: int) -> list[Strip]:
    """Choose at most `most` strips: faults of the world model before those of the judge, tasks in turn."""
    chosen: list[Strip] = []
    for causes in (("dynamics", "world"), ("round_trip",), ("judge",)):
        queues = [list(each) for (_, cause), each in sorted(strips.items()) if cause in causes]
        while queues := [queue for queue in queues if queue]:
            chosen += [queue.pop(0) for queue in queues]
    return chosen[:most]


# ---------------------------------------------------------------- counting


@dataclass(frozen=True)
class _Table:
    """Measurements of n rollouts, in the order of the data."""

    truth: np.ndarray
    task: Sequence[str]
    policy: Sequence[str]
    verdicts: Mapping[str, Sequence[Verdict]]
    pictures: Mapping[str, np.ndarray]
    seed: int


def _rows_by(names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Split `rows` by name."""
    chosen = np.array(names, dtype=object)[rows]
    return {name: rows[chosen == name] for name in sorted(set(chosen.tolist()))}


def _by(names: Sequence[str], rows: np.ndarray, group: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    """Apply `group` to the rows of every name."""
    return {name: group(each) for name, each in _rows_by(names, rows).items()}


def _row(table: _Table, i: int) -> dict[str, Any]:
    """Return the row of an episode: its outcome, and verdict and probability on every source of frames."""
    verdicts = {name: each[i] for name, each in table.verdicts.items()}
    truth = bool(table.truth[i])
    said = {
        name: {"success": v.succeeded, "belief": numbers(success_probability(v)), "error": v.error}
        for name, v in verdicts.items()
    }
    cause = find_fault({name: v.succeeded for name, v in verdicts.items()}, truth)
    return {"task": table.task[i], "policy": table.policy[i], "success": truth, "fault": cause} | said


def _group(table: _Table, rows: np.ndarray, is_full: bool = True) -> dict[str, Any]:
    """Return the numbers of some rollouts; fidelity and reliability only if `is_full`."""
    truth = table.truth[rows]
    verdicts = {name: [each[i] for i in rows] for name, each in table.verdicts.items()}
    beliefs = {name: np.array([success_probability(v) for v in each], np.float64) for name, each in verdicts.items()}
    outcomes = {name: [v.succeeded for v in each] for name, each in verdicts.items()}
    recalls = {name: recall(beliefs[name], outcomes[name], truth, table.seed) for name in verdicts}
    strict = {name: threshold_verdicts(beliefs[name], recalls[name].strict.threshold.value) for name in verdicts}
    group: dict[str, Any] = {
        "episodes": len(rows),
        "successes": int(truth.sum()),
        "failures": int((~truth).sum()),
        "sources": numbers(recalls),
        "missed": _splits({"own": outcomes, "strict": strict}, truth, True),
        "claimed": _splits({"own": outcomes, "strict": strict}, truth, False),
    }
    if is_full:
        group["fidelity"] = _fidelity({name: each[rows] for name, each in table.pictures.items()}, table.seed)
        group["bins"] = {name: _bins(beliefs[name], truth) for name in verdicts}
    return group


def _splits(ways: Mapping[str, Mapping[str, Sequence[Outcome]]], truth: np.ndarray, kind: bool) -> dict[str, Any]:
    return {way: numbers(split_faults(verdicts, truth.tolist(), kind)) for way, verdicts in ways.items()}


def _bins(beliefs: np.ndarray, truth: np.ndarray) -> Any:
    known = np.isfinite(beliefs)
    return numbers(reliability(beliefs[known], truth[known])[0])


def _fidelity(pictures: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Return by frame: "psnr" (dB), and "sharpness" and "contrast" relative to the real frames.

    "over_round_trip" is relative to the round trip: the loss caused by the dynamics.
    """
    exists = np.isfinite(pictures["sharpness/real"])
    reached = exists.any(0)
    values = {name: each[:, reached] for name, each in pictures.items()}
    curves = {("psnr", s): values[f"psnr/{s}"] for s in SOURCES if f"psnr/{s}" in values}
    for metric in ("sharpness", "contrast"):
        by_source = {s: values[f"{metric}/{s}"] for s in SOURCES if f"{metric}/{s}" in values}
        curves |= {(metric, s): _ratio(by_source[s], by_source["real"]) for s in by_source if s != "real"}
        curves[metric, "real"] = by_source["real"]
        if "round_trip" in by_source:
            curves[metric, "over_round_trip"] = _ratio(by_source["imagined"], by_source["round_trip"])
    marks = np.array(FRAMES)[reached]
    results: dict[str, Any] = {"frames": marks.tolist(), "episodes": exists.sum(0)[reached].tolist()}
    if not len(marks):
        return results
    joint = by_horizon(np.concatenate(list(curves.values()), 1), seed)  # one bootstrap for all
    for n, (metric, name) in enumerate(curves):
        part = slice(n * len(marks), (n + 1) * len(marks))
        results.setdefault(metric, {})[name] = {key: numbers(each[part]) for key, each in joint.items()}
    return results


def _ratio(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Divide; NaN where `other` is 0."""
    return np.where(other > 0, values / np.where(other > 0, other, 1), np.nan)
