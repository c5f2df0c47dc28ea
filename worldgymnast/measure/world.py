"""How far a world model can be trusted, measured on episodes it was not trained on.

Four questions: are its frames right (`replay_fidelity`), does it listen to the actions (the same, with the actions of
other episodes and with none), how does it end where no truth exists (`drift`), and does it know the outcome, and when
it does not (`outcomes`). World and judge are seen through their Protocols alone. Episodes are imagined and measured
`rows` at a time and their frames forgotten, so that memory does not grow with the data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast.actions import converter, motionless
from worldgymnast.episodes.windows import EpisodeSet, warn_outside
from worldgymnast.errors import InputError
from worldgymnast.evaluation.fidelity import by_horizon, departure, frame_scores, nearest_psnr
from worldgymnast.evaluation.perceptual import Distance
from worldgymnast.evaluation.uncertainty import (
    Detection,
    JitterConfig,
    apart,
    beliefs,
    detection,
    imagined,
    imagined_again,
    judged_doubt,
    unroll,
)
from worldgymnast.measure.gate import cut, gate_rates
from worldgymnast.progress import Progress, counted
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import clips, driven, follow, seen_of, shuffled_actions
from worldgymnast.types import Rollout
from worldgymnast.video import resize

Found = dict[str, Any]
"""Plain JSON apart from its NumPy arrays."""

DRIFT_EPISODES = 16
"""Starts of the drift, spread over the data."""
SIGNAL = "judged futures"
"""The signal of `doubts` that is kept; `eval-world` prints how the others do."""
_BANK = 128
"""Real frames of other episodes among which the nearest is looked for."""


def windows(episodes: EpisodeSet, starts: int, length: int) -> tuple[EpisodeSet, np.ndarray]:
    """`starts` clips of `length` actions of every episode, spread over it, the first one at its first frame.

    Returns:
        The clips as episodes, those of one episode next to one another, and the first frame of each in its episode.

    Raises:
        InputError: an episode is too short for so many different starts.
    """
    room = episodes.length - length
    if (room < starts - 1).any():
        raise InputError(
            f"--starts: found {starts} starts of {length} actions in an episode of {int(episodes.length.min())}, "
            f"expected at most {max(1, int(room.min()) + 1)}; lower --length or --starts"
        )
    share = np.linspace(0, 1, starts)
    offset = np.rint(room[:, None] * share).astype(np.int64).reshape(-1)
    clips = episodes.select(np.repeat(np.arange(len(episodes)), starts))
    layout = np.where(offset == 0, clips.layout, -1)
    length_of_all = np.full(len(clips), length, np.int64)
    return replace(clips, first=clips.first + offset, length=length_of_all, layout=layout), offset


def _actions(clips: EpisodeSet) -> np.ndarray:
    """float32 [n t a] of clips of one length, in the data's units."""
    return clips.actions[clips.first[:, None] + np.arange(int(clips.length[0]))]


def _other_actions(clips: EpisodeSet, offset: np.ndarray, starts: int, seed: int) -> dict[str, np.ndarray]:
    """What else could have been done, float32 [n t a]: another episode's actions ("shuffled"), or nothing ("zero")."""
    own = _actions(clips)
    others = [shuffled_actions(clips.select(np.arange(s, len(clips), starts)), seed) for s in range(starts)]
    before = np.where((offset > 0)[:, None], clips.actions[np.maximum(clips.first - 1, 0)], own[:, 0])
    found = {"zero": motionless(clips.spec, own, before)}
    if len(clips) > starts:  # a single episode has no other to take actions from
        found["shuffled"] = np.stack(others, 1).reshape(own.shape)
    return found


def replay_fidelity(
    world: WorldModel,
    episodes: EpisodeSet,
    *,
    starts: int = 1,
    length: int = 30,
    seed: int = 0,
    rows: int = 32,
    perceptual: Distance | None = None,
) -> Found:
    """Imagined replays beside the real frames by horizon, with baselines and other actions.

    Args:
        world: the world model.
        episodes: each at least `length` actions long.
        starts: start frames of each episode.
        length: frames imagined after each.
        seed: of the imagination, the shuffling and the bootstrap over episodes.
        rows: clips imagined side by side.
        perceptual: also measures this distance, as "lpips".

    Returns:
        "horizon" [t], "episodes", "starts"; for "psnr" and "ssim" (and "lpips") the `Curve` of each of "world", "copy"
        (the start frame repeated), "copy_first" (the episode's first frame, where a clip starts later), "shuffled" and
        "zero" (the world with other actions); and "following": by how many dB the world is nearer to the truth with the
        true actions than with "shuffled" and with "zero".
    """
    clips, offset = windows(episodes, starts, length)
    acts = {"world": _actions(clips)} | _other_actions(clips, offset, starts, seed)
    convert = converter(episodes.spec, world.action_spec)
    if episodes.spec.is_same_kind(world.action_spec):
        warn_outside(episodes, world.action_spec, "world model")
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    pieces = [slice(i, i + rows) for i in range(0, len(clips), rows)]
    for i, part in zip(range(0, len(clips), rows), counted("imagining replays", pieces), strict=True):
        truth = np.asarray(episodes.frames[clips.first[part, None] + np.arange(length + 1)])
        begun = np.asarray(episodes.frames[clips.first[part] - offset[part]])[:, None]
        shown: dict[str, Iterator[np.ndarray]] = {"copy": iter([truth[:, :1]])}
        shown |= {"copy_first": iter([begun])} if starts > 1 else {}
        shown |= {name: unroll(world, truth[:, 0], convert(a[part]), seed + i) for name, a in acts.items()}
        for name, pieces in shown.items():
            clip = np.concatenate(list(pieces), 1)
            for metric, value in _compare(truth[:, 1:], clip, perceptual).items():
                scores.setdefault(metric, {}).setdefault(name, []).append(value)
    # Starts of one episode are averaged first: the interval is over episodes, which are what is independent.
    means = {
        metric: {k: np.concatenate(v).reshape(len(episodes), starts, length).mean(1) for k, v in named.items()}
        for metric, named in scores.items()
    }
    found: Found = {"horizon": np.arange(1.0, length + 1), "episodes": len(episodes), "starts": starts}
    found |= {metric: {k: by_horizon(v, seed) for k, v in named.items()} for metric, named in means.items()}
    own = means["psnr"]["world"]
    return found | {
        "following": {k: by_horizon(own - v, seed) for k, v in means["psnr"].items() if k in ("shuffled", "zero")}
    }


def _compare(truth: np.ndarray, clip: np.ndarray, perceptual: Distance | None) -> dict[str, np.ndarray]:
    shown = np.broadcast_to(clip, truth.shape)
    found = frame_scores(truth, shown)
    if perceptual is not None:
        flat = (x.reshape(-1, *truth.shape[2:]) for x in (truth, shown))
        found["lpips"] = perceptual(*flat).reshape(truth.shape[:2])
    return found


def above(
    world: WorldModel, episodes: EpisodeSet, length: int, seed: int, shown: int = 6, size: int = 96
) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """Rows for a contact sheet: `shown` real frames of each episode above those imagined from its first one."""
    clips, _ = windows(episodes, 1, length)
    convert = converter(episodes.spec, world.action_spec)
    times, rows = np.linspace(0, length, shown).round().astype(int), []
    for i in range(len(clips)):
        truth = np.asarray(episodes.frames[clips.first[i] + np.arange(length + 1)])
        dreamt = imagined(world, truth[None, 0], convert(_actions(clips)[i : i + 1]), seed)[0]
        rows += [resize(truth[times], min(size, truth.shape[1])), resize(dreamt[times], min(size, truth.shape[1]))]
    return rows


# ---------------------------------------------------------------- beyond the truth


def drift(world: WorldModel, episodes: EpisodeSet, *, frames: int = 200, seed: int = 0, rows: int = 32) -> Found:
    """How imaginations end that are longer than any episode: their statistics beside those of real frames.

    From the first frame of some episodes the world imagines `frames` frames; the actions are the episode's own and then
    those of the episodes of its task that follow it in the set, around and around. No real frames exist that far, so
    nothing here says whether the world is right, only whether it still looks and moves like the real one.

    Returns:
        "band": the first and last frame of each band, int [n 2]; the `Curve` [n], over starts, of "sharpness",
        "contrast" and "motion" (over those of the real episode: 1 is like it), "colour" (levels from its mean colour)
        and "nearest" (PSNR in dB to the nearest real frame of any other episode, at the end of the band); and under
        "real" the mean of "nearest" and of "colour" for the real episodes' own frames.
    """
    chosen = np.unique(np.linspace(0, len(episodes) - 1, DRIFT_EPISODES).round().astype(int))
    bounds = [0, *(b for b in (10, 25, 50, 100, 150, 200) if b < frames), frames]
    bands = np.array([(low + 1, high) for low, high in itertools.pairwise(bounds)])
    banks = [_bank(episodes, int(e), seed) for e in chosen]
    convert = converter(episodes.spec, world.action_spec)
    values: dict[str, list[np.ndarray]] = {}
    real: dict[str, list[float]] = {"nearest": [], "colour": []}
    pieces = [chosen[i : i + rows] for i in range(0, len(chosen), rows)]
    for i, index in zip(range(0, len(chosen), rows), counted("imagining far beyond the data", pieces), strict=True):
        begun = np.asarray(episodes.frames[episodes.first[index]])
        acts = np.stack([endless_actions(episodes, int(e), frames) for e in index])
        clips = imagined(world, begun, convert(acts), seed + i)
        for clip, e, bank in zip(clips, index, banks[i : i + rows], strict=True):
            own = episodes.episode(int(e)).frames
            gone = departure(clip, own)
            for name, value in gone.items():
                values.setdefault(name, []).append(np.array([value[a : b + 1].mean() for a, b in bands]))
            values.setdefault("nearest", []).append(nearest_psnr(clip[bands[:, 1]], bank))
            real["nearest"].append(float(nearest_psnr(own[:: max(1, len(own) // 4)], bank).mean()))
            real["colour"].append(float(departure(own, own)["colour"].mean()))
    curves = {name: by_horizon(np.stack(rows_of), seed) for name, rows_of in values.items()}
    return {"band": bands, "starts": len(chosen), "real": {k: float(np.mean(v)) for k, v in real.items()}} | curves


def endless_actions(episodes: EpisodeSet, index: int, count: int) -> np.ndarray:
    """`count` real actions, float32 [count a]: the episode's own, then those of the next ones of its task."""
    alike = episodes.where(task=episodes.task[index])
    order = np.roll(alike, -int(np.flatnonzero(alike == index)[0]))
    own = np.concatenate([episodes.episode(int(e)).actions for e in order])
    return np.resize(own, (count, own.shape[1]))


def _bank(episodes: EpisodeSet, index: int, seed: int) -> np.ndarray:
    """Some real frames of the other episodes, uint8 [m h w 3]."""
    others = episodes.select(np.arange(len(episodes)) != index)
    rows = others.rows if len(others) else np.zeros(0, np.int64)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:_BANK]
    return np.asarray(episodes.frames[np.sort(rows[chosen])])


# ---------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcomes:
    """The true and the judged outcomes of n held-out rollouts, and the signals that should tell when the latter lie.

    Attributes:
        truth: bool [n], the real outcome.
        real: verdicts on the real frames, bool or None.
        imagined: verdicts on imagined replays of the same actions, bool or None.
        task: n names.
        signals: name to float [n], see `doubts`.
    """

    truth: np.ndarray
    real: Sequence[bool | None]
    imagined: Sequence[bool | None]
    task: Sequence[str]
    signals: Mapping[str, np.ndarray]

    def gate(self) -> dict[str, float]:
        """See `measure.real.gate`."""
        return gate_rates({"real": self.real, "imagined": self.imagined}, self.truth.tolist(), self.task)

    def detections(self) -> dict[str, dict[str, Detection]]:
        """Of every signal, how well it finds "wrong" verdicts, and false ones among the imagined successes.

        A rollout whose imagined verdict is unknown is left out of both.
        """
        known = np.array([v is not None for v in self.imagined], bool)
        said = np.array([bool(v) for v in self.imagined], bool)
        claimed = known & said
        return {
            name: {
                "wrong": detection(signal[known], (said != self.truth)[known]),
                "false_success": detection(signal[claimed], ~self.truth[claimed]),
            }
            for name, signal in self.signals.items()
        }

    def kept(self, signal: str, shares: Sequence[float] = (1.0, 0.9, 0.8, 0.7)) -> list[dict[str, float]]:
        """What is left where the rollouts with the highest signal are dropped.

        Returns:
            For every share kept: "share", the "threshold" that keeps it, "wrong" (share of wrong verdicts among the
            kept) and "count".
        """
        known = np.array([v is not None for v in self.imagined], bool) & np.isfinite(self.signals[signal])
        value = self.signals[signal][known]
        wrong = (np.array([bool(v) for v in self.imagined]) != self.truth)[known]
        rows = []
        for share in shares if len(value) else ():
            threshold = float(np.quantile(value, share))
            under = value <= threshold
            rows.append({"share": share, "threshold": threshold, "wrong": float(wrong[under].mean()),
                         "count": float(under.sum())})  # fmt: skip
        return rows


def outcomes(
    world: WorldModel,
    judge: Judge,
    episodes: EpisodeSet,
    *,
    horizon: int,
    stride: int,
    jitter: JitterConfig,
    seed: int = 0,
    rows: int = 32,
) -> Outcomes:
    """Judges labelled held-out rollouts, their imagined replays, and disturbed futures of these.

    Args:
        world: the world model.
        judge: the judge; sees every `stride`-th frame.
        episodes: labelled, each with an action; the outcome is that of the first `horizon` actions, or of all.
        horizon: actions of an episode that are judged.
        stride: frames between two that the judge sees.
        jitter: the disturbance.
        seed: of the imagination.
        rows: episodes imagined side by side.
    """
    real = cut(episodes, horizon)
    convert = converter(episodes.spec, world.action_spec)
    order = np.argsort(real.length, kind="stable")
    verdicts: dict[str, list[bool | None]] = {"real": [], "imagined": []}
    signals: list[dict[str, np.ndarray]] = []
    with Progress("judging imagined replays and their disturbed futures", len(real)) as progress:
        for i in range(0, len(real), rows):
            part = real.select(order[i : i + rows])
            ends = part.length + 1
            acts = convert(driven(part, np.arange(len(part)), int(part.length.max())))
            generator, begun = torch.Generator().manual_seed(seed + i), np.asarray(part.frames[part.first])
            made, foreseen = follow(world, begun, acts, part.instruction, generator)
            shown = {"real": clips(part, stride), "imagined": seen_of(part, made, stride, foreseen)}
            for name, seen in shown.items():
                verdicts[name] += [v.succeeded for v in judge.score(seen)]
            signals.append(doubts(world, judge, made, acts, part.instruction, stride, jitter, seed + i, ends))
            progress.advance(len(part))
    back = np.argsort(order)
    joined = {name: np.concatenate([s[name] for s in signals])[back] for name in signals[0]}
    known = {name: [said[i] for i in back] for name, said in verdicts.items()}
    return Outcomes(real.succeeded, known["real"], known["imagined"], real.kinds, joined)


def doubts(
    world: WorldModel,
    judge: Judge,
    clips: np.ndarray,
    actions: np.ndarray,
    instructions: Sequence[str],
    stride: int,
    jitter: JitterConfig,
    seed: int,
    ends: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Signals of imagined rollouts, float [r] each: higher means less to be believed.

    Args:
        world: the world model that imagined them.
        judge: the judge.
        clips: uint8 [r t+1 h w 3], the rollouts.
        actions: float32 [r t a], in the world's units.
        instructions: r sentences.
        stride: frames between two that the judge sees.
        jitter: the disturbance of the other futures.
        seed: of the disturbance.
        ends: int [r], frames of each rollout that count; all of them if left out.

    Returns:
        "judged futures": `judged_doubt` over the rollout and its futures, in 0..1; "judge alone": the same without the
        futures; "frames apart": `apart`, the mean over futures, in levels.
    """
    until = [clips.shape[1]] * len(clips) if ends is None else ends.tolist()

    def whole(frames: np.ndarray) -> list[np.ndarray]:
        return [clip[:end] for clip, end in zip(frames, until, strict=True)]

    own = beliefs(judge, whole(clips), instructions, stride)
    belief, gone = [own], []
    for future in imagined_again(world, clips[:, 0], actions, jitter, seed):
        belief.append(beliefs(judge, whole(future), instructions, stride))
        gone.append(apart([clip[1:] for clip in whole(clips)], [clip[1:] for clip in whole(future)]))
    return {
        "judged futures": judged_doubt(np.stack(belief)),
        "judge alone": judged_doubt(own[None]),
        "frames apart": np.mean(gone, 0) if gone else np.full(len(clips), np.nan),
    }


def rollout_uncertainty(
    world: WorldModel, judge: Judge, stride: int, jitter: JitterConfig, rows: int
) -> Callable[[Sequence[Rollout], int], np.ndarray]:
    """The kept signal for reinforcement learning: of imagined rollouts of one length and a seed, float [r].

    Args:
        world: the world model that imagined them.
        judge: the judge.
        stride: frames between two that the judge sees: the policy's chunk.
        jitter: the disturbance.
        rows: rollouts imagined side by side.
    """

    def doubt(rollouts: Sequence[Rollout], seed: int) -> np.ndarray:
        found = []
        for i in range(0, len(rollouts), rows):
            part = rollouts[i : i + rows]
            clips = np.stack([r.frames for r in part])
            actions = np.stack([r.chunks.actions.flatten(0, 1).numpy() for r in part])
            sentences = [r.start.instruction for r in part]
            found.append(doubts(world, judge, clips, actions, sentences, stride, jitter, seed + i)[SIGNAL])
        return np.concatenate(found)

    return doubt


def plain(found: Any) -> Any:
    """Numbers and names alone: arrays become lists, a `Detection` its numbers."""
    if isinstance(found, Detection):
        return {"value": found.auroc.value, "low": found.auroc.low, "high": found.auroc.high, "wrong": found.wrong,
                "right": found.right}  # fmt: skip
    if isinstance(found, Mapping):
        return {key: plain(value) for key, value in found.items()}
    return found.tolist() if isinstance(found, np.ndarray) else found
