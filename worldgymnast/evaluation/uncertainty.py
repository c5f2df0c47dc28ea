"""Uncertainty of imagined rollouts without ground truth, from the disagreement of disturbed futures.

The same start and actions are imagined again, slightly disturbed: another noise seed, jittered pixels of the start
frame, jittered actions. Where the world model is reliable, such futures end alike; where it is not, they diverge. This
is ensemble disagreement (Lakshminarayanan et al. 2017, arXiv 1612.01474; for planning in world models, Sekar et al.
2020, arXiv 2005.05960), with one model and different inputs. It needs only the `WorldModel` Protocol.

Its value must be measured for every world model (`detection`, `eval-world`). For the starter world model, the judge's
own uncertainty is enough. Disturbed futures detect no more wrong verdicts, and the distance between their frames
detects none.

Not included: ensembles of world models (one training per member), and signals from inside a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from worldgymnast.actions import ActionSpec, jittered
from worldgymnast.configs import Between, Count, Fraction, checked
from worldgymnast.evaluation.agreement import auroc
from worldgymnast.evaluation.success import RESAMPLES, Estimate
from worldgymnast.protocols import Judge, WorldModel, start_at
from worldgymnast.types import Clip, Verdict

_STEP_LENGTH = 8
"""Actions imagined per call; bounds the number of frames decoded at a time."""


@checked
class JitterConfig:
    """Disturbance of the futures of one start.

    Attributes:
        futures: disturbed futures per rollout; with 0, only the judge's own uncertainty is used.
        pixels: standard deviation of noise added to the pixels of the start frame, in levels of 0..255.
        actions: standard deviation of noise added to the actions, in half ranges of each motion axis.
    """

    futures: Count = 2
    pixels: Annotated[float, Between(0, 255)] = 4.0
    actions: Fraction = 0.1


def unroll(
    world: WorldModel,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    seed: int,
    known: Float[np.ndarray, "r s"] | None = None,
) -> Iterator[UInt8[np.ndarray, "r k h w 3"]]:
    """Imagine from `frames`, and yield a few frames at a time; `actions` are in the units of `world`.

    `known` is the robot's state in `frames`, for a world model that predicts it; see `protocols.start_at`.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.from_numpy(np.ascontiguousarray(frames))
    state = start_at(world, first, None if known is None else torch.from_numpy(known))
    for part in torch.from_numpy(actions).split(_STEP_LENGTH, 1):
        state, imagined = world.step(state, part, generator=generator)
        yield imagined.cpu().numpy()


def imagine_clips(
    world: WorldModel,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    seed: int,
    known: Float[np.ndarray, "r s"] | None = None,
) -> UInt8[np.ndarray, "r t1 h w 3"]:
    """Imagine one clip per row, starting with the given frame; see `unroll`."""
    return np.concatenate([frames[:, None], *unroll(world, frames, actions, seed, known)], 1)


def disturb(
    spec: ActionSpec,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    config: JitterConfig,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "r h w 3"], Float[np.ndarray, "r t a"]]:
    """Disturb start frames and actions for one future."""
    noise = rng.standard_normal(frames.shape, dtype=np.float32) * config.pixels
    push = rng.standard_normal(actions.shape, dtype=np.float32) * config.actions
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8), jittered(spec, actions, push)


def imagine_futures(
    world: WorldModel,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    config: JitterConfig,
    seed: int,
    known: Float[np.ndarray, "r s"] | None = None,
) -> Iterator[UInt8[np.ndarray, "r t1 h w 3"]]:
    """Imagine disturbed futures of the same starts and actions; yield one clip per row for each future.

    The first frame of each clip is the undisturbed start.

    Args:
        world: the world model.
        frames: start frames.
        actions: in the units of the world model.
        config: number of futures and their disturbance.
        seed: of every draw.
        known: the robot's state at the starts, undisturbed; see `unroll`.
    """
    for future in range(config.futures):
        rng = np.random.default_rng([seed, future])
        starts, noisy_actions = disturb(world.action_spec, frames, actions, config, rng)
        clip = imagine_clips(world, starts, noisy_actions, seed * 1_000_003 + future + 1, known)
        clip[:, 0] = frames
        yield clip


# ---------------------------------------------------------------- the signals


def success_probability(verdict: Verdict) -> float:
    """Return a judge's success probability in [0, 1], or its score without one; NaN where it failed.

    >>> success_probability(Verdict(1.0, 0.8)), success_probability(Verdict(0.0))
    (0.8, 0.0)
    """
    if verdict.score is None:
        return float("nan")
    return verdict.score if verdict.probability is None else verdict.probability


def look_indices(frames: int, stride: int) -> np.ndarray:
    """Return the indices of frames that a judge sees: every `stride`-th, and the last.

    >>> look_indices(7, 3).tolist(), look_indices(6, 3).tolist()
    ([0, 3, 6], [0, 3, 5])
    """
    return np.union1d(np.arange(0, frames, stride), frames - 1)


def judge_probabilities(
    judge: Judge, clips: Iterable[np.ndarray], instructions: Sequence[str], stride: int
) -> Float[np.ndarray, " r"]:
    """Judge r clips, uint8 [t h w 3], from every `stride`-th frame and the last; return success probabilities."""
    pairs = zip(clips, instructions, strict=True)
    judged = [Clip(clip[look_indices(len(clip), stride)], sentence, imagined=True) for clip, sentence in pairs]
    return np.array([success_probability(verdict) for verdict in judge.score(judged)], np.float64)


def judge_uncertainty(probabilities: Float[np.ndarray, "m r"]) -> Float[np.ndarray, " r"]:
    """Return 4 p (1 - p) of the mean success probability p over m futures of each rollout, in 0..1.

    This is the total variance of the outcome: of the verdict given a future, and of the probability between futures. It
    is 0 if all futures end alike and the judge is sure, and 1 at p = 0.5. Futures whose judge failed (NaN) are ignored;
    the result is NaN if it failed on all.

    >>> judge_uncertainty(np.array([[1.0, 0.5], [1.0, np.nan]])).tolist()
    [0.0, 1.0]
    """
    known = np.isfinite(probabilities)
    count = known.sum(0)
    mean = np.where(known, probabilities, 0).sum(0) / np.where(count, count, 1)
    return np.where(count > 0, 4 * mean * (1 - mean), np.nan)


def frame_distance(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> Float[np.ndarray, " r"]:
    """Return the root mean square difference of two futures, uint8 [t h w 3] each, in levels of 0..255."""
    squares = [float(np.square(a.astype(np.float32) - b).mean()) for a, b in zip(one, other, strict=True)]
    return np.sqrt(np.array(squares))


# ---------------------------------------------------------------- value of a signal


@dataclass(frozen=True)
class Detection:
    """How well a signal detects wrong verdicts.

    Attributes:
        auroc: probability that a wrong rollout has the higher signal, ties one half, with its 95% interval; NaN if
            either kind is absent.
        wrong: number of wrong rollouts.
        right: number of right rollouts.
    """

    auroc: Estimate
    wrong: int
    right: int

    def __str__(self) -> str:
        counts = f"({self.wrong} wrong, {self.right} right)"
        if np.isnan(self.auroc.value):
            return f"unknown {counts}"
        return f"{self.auroc.value:.2f} [{self.auroc.low:.2f}, {self.auroc.high:.2f}] {counts}"


def detection(
    signal: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], seed: int = 0, resamples: int = RESAMPLES // 10
) -> Detection:
    """Return the AUROC of `signal` for `wrong`, with a stratified percentile bootstrap.

    NaN signals are ignored.
    """
    known = np.isfinite(signal)
    values, truth = signal[known], wrong[known]
    positive, negative = int(truth.sum()), int((~truth).sum())
    low = high = float("nan")
    if positive and negative:
        # Counts of each distinct value: equivalent to drawing clips, without ranking an array of draws times clips.
        distinct, place = np.unique(values, return_inverse=True)
        counts = (np.bincount(place[kind], minlength=len(distinct)) for kind in (truth, ~truth))
        rng = np.random.default_rng(seed)
        won, lost = (rng.multinomial(int(x.sum()), x / x.sum(), resamples) for x in counts)
        draws = (won * (np.cumsum(lost, 1) - lost / 2)).sum(1) / (positive * negative)
        low, high = (float(x) for x in np.quantile(draws, [0.025, 0.975]))
    return Detection(Estimate(auroc(values, truth), low, high), positive, negative)
