"""What costs imagined rollouts their right verdicts: the judge, the world's representation, or its dynamics.

Labelled rollouts are judged on their real frames, on the world's round trip of these (where it has one, see
`types.RoundTrip`), and on imagined replays of the same actions. World and judge are seen through their Protocols alone.
Episodes are imagined `rows` at a time and their frames forgotten, so that memory does not grow with the data.
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
from worldgymnast.episodes.windows import EpisodeSet, warn_outside
from worldgymnast.errors import InputError
from worldgymnast.evaluation.calibration import reliability
from worldgymnast.evaluation.fidelity import appearance, by_horizon, frame_scores
from worldgymnast.evaluation.recall import SOURCES, called, fault, recall, split
from worldgymnast.evaluation.success import Outcome, numbers
from worldgymnast.evaluation.uncertainty import belief
from worldgymnast.measure.gate import cut
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, RoundTrip, WorldModel
from worldgymnast.training.replay import driven, follow, seen_of
from worldgymnast.types import Verdict

FRAMES = (1, 5, 10, 20)
"""Imagined frames at which pictures are measured; the start is frame 0."""
STRIP = (-3, -2, -1, 0, 1, 2)
"""Frames of a strip around the first success, in strides."""
Shown = Mapping[str, UInt8[np.ndarray, "r t1 h w 3"]]
"""Clips of the same rollouts by source of frames."""


@dataclass(frozen=True)
class Strip:
    """A missed success around its first real success ("at contact").

    Attributes:
        task: its name.
        policy: what acted.
        instruction: the sentence.
        episode: index in the data.
        fault: see `recall.fault`.
        success_frame: index of the first frame at which it really succeeded.
        times: int [n], indices of the frames shown.
        frames: uint8 [n h w 3] by source.
        beliefs: the judge's, by source.
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
class Answers:
    """What was seen of n rollouts, in the order in which they were imagined.

    Attributes:
        order: index of each in the data.
        verdicts: by source of frames.
        pictures: "METRIC/SOURCE" to float [r f] a piece, at `FRAMES`, NaN beyond an episode's end.
        strips: of missed successes, by task and fault.
        seconds: spent imagining.
        frames: imagined.
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
    """The recall split, the fidelity beside it and the calibration of a world and a judge, as plain JSON.

    Args:
        world: the world model; with a `RoundTrip` the split also knows the representation's part.
        judge: the judge; sees every `stride`-th frame.
        episodes: real rollouts; unlabelled ones are left out. Their `source` is the kind of policy.
        horizon: actions of an episode that are judged; it succeeded if it did so by then. None for whole episodes.
        stride: frames between two that the judge sees.
        seed: of the imagination and the bootstraps.
        rows: episodes imagined side by side.

    Returns:
        "judge", "horizon", "stride", "seed", "sources" (of frames), "imagined_frames_per_second", a group under "all",
        one a task under "tasks" and one a kind of policy under "policies" (each again with "tasks"), and "rows", one an
        episode. A group holds its counts, a `recall.Recall` by source under "sources", the `recall.Split` of missed
        successes ("missed") and of claimed failures ("claimed") by the judge's own verdict ("own") and by the
        threshold of each source that knows `recall.STRICT` of the failures ("strict"), "fidelity" by frame, and "bins"
        (reliability) by source. What is unknown is None.

    Raises:
        InputError: no episode has a label and an action.
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
    """`diagnose`, and strips of at most so many missed successes, those that the world lost first."""
    usable = np.flatnonzero(episodes.labelled & (episodes.length > 0))
    if not len(usable):
        raise InputError(
            f"data: found no label of success in {len(episodes)} episodes, expected at least one labelled episode with "
            "an action; give data recorded with record-policy, or label it"
        )
    real = episodes.select(usable)
    real = real if horizon is None else cut(real, horizon)
    found = _asked(world, judge, real, stride, seed, rows, strips)
    back = np.argsort(found.order)
    table = _Table(
        truth=real.succeeded,
        task=real.kinds,
        policy=tuple(name or "unknown" for name in real.source),
        verdicts={name: [own[i] for i in back] for name, own in found.verdicts.items()},
        pictures={name: np.concatenate(parts)[back] for name, parts in found.pictures.items()},
        seed=seed,
    )
    every = np.arange(len(real))
    by_policy = {
        name: _group(table, own) | {"tasks": _by(table.task, own, lambda part: _group(table, part, whole=False))}
        for name, own in _rows_by(table.policy, every).items()
    }
    made: dict[str, Any] = {
        "judge": judge.name,
        "horizon": int(real.length.max()) if horizon is None else horizon,
        "stride": stride,
        "seed": seed,
        "sources": list(table.verdicts),
        "imagined_frames_per_second": found.frames / found.seconds if found.seconds else None,
        "all": _group(table, every),
        "tasks": _by(table.task, every, lambda part: _group(table, part)),
        "policies": by_policy,
        "rows": [_row(table, i) | {"episode": int(usable[i]), "layout": int(real.layout[i])} for i in every.tolist()],
    }
    chosen = [replace(strip, episode=int(usable[strip.episode])) for strip in _chosen(found.strips, strips)]
    return Diagnosis(made, chosen)


# ---------------------------------------------------------------- asking


def _asked(
    world: WorldModel, judge: Judge, real: EpisodeSet, stride: int, seed: int, rows: int, strips: int
) -> Answers:
    """What the judge says of every source of frames, and how these look."""
    convert = converter(real.spec, world.action_spec)
    if real.spec.is_same_kind(world.action_spec):
        warn_outside(real, world.action_spec, "world model")
    order, found = np.argsort(real.length, kind="stable"), Answers()
    with Progress("judging real, decoded and imagined frames", len(real)) as progress:
        for i in range(0, len(real), rows):
            index = order[i : i + rows]
            part = real.select(index)
            length = int(part.length.max())
            inside = np.minimum(np.arange(length + 1), part.length[:, None])  # beyond its end the last frame again
            shown = {"real": np.asarray(real.frames[part.first[:, None] + inside])}
            if isinstance(world, RoundTrip):
                shown["round_trip"] = round_trip(world, shown["real"])
            acts = convert(driven(part, np.arange(len(part)), length))
            began = time.perf_counter()
            generator = torch.Generator().manual_seed(seed + i)
            begun = np.ascontiguousarray(shown["real"][:, 0])
            shown["imagined"], foreseen = follow(world, begun, acts, part.instruction, generator)
            found.seconds += time.perf_counter() - began
            found.frames += length * len(part)
            for name, frames in shown.items():
                asked = seen_of(part, frames, stride, foreseen if name == "imagined" else None)
                found.verdicts.setdefault(name, []).extend(judge.score(asked))
            _measure(shown, part.length, found)
            _keep_strips(part, index, shown, stride, strips, found)
            found.order += index.tolist()
            progress.advance(len(part))
    return found


def round_trip(world: RoundTrip, clips: UInt8[np.ndarray, "r t1 h w 3"]) -> UInt8[np.ndarray, "r t1 h w 3"]:
    """The world's round trip of real clips; the first frame stays the real one, as in imagined clips."""
    made = world.round_trip(torch.from_numpy(np.ascontiguousarray(clips))).cpu().numpy()
    return np.concatenate([clips[:, :1], made[:, 1:]], 1)


def _measure(shown: Shown, length: np.ndarray, found: Answers) -> None:
    """PSNR against the real frames, and gradient energy and contrast of each source, at `FRAMES`."""
    marks = np.array(FRAMES)
    there = marks <= length[:, None]  # [r f]
    at = {name: clips[:, np.minimum(marks, clips.shape[1] - 1)] for name, clips in shown.items()}
    for name, clips in at.items():
        looked = [appearance(clip) for clip in clips]
        values = {metric: np.stack([one[metric] for one in looked]) for metric in ("sharpness", "contrast")}
        if name != "real":
            values["psnr"] = frame_scores(at["real"], clips)["psnr"]
        for metric, value in values.items():
            found.pictures.setdefault(f"{metric}/{name}", []).append(np.where(there, value, np.nan))


def _keep_strips(part: EpisodeSet, index: np.ndarray, shown: Shown, stride: int, most: int, found: Answers) -> None:
    """Keep the frames around the first success of missed successes, at most so many of each task and fault."""
    last = {name: verdicts[-len(part) :] for name, verdicts in found.verdicts.items()}
    for row in np.flatnonzero(part.succeeded).tolist():
        cause = fault({name: own[row].succeeded for name, own in last.items()}, True)
        kept = found.strips.setdefault((part.kinds[row], cause), []) if cause else []
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
                {name: clips[row][times].copy() for name, clips in shown.items()},
                {name: belief(own[row]) for name, own in last.items()},
            )
        )


def _chosen(strips: Mapping[tuple[str, str], Sequence[Strip]], most: int) -> list[Strip]:
    """At most so many strips: those that the world lost before the judge's, one of every task in turn."""
    chosen: list[Strip] = []
    for causes in (("dynamics", "world"), ("round_trip",), ("judge",)):
        piles = [list(own) for (_, cause), own in sorted(strips.items()) if cause in causes]
        while piles := [pile for pile in piles if pile]:
            chosen += [pile.pop(0) for pile in piles]
    return chosen[:most]


# ---------------------------------------------------------------- counting


@dataclass(frozen=True)
class _Table:
    """What is known of n rollouts, in the order of the data."""

    truth: np.ndarray
    task: Sequence[str]
    policy: Sequence[str]
    verdicts: Mapping[str, Sequence[Verdict]]
    pictures: Mapping[str, np.ndarray]
    seed: int


def _rows_by(names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of every name, by name."""
    own = np.array(names, dtype=object)[rows]
    return {name: rows[own == name] for name in sorted(set(own.tolist()))}


def _by(names: Sequence[str], rows: np.ndarray, group: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    return {name: group(own) for name, own in _rows_by(names, rows).items()}


def _row(table: _Table, i: int) -> dict[str, Any]:
    """One episode: its outcome, and the judge's verdict and belief on every source of frames."""
    verdicts = {name: own[i] for name, own in table.verdicts.items()}
    truth = bool(table.truth[i])
    said = {
        name: {"success": v.succeeded, "belief": numbers(belief(v)), "error": v.error} for name, v in verdicts.items()
    }
    cause = fault({name: v.succeeded for name, v in verdicts.items()}, truth)
    return {"task": table.task[i], "policy": table.policy[i], "success": truth, "fault": cause} | said


def _group(table: _Table, rows: np.ndarray, whole: bool = True) -> dict[str, Any]:
    """The numbers of some rollouts; of the small cells of a table without pictures and reliability."""
    truth = table.truth[rows]
    verdicts = {name: [own[i] for i in rows] for name, own in table.verdicts.items()}
    beliefs = {name: np.array([belief(v) for v in own], np.float64) for name, own in verdicts.items()}
    said = {name: [v.succeeded for v in own] for name, own in verdicts.items()}
    found = {name: recall(beliefs[name], said[name], truth, table.seed) for name in verdicts}
    strict = {name: called(beliefs[name], found[name].strict.threshold.value) for name in verdicts}
    group: dict[str, Any] = {
        "episodes": len(rows),
        "successes": int(truth.sum()),
        "failures": int((~truth).sum()),
        "sources": numbers(found),
        "missed": _splits({"own": said, "strict": strict}, truth, True),
        "claimed": _splits({"own": said, "strict": strict}, truth, False),
    }
    if whole:
        group["fidelity"] = _fidelity({name: own[rows] for name, own in table.pictures.items()}, table.seed)
        group["bins"] = {name: _bins(beliefs[name], truth) for name in verdicts}
    return group


def _splits(ways: Mapping[str, Mapping[str, Sequence[Outcome]]], truth: np.ndarray, kind: bool) -> dict[str, Any]:
    return {way: numbers(split(said, truth.tolist(), kind)) for way, said in ways.items()}


def _bins(beliefs: np.ndarray, truth: np.ndarray) -> Any:
    known = np.isfinite(beliefs)
    return numbers(reliability(beliefs[known], truth[known])[0])


def _fidelity(pictures: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """By frame: "psnr" (dB), and "sharpness" and "contrast" beside the real frames' (1 is like them).

    Under "over_round_trip" the imagined frames' beside the round trip's: what the dynamics alone cost.
    """
    there = np.isfinite(pictures["sharpness/real"])
    reached = there.any(0)
    shown = {name: values[:, reached] for name, values in pictures.items()}
    curves = {("psnr", s): shown[f"psnr/{s}"] for s in SOURCES if f"psnr/{s}" in shown}
    for metric in ("sharpness", "contrast"):
        own = {s: shown[f"{metric}/{s}"] for s in SOURCES if f"{metric}/{s}" in shown}
        curves |= {(metric, s): _beside(own[s], own["real"]) for s in own if s != "real"}
        curves[metric, "real"] = own["real"]
        if "round_trip" in own:
            curves[metric, "over_round_trip"] = _beside(own["imagined"], own["round_trip"])
    marks = np.array(FRAMES)[reached]
    found: dict[str, Any] = {"frames": marks.tolist(), "episodes": there.sum(0)[reached].tolist()}
    if not len(marks):
        return found
    together = by_horizon(np.concatenate(list(curves.values()), 1), seed)  # one bootstrap for all of them
    for n, (metric, name) in enumerate(curves):
        part = slice(n * len(marks), (n + 1) * len(marks))
        found.setdefault(metric, {})[name] = {key: numbers(values[part]) for key, values in together.items()}
    return found


def _beside(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Ratios; NaN beside nothing."""
    return np.where(other > 0, values / np.where(other > 0, other, 1), np.nan)
