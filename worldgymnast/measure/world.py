"""Measures how far a world model can be trusted, on held-out episodes.

Four questions: Are its frames right (`replay_fidelity`)? Does it follow the actions (the same, with control actions)?
How do long rollouts degrade, where no real frames exist (`measure_drift`)? Are outcomes right, and does uncertainty
detect wrong ones (`judge_outcomes`)? World model and judge are used only through their Protocols. Episodes are imagined
and measured `rows` at a time, so memory does not grow with the data.
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
from worldgymnast.envs.imagined import known_states
from worldgymnast.episodes.windows import EpisodeSet, warn_out_of_range
from worldgymnast.errors import InputError
from worldgymnast.evaluation.fidelity import by_horizon, drift_statistics, frame_scores, nearest_psnr
from worldgymnast.evaluation.perceptual import Distance
from worldgymnast.evaluation.uncertainty import (
    Detection,
    JitterConfig,
    detection,
    frame_distance,
    imagine_clips,
    imagine_futures,
    judge_probabilities,
    judge_uncertainty,
    unroll,
)
from worldgymnast.measure.gate import gate_rates, truncate
from worldgymnast.measure.support import evenly_spaced
from worldgymnast.progress import Progress, track
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import (
    episode_clips,
    first_frames,
    first_states,
    frame_clips,
    imagine_actions,
    logged_actions,
    shuffled_actions,
)
from worldgymnast.types import Rollout
from worldgymnast.video import resize

Results = dict[str, Any]
"""Plain JSON, except for NumPy arrays."""

DRIFT_EPISODES = 16
"""Number of starts for the drift, spread over the data."""
SIGNAL = "judged futures"
"""The signal of `uncertainty_signals` used by RL; `eval-world` prints the value of the others."""
_BANK = 128
"""Real frames of other episodes to search for the nearest one."""


def sample_clips(episodes: EpisodeSet, starts: int, length: int) -> tuple[EpisodeSet, np.ndarray]:
    """Cut `starts` clips of `length` actions from every episode, evenly spaced from its first frame.

    Returns:
        The clips as episodes, grouped by episode, and the offset of each in its episode.

    Raises:
        InputError: an episode is too short for this many different starts.
    """
    room = episodes.length - length
    if (room < starts - 1).any():
        raise InputError(
            f"--starts: found {starts} starts of {length} actions in an episode of {int(episodes.length.min())}, "
            f"expected at most {max(1, int(room.min()) + 1)}. Lower --length or --starts"
        )
    share = np.linspace(0, 1, starts)
    offset = np.rint(room[:, None] * share).astype(np.int64).reshape(-1)
    clips = episodes.select(np.repeat(np.arange(len(episodes)), starts))
    layout = np.where(offset == 0, clips.layout, -1)
    lengths = np.full(len(clips), length, np.int64)
    return replace(clips, first=clips.first + offset, length=lengths, layout=layout), offset


def _actions(clips: EpisodeSet) -> np.ndarray:
    """Return the actions of clips of one length, float32 [n t a], in the units of the data."""
    return clips.actions[clips.first[:, None] + np.arange(int(clips.length[0]))]


def _control_actions(clips: EpisodeSet, offset: np.ndarray, starts: int, seed: int) -> dict[str, np.ndarray]:
    """Return control actions, float32 [n t a]: those of another episode ("shuffled"), or no motion ("zero")."""
    actions = _actions(clips)
    shuffled = [shuffled_actions(clips.select(np.arange(s, len(clips), starts)), seed) for s in range(starts)]
    before = np.where((offset > 0)[:, None], clips.actions[np.maximum(clips.first - 1, 0)], actions[:, 0])
    controls = {"zero": motionless(clips.spec, actions, before)}
    if len(clips) > starts:  # a single episode has no other to take actions from
        controls["shuffled"] = np.stack(shuffled, 1).reshape(actions.shape)
    return controls


def replay_fidelity(
    world: WorldModel,
    episodes: EpisodeSet,
    *,
    starts: int = 1,
    length: int = 30,
    seed: int = 0,
    rows: int = 32,
    perceptual: Distance | None = None,
) -> Results:
    """Compare imagined replays with real frames by horizon, with baselines and control actions.

    Args:
        world: the world model.
        episodes: each at least `length` actions long.
        starts: start frames per episode.
        length: frames imagined after each start.
        seed: of the imagination, the shuffling and the bootstrap over episodes.
        rows: clips imagined in parallel.
        perceptual: an additional distance, reported as "lpips".

    Returns:
        "horizon" [t], "episodes", "starts". For "psnr", "ssim" (and "lpips") a `Curve` each of "world", "copy" (the
        start frame repeated), "copy_first" (the episode's first frame, with several starts), "shuffled" and "zero" (the
        world model with control actions). "following": gain in dB of the true actions over "shuffled" and "zero".
    """
    clips, offset = sample_clips(episodes, starts, length)
    actions = {"world": _actions(clips)} | _control_actions(clips, offset, starts, seed)
    convert = converter(episodes.spec, world.action_spec)
    if episodes.spec.is_same_kind(world.action_spec):
        warn_out_of_range(episodes, world.action_spec, "world model")
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    parts = [slice(i, i + rows) for i in range(0, len(clips), rows)]
    for i, part in zip(range(0, len(clips), rows), track("imagining replays", parts), strict=True):
        truth = np.asarray(episodes.frames[clips.first[part, None] + np.arange(length + 1)])
        first = np.asarray(episodes.frames[clips.first[part] - offset[part]])[:, None]
        known = first_states(clips, part)
        predictions: dict[str, Iterator[np.ndarray]] = {"copy": iter([truth[:, :1]])}
        predictions |= {"copy_first": iter([first])} if starts > 1 else {}
        predictions |= {
            name: unroll(world, truth[:, 0], convert(a[part]), seed + i, known) for name, a in actions.items()
        }
        for name, chunks in predictions.items():
            clip = np.concatenate(list(chunks), 1)
            for metric, value in _compare(truth[:, 1:], clip, perceptual).items():
                scores.setdefault(metric, {}).setdefault(name, []).append(value)
    # Starts of one episode are averaged first: only episodes are independent.
    means = {
        metric: {k: np.concatenate(v).reshape(len(episodes), starts, length).mean(1) for k, v in named.items()}
        for metric, named in scores.items()
    }
    results: Results = {"horizon": np.arange(1.0, length + 1), "episodes": len(episodes), "starts": starts}
    results |= {metric: {k: by_horizon(v, seed) for k, v in named.items()} for metric, named in means.items()}
    psnr = means["psnr"]["world"]
    return results | {
        "following": {k: by_horizon(psnr - v, seed) for k, v in means["psnr"].items() if k in ("shuffled", "zero")}
    }


def _compare(truth: np.ndarray, clip: np.ndarray, perceptual: Distance | None) -> dict[str, np.ndarray]:
    """Return the scores of each frame, float [e t]."""
    imagined = np.broadcast_to(clip, truth.shape)
    scores = frame_scores(truth, imagined)
    if perceptual is not None:
        flat = (x.reshape(-1, *truth.shape[2:]) for x in (truth, imagined))
        scores["lpips"] = perceptual(*flat).reshape(truth.shape[:2])
    return scores


def comparison_rows(
    world: WorldModel, episodes: EpisodeSet, length: int, seed: int, shown: int = 6, size: int = 96
) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """Return rows of a contact sheet: `shown` real frames of each episode, then the imagined ones."""
    clips, _ = sample_clips(episodes, 1, length)
    convert = converter(episodes.spec, world.action_spec)
    times, rows = np.linspace(0, length, shown).round().astype(int), []
    for i in range(len(clips)):
        truth = np.asarray(episodes.frames[clips.first[i] + np.arange(length + 1)])
        first, known = first_frames(clips, np.array([i]))
        imagined = imagine_clips(world, first, convert(_actions(clips)[i : i + 1]), seed, known)[0]
        rows += [resize(truth[times], min(size, truth.shape[1])), resize(imagined[times], min(size, truth.shape[1]))]
    return rows


# ---------------------------------------------------------------- without real frames


def measure_drift(
    world: WorldModel, episodes: EpisodeSet, *, frames: int = 200, seed: int = 0, rows: int = 32
) -> Results:
    """Measure how rollouts longer than any episode degrade, by the statistics of their frames.

    The world model imagines `frames` frames from the first frame of some episodes. The actions are those of the
    episode, then of the following episodes of its task, repeated. No real frames exist for this, so the statistics only
    show whether the rollout still looks and moves like reality.

    Args:
        world: the world model.
        episodes: real episodes.
        frames: frames to imagine.
        seed: of the imagination and the bootstrap.
        rows: rollouts imagined in parallel.

    Returns:
        "band": the first and last frame of each band, int [n 2]. A `Curve` [n] over starts of "sharpness", "contrast"
        and "motion" (relative to the real episode), "colour" (difference from its mean color, in levels) and "nearest"
        (PSNR in dB to the nearest real frame of any other episode, at the end of the band). "real": the mean of
        "nearest" and "colour" for the frames of the real episodes.
    """
    chosen = evenly_spaced(len(episodes), DRIFT_EPISODES)
    bounds = [0, *(b for b in (10, 25, 50, 100, 150, 200) if b < frames), frames]
    bands = np.array([(low + 1, high) for low, high in itertools.pairwise(bounds)])
    banks = [_bank(episodes, int(e), seed) for e in chosen]
    convert = converter(episodes.spec, world.action_spec)
    values: dict[str, list[np.ndarray]] = {}
    real: dict[str, list[float]] = {"nearest": [], "colour": []}
    parts = [chosen[i : i + rows] for i in range(0, len(chosen), rows)]
    for i, index in zip(range(0, len(chosen), rows), track("imagining long rollouts", parts), strict=True):
        starts, known = first_frames(episodes, index)
        actions = np.stack([extend_actions(episodes, int(e), frames) for e in index])
        clips = imagine_clips(world, starts, convert(actions), seed + i, known)
        for clip, e, bank in zip(clips, index, banks[i : i + rows], strict=True):
            own = episodes.episode(int(e)).frames
            for name, value in drift_statistics(clip, own).items():
                values.setdefault(name, []).append(np.array([value[a : b + 1].mean() for a, b in bands]))
            values.setdefault("nearest", []).append(nearest_psnr(clip[bands[:, 1]], bank))
            real["nearest"].append(float(nearest_psnr(own[:: max(1, len(own) // 4)], bank).mean()))
            real["colour"].append(float(drift_statistics(own, own)["colour"].mean()))
    curves = {name: by_horizon(np.stack(each), seed) for name, each in values.items()}
    return {"band": bands, "starts": len(chosen), "real": {k: float(np.mean(v)) for k, v in real.items()}} | curves


def extend_actions(episodes: EpisodeSet, index: int, count: int) -> np.ndarray:
    """Return `count` real actions, float32 [count a]: those of the episode, then of the next ones of its task."""
    same_task = episodes.where(task=episodes.task[index])
    order = np.roll(same_task, -int(np.flatnonzero(same_task == index)[0]))
    actions = np.concatenate([episodes.episode(int(e)).actions for e in order])
    return np.resize(actions, (count, actions.shape[1]))


def _bank(episodes: EpisodeSet, index: int, seed: int) -> np.ndarray:
    """Draw real frames of the other episodes, uint8 [m h w 3]."""
    others = episodes.select(np.arange(len(episodes)) != index)
    rows = others.rows if len(others) else np.zeros(0, np.int64)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:_BANK]
    return np.asarray(episodes.frames[np.sort(rows[chosen])])


# ---------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcomes:
    """True and judged outcomes of n held-out rollouts, and uncertainty signals.

    Attributes:
        truth: bool [n], the real outcome.
        real: verdicts on the real frames, bool or None.
        imagined: verdicts on imagined replays of the same actions, bool or None.
        task: n names.
        signals: name to float [n], see `uncertainty_signals`.
    """

    truth: np.ndarray
    real: Sequence[bool | None]
    imagined: Sequence[bool | None]
    task: Sequence[str]
    signals: Mapping[str, np.ndarray]

    def gate(self) -> dict[str, float]:
        """Return true positive and true negative rates, see `measure.gate.gate_rates`."""
        return gate_rates({"real": self.real, "imagined": self.imagined}, self.truth.tolist(), self.task)

    def detections(self) -> dict[str, dict[str, Detection]]:
        """Measure how well every signal detects "wrong" verdicts, and "false_success" among imagined successes.

        Rollouts with an unknown imagined verdict are excluded.
        """
        known = np.array([v is not None for v in self.imagined], bool)
        verdicts = np.array([bool(v) for v in self.imagined], bool)
        claimed = known & verdicts
        return {
            name: {
                "wrong": detection(signal[known], (verdicts != self.truth)[known]),
                "false_success": detection(signal[claimed], ~self.truth[claimed]),
            }
            for name, signal in self.signals.items()
        }

    def kept(self, signal: str, shares: Sequence[float] = (1.0, 0.9, 0.8, 0.7)) -> list[dict[str, float]]:
        """Measure the effect of dropping the rollouts with the highest signal.

        Returns:
            For every kept share: "share", its "threshold", "wrong" (share of wrong verdicts among the kept) and
            "count".
        """
        known = np.array([v is not None for v in self.imagined], bool) & np.isfinite(self.signals[signal])
        value = self.signals[signal][known]
        wrong = (np.array([bool(v) for v in self.imagined]) != self.truth)[known]
        rows = []
        for share in shares if len(value) else ():
            threshold = float(np.quantile(value, share))
            is_kept = value <= threshold
            rows.append(
                {
                    "share": share,
                    "threshold": threshold,
                    "wrong": float(wrong[is_kept].mean()),
                    "count": float(is_kept.sum()),
                }
            )
        return rows


def judge_outcomes(
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
    """Judge labeled held-out rollouts, their imagined replays, and disturbed futures of these.

    Args:
        world: the world model.
        judge: the judge.
        episodes: labeled, each with at least one action.
        horizon: actions of each episode to judge; success counts if it comes within them.
        stride: frames between two that the judge sees.
        jitter: the disturbance.
        seed: of the imagination.
        rows: episodes imagined in parallel.
    """
    real = truncate(episodes, horizon)
    convert = converter(episodes.spec, world.action_spec)
    order = np.argsort(real.length, kind="stable")
    verdicts: dict[str, list[bool | None]] = {"real": [], "imagined": []}
    signals: list[dict[str, np.ndarray]] = []
    with Progress("judging imagined replays and their disturbed futures", len(real)) as progress:
        for i in range(0, len(real), rows):
            part = real.select(order[i : i + rows])
            ends = part.length + 1
            actions = convert(logged_actions(part, np.arange(len(part)), int(part.length.max())))
            generator, (starts, known) = torch.Generator().manual_seed(seed + i), first_frames(part)
            frames, foreseen = imagine_actions(world, starts, actions, part.instruction, generator, known)
            sources = {"real": episode_clips(part, stride), "imagined": frame_clips(part, frames, stride, foreseen)}
            for name, clips in sources.items():
                verdicts[name] += [v.succeeded for v in judge.score(clips)]
            signals.append(
                uncertainty_signals(
                    world, judge, frames, actions, part.instruction, stride, jitter, seed + i, ends, known
                )
            )
            progress.advance(len(part))
    back = np.argsort(order)
    joined = {name: np.concatenate([s[name] for s in signals])[back] for name in signals[0]}
    ordered = {name: [each[i] for i in back] for name, each in verdicts.items()}
    return Outcomes(real.succeeded, ordered["real"], ordered["imagined"], real.kinds, joined)


def uncertainty_signals(
    world: WorldModel,
    judge: Judge,
    clips: np.ndarray,
    actions: np.ndarray,
    instructions: Sequence[str],
    stride: int,
    jitter: JitterConfig,
    seed: int,
    ends: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return uncertainty signals of imagined rollouts, float [r] each; higher is less reliable.

    Args:
        world: the world model that imagined them.
        judge: the judge.
        clips: uint8 [r t+1 h w 3], the rollouts.
        actions: float32 [r t a], in the units of the world model.
        instructions: r sentences.
        stride: frames between two that the judge sees.
        jitter: the disturbance of the futures.
        seed: of the disturbance.
        ends: int [r], number of frames of each rollout to use; by default all.
        known: the robot's state at their starts; see `protocols.start_at`.

    Returns:
        "judged futures": `judge_uncertainty` over the rollout and its futures, in 0..1. "judge alone": the same without
        futures. "frames apart": mean `frame_distance` to the futures, in levels.
    """
    stops = [clips.shape[1]] * len(clips) if ends is None else ends.tolist()

    def cut(frames: np.ndarray) -> list[np.ndarray]:
        return [clip[:stop] for clip, stop in zip(frames, stops, strict=True)]

    rollout = judge_probabilities(judge, cut(clips), instructions, stride)
    probabilities, distances = [rollout], []
    for future in imagine_futures(world, clips[:, 0], actions, jitter, seed, known):
        probabilities.append(judge_probabilities(judge, cut(future), instructions, stride))
        distances.append(frame_distance([clip[1:] for clip in cut(clips)], [clip[1:] for clip in cut(future)]))
    return {
        "judged futures": judge_uncertainty(np.stack(probabilities)),
        "judge alone": judge_uncertainty(rollout[None]),
        "frames apart": np.mean(distances, 0) if distances else np.full(len(clips), np.nan),
    }


def rollout_uncertainty(
    world: WorldModel, judge: Judge, stride: int, jitter: JitterConfig, rows: int
) -> Callable[[Sequence[Rollout], int], np.ndarray]:
    """Make a function that returns `SIGNAL` of imagined rollouts of one length, float [r], given a seed.

    Args:
        world: the world model that imagined them.
        judge: the judge.
        stride: frames between two that the judge sees; the policy's action chunk.
        jitter: the disturbance.
        rows: most rollouts imagined in parallel.
    """

    def uncertainty(rollouts: Sequence[Rollout], seed: int) -> np.ndarray:
        values = []
        for i in range(0, len(rollouts), rows):
            part = rollouts[i : i + rows]
            clips = np.stack([r.frames for r in part])
            actions = np.stack([r.chunks.actions.flatten(0, 1).numpy() for r in part])
            sentences = [r.start.instruction for r in part]
            known = known_states(world, [r.start for r in part])
            signals = uncertainty_signals(
                world, judge, clips, actions, sentences, stride, jitter, seed + i, known=known
            )
            values.append(signals[SIGNAL])
        return np.concatenate(values)

    return uncertainty


def to_plain(value: Any) -> Any:
    """Convert results to JSON: arrays become lists, a `Detection` becomes its numbers."""
    if isinstance(value, Detection):
        auroc = value.auroc
        counts = {"wrong": value.wrong, "right": value.right}
        return {"value": auroc.value, "low": auroc.low, "high": auroc.high} | counts
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
