"""Test-time training: reinforcement learning from one frame and one sentence, with the world as it is.

The loop is `reinforce` with one start. What the published method paid for it (other tasks got worse, World-Gymnast,
arXiv 2602.02454) has two remedies here. Replay: a share of every step begins at other starts, which a world model
imagines for nothing, so that what the policy knew is still rewarded. A KL anchor: the policy is held to the one it
was. Both are measured: `forgetting` rolls the policy out, before and after, from starts that nobody trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.evaluation.agreement import psnr
from worldgymnast.evaluation.success import EpisodeResult, Rate, SuccessTable, success_table
from worldgymnast.execution.surrogate import Imagination, Surrogate, score_in
from worldgymnast.loops.finetune import FinetuneConfig, finetune
from worldgymnast.loops.gather import Sample
from worldgymnast.loops.reinforce import ReinforceConfig
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import InputError, Start, in_range
from worldgymnast.worldmodel.sampler import LatentWorldModel

FRAME_MARGIN = 1.5
"""dB by which the autoencoder may keep a frame worse than any known one before it is called strange: new layouts of the
default suite lie within 0.5, another camera or other colours 2 to 8 dB below."""
SENTENCE_LIKENESS = 0.5
"""Cosine to the nearest known sentence below which one is called strange: paraphrases lie above 0.5, other languages
and other tasks below 0.45."""


@dataclass(frozen=True)
class AdaptConfig:
    """Training on one start.

    Attributes:
        rl: the loop; nothing is scored for real while it runs.
        replay: share of every step's starts that are others than the one in question.
        trials: rollouts from the start in question, before and after.
    """

    rl: ReinforceConfig = ReinforceConfig(steps=12, starts=8, middle=0.0, resample=0, evaluate_starts=0)
    replay: float = 0.5
    trials: int = 32

    def __post_init__(self) -> None:
        in_range(self, 0, "replay", high=0.9)
        in_range(self, 1, "trials")
        for name, why in (("evaluate_starts", "nothing is scored for real"), ("middle", "a picture has no middle")):
            if getattr(self.rl, name):
                raise InputError(f"--rl.{name.replace('_', '-')}: found {getattr(self.rl, name)}, expected 0: {why}")


def beside(start: Start, others: Sample, share: float) -> Sample:
    """Draws `start`, and for a share of the draws others."""

    def sample(rng: np.random.Generator, count: int) -> list[Start]:
        more = round(share * count)
        return [start] * (count - more) + (list(others(rng, more)) if more else [])

    return sample


def adapt(
    policy: SmallVLA,
    surrogate: Surrogate,
    start: Start,
    others: Sample,
    out: Path,
    config: AdaptConfig,
    device: str = "cpu",
    data: str = "",
) -> SmallVLA:
    """The policy trained on `start`; OUT/policy.safetensors, and the last weights, for nothing real chose among them.

    Args:
        policy: where it begins.
        surrogate: where it practises.
        start: the frame and the sentence.
        others: draws the starts of replay.
        out: the run folder.
        config: the training.
        device: where to train.
        data: says which start, and which others.
    """
    env = MetaWorldConfig(size=start.frame.shape[0])
    rl = replace(config.rl, evaluate_starts=0, keep_best=False)
    whole = FinetuneConfig(env=env, rl=rl)
    return finetune(policy, surrogate, beside(start, others, config.replay), out, whole, device, data)


@dataclass(frozen=True)
class Adapted:
    """What became of a policy in the surrogate.

    Attributes:
        before: success from the start in question, sampled as in training, of the policy as it was.
        after: and of the trained one.
        others: greedy success on other starts, before and after, a row a task.
    """

    before: Rate
    after: Rate
    others: SuccessTable | None


def forgetting(
    policies: tuple[SmallVLA, SmallVLA],
    surrogate: Surrogate,
    start: Start,
    others: Sequence[Start],
    config: AdaptConfig,
) -> Adapted:
    """How both policies, before and after, do from `start` and from `others` (none of which was trained on)."""
    rl, rows = config.rl, config.rl.rows
    own = [
        score_in(surrogate, p, [start] * config.trials, rows=rows, temperature=rl.temperature, seed=rl.seed)
        for p in policies
    ]
    rates = [Rate.of(r.verdict.succeeded for r in rollouts) for rollouts in own]
    if not others:
        return Adapted(rates[0], rates[1], None)
    first, second = (
        [
            EpisodeResult(r.start.task, i, rl.seed, r.verdict.succeeded, len(r.frames))
            for i, r in enumerate(score_in(surrogate, p, others, rows=rows, temperature=0.0, seed=rl.seed))
        ]
        for p in policies
    )
    return Adapted(rates[0], rates[1], success_table(first, second))


def kept(world: LatentWorldModel, frames: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
    """PSNR in dB, float [n], of what the world's autoencoder keeps of each frame: low where it was never trained."""
    coded = world.autoencoder.encode(torch.from_numpy(np.ascontiguousarray(frames)))
    return psnr(frames, world.autoencoder.decode(coded).cpu().numpy())


def strange_frame(surrogate: Imagination, frame: UInt8[np.ndarray, "h w 3"], known: Sequence[Start]) -> str:
    """Why a world model is not to be believed from this frame on, or nothing; `known` are like its training's."""
    world = surrogate.world
    if not known or not isinstance(world, LatentWorldModel):
        return ""
    own = float(kept(world, frame[None])[0])
    lowest = float(kept(world, np.stack([start.frame for start in known])).min())
    if own >= lowest - FRAME_MARGIN:
        return ""
    return (
        f"found a frame unlike those that the world model knows: its autoencoder keeps {own:.1f} dB of it, and "
        f"{lowest:.1f} dB or more of {len(known)} known ones"
    )


def strange_sentence(instruction: str, known: Sequence[str]) -> str:
    """Why a sentence is not to be understood by policy and judge, or nothing."""
    encode, sentences = SentenceEncoder(), sorted(set(known))
    likeness = (encode([instruction]) @ encode(sentences).T)[0]
    nearest = int(likeness.argmax())
    if float(likeness[nearest]) >= SENTENCE_LIKENESS:
        return ""
    return (
        f"found '{instruction}', unlike the {len(sentences)} known sentences; the nearest is '{sentences[nearest]}' "
        f"(likeness {float(likeness[nearest]):.2f}, expected {SENTENCE_LIKENESS:g} or more)"
    )
