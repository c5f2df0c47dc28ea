"""Knowing when an imagined rollout lies, without seeing the truth: futures that should agree, and how far they do not.

The same start and the same actions are imagined again, a little disturbed: other noise seeds, the start frame's pixels
jittered, the actions jittered. Where the world knows what follows, such futures end alike; where it makes things up,
they fall apart. This is the disagreement of an ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474; for planning
in world models, Sekar et al. 2020, arXiv 2005.05960) with one model whose members differ in their input alone, so it
asks nothing of a world model but the Protocol.

What it is worth has to be measured for every world (`detection`, `eval-world`). For the starter world the judge's doubt
does all the work: with disturbed futures it finds no more wrong verdicts than without, and how far the futures' frames
are apart finds none.

Left out: ensembles of world models (as many trainings as members) and signals read off a network's inside.
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
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.types import Clip, Verdict

_PIECE = 8
"""Actions imagined in one call, so that no more frames than these are decoded at a time."""


@checked
class JitterConfig:
    """How futures of one start are disturbed.

    Attributes:
        futures: disturbed futures of each rollout; 0 leaves the judge's own doubt about the rollout.
        pixels: standard deviation of what is added to the start frame's pixels, in levels of 0..255.
        actions: standard deviation of what is added to the actions, in half ranges of each motion axis.
    """

    futures: Count = 2
    pixels: Annotated[float, Between(0, 255)] = 4.0
    actions: Fraction = 0.1


def unroll(
    world: WorldModel, frames: UInt8[np.ndarray, "r h w 3"], actions: Float[np.ndarray, "r t a"], seed: int
) -> Iterator[UInt8[np.ndarray, "r k h w 3"]]:
    """What `world` imagines after `frames`, a few frames at a time; `actions` are in its units."""
    generator = torch.Generator().manual_seed(seed)
    state = world.start(torch.from_numpy(np.ascontiguousarray(frames)))
    for piece in torch.from_numpy(actions).split(_PIECE, 1):
        state, made = world.step(state, piece, generator=generator)
        yield made.cpu().numpy()


def imagined(
    world: WorldModel, frames: UInt8[np.ndarray, "r h w 3"], actions: Float[np.ndarray, "r t a"], seed: int
) -> UInt8[np.ndarray, "r t1 h w 3"]:
    """`unroll` as one clip a row, its first frame the start."""
    return np.concatenate([frames[:, None], *unroll(world, frames, actions, seed)], 1)


def disturbed(
    spec: ActionSpec,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    config: JitterConfig,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "r h w 3"], Float[np.ndarray, "r t a"]]:
    """Starts and actions of one future, disturbed as `config` has it."""
    noise = rng.standard_normal(frames.shape, dtype=np.float32) * config.pixels
    push = rng.standard_normal(actions.shape, dtype=np.float32) * config.actions
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8), jittered(spec, actions, push)


def imagined_again(
    world: WorldModel,
    frames: UInt8[np.ndarray, "r h w 3"],
    actions: Float[np.ndarray, "r t a"],
    config: JitterConfig,
    seed: int,
) -> Iterator[UInt8[np.ndarray, "r t1 h w 3"]]:
    """Disturbed futures of the same starts and actions, one after the other; their first frame is the start itself.

    Args:
        world: the world model.
        frames: the starts.
        actions: what is done, in the world's units.
        config: how many futures, and how they are disturbed.
        seed: of every draw.
    """
    for future in range(config.futures):
        seen, done = disturbed(world.action_spec, frames, actions, config, np.random.default_rng([seed, future]))
        clip = imagined(world, seen, done, seed * 1_000_003 + future + 1)
        clip[:, 0] = frames
        yield clip


# ---------------------------------------------------------------- the signals


def belief(verdict: Verdict) -> float:
    """A judge's belief in success, in [0, 1], its score where it gives none; NaN where it failed."""
    if verdict.score is None:
        return float("nan")
    return verdict.score if verdict.probability is None else verdict.probability


def looks(frames: int, stride: int) -> np.ndarray:
    """Which of so many frames a judge sees: every `stride`-th, and the last, at which many episodes succeed.

    >>> looks(7, 3).tolist(), looks(6, 3).tolist()
    ([0, 3, 6], [0, 3, 5])
    """
    return np.union1d(np.arange(0, frames, stride), frames - 1)


def beliefs(
    judge: Judge, clips: Iterable[np.ndarray], instructions: Sequence[str], stride: int
) -> Float[np.ndarray, " r"]:
    """The judge's `belief` in each of r clips uint8 [t h w 3], from every `stride`-th frame and the last."""
    pairs = zip(clips, instructions, strict=True)
    shown = [Clip(clip[looks(len(clip), stride)], sentence, imagined=True) for clip, sentence in pairs]
    return np.array([belief(verdict) for verdict in judge.score(shown)], np.float64)


def judged_doubt(belief: Float[np.ndarray, "m r"]) -> Float[np.ndarray, " r"]:
    """How undecided the judge is over the futures of a rollout: p (1 - p) of the mean belief p, scaled to 0..1.

    It is the spread of the outcome over futures and judge together (total variance: of the verdict given a future, and
    of the belief between futures). 0 where all futures end alike and the judge is sure of it; 1 where it is a coin's
    toss. A future whose judge failed is left out; NaN where it failed on all.
    """
    known = np.isfinite(belief)
    count = known.sum(0)
    mean = np.where(known, belief, 0).sum(0) / np.where(count, count, 1)
    return np.where(count > 0, 4 * mean * (1 - mean), np.nan)


def apart(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> Float[np.ndarray, " r"]:
    """How far two futures uint8 [t h w 3] of each of r rollouts are apart: root mean square, in levels of 0..255."""
    squares = [float(np.square(a.astype(np.float32) - b).mean()) for a, b in zip(one, other, strict=True)]
    return np.sqrt(np.array(squares))


# ---------------------------------------------------------------- what a signal is worth


@dataclass(frozen=True)
class Detection:
    """How well a signal ranks what is wrong above what is right.

    Attributes:
        auroc: chance that a wrong rollout has the higher signal, ties one half, with its 95 % interval; NaN where
            there is none of either.
        wrong: number of wrong rollouts.
        right: number of the others.
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
    """AUROC of `signal` for `wrong`, with a percentile bootstrap within wrong and right; NaN signals are left out."""
    known = np.isfinite(signal)
    values, truth = signal[known], wrong[known]
    positive, negative = int(truth.sum()), int((~truth).sum())
    low = high = float("nan")
    if positive and negative:
        # How often each distinct value is drawn: as drawing clips, without an array of draws times clips to be ranked.
        distinct, place = np.unique(values, return_inverse=True)
        counts = (np.bincount(place[kind], minlength=len(distinct)) for kind in (truth, ~truth))
        rng = np.random.default_rng(seed)
        won, lost = (rng.multinomial(int(x.sum()), x / x.sum(), resamples) for x in counts)
        draws = (won * (np.cumsum(lost, 1) - lost / 2)).sum(1) / (positive * negative)
        low, high = (float(x) for x in np.quantile(draws, [0.025, 0.975]))
    return Detection(Estimate(auroc(values, truth), low, high), positive, negative)
