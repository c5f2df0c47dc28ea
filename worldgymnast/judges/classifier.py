"""A learned success classifier: first frame, present frame and sentence in, probability of success out.

Trained on labelled logged episodes and on imagined replays of real action sequences, whose true outcome is known, so
that it holds up on generated video. A clip succeeds where the mean probability over `sustain` neighbouring judged
frames passes the threshold: imagined objects flicker, done things stay done. The threshold is set on episodes it was
not trained on (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from worldgymnast.configs import Between, NonNegative, Width, checked
from worldgymnast.judges.sustained import sustained
from worldgymnast.protocols import Stored
from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import Clip, Metrics, Verdict
from worldgymnast.weights import module_identity


@checked
class ClassifierConfig:
    """Sizes of a `SuccessClassifier`.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 of the frame's size.
        jitter: strength of random brightness, contrast and colour while training.
        shift: largest random shift, the same for both frames, in pixels.
        sustain: judged frames over which success must last.
        batch: frames judged at a time.
        scales: intercept and slopes that make beliefs a probability (`evaluation.scaling`), by the source of the frames
            and the task, such as "real/TASK", or "real" for other tasks. Sources are "real", "imagined", and
            "foreseen": imagined by a world model that has a belief of its own, which then has the second slope.
            Without, the judge's belief stays as it is.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (24, 48, 96)
    jitter: NonNegative = 0.1
    shift: Annotated[int, Between(0, 4096)] = 2
    sustain: Annotated[int, Between(1, 2**20)] = 4
    batch: Annotated[int, Between(1, 2**20)] = 256
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


_EDGE = 1e-4
"""Beliefs are kept that far from 0 and 1 before they are scaled."""


class SuccessClassifier(nn.Module):
    """A `Judge` that learned from labels."""

    config_type: ClassVar[type] = ClassifierConfig
    threshold: Tensor

    def __init__(self, config: ClassifierConfig, text: SentenceEncoder | None = None):
        super().__init__()
        self.config = config
        self.text = text or SentenceEncoder()
        widths = config.widths
        self.sentence = nn.Linear(SENTENCE_WIDTH, 64)
        self.downs = nn.ModuleList(
            [nn.Conv2d(6 if i == 0 else widths[i - 1], w, 4, stride=2, padding=1) for i, w in enumerate(widths)]
        )
        self.convs = nn.ModuleList([nn.Conv2d(w, w, 3, padding=1) for w in widths[1:]])
        self.film = nn.ModuleList([nn.Linear(64, 2 * w) for w in widths[1:]])
        self.head = nn.Sequential(nn.Linear(widths[-1] * 16 + 64, 128), nn.ReLU(), nn.Linear(128, 1))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    @classmethod
    def from_stored(cls, config: ClassifierConfig, stored: Stored) -> SuccessClassifier:
        """See `Storable`."""
        del stored
        return cls(config)

    @property
    def identity(self) -> str:
        """See `Component`."""
        return module_identity(self)

    @property
    def name(self) -> str:
        """Names the model and the version of its input."""
        return "classifier-first-now-v1"

    @property
    def waits(self) -> bool:
        """It computes here."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sentence.weight.device

    def logits(self, pair: Float[Tensor, "b 6 h w"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, " b"]:
        """Log-odds of success at the present frame; `pair` holds first and present frame in -1..1."""
        condition = F.relu(self.sentence(sentence))
        x = F.relu(self.downs[0](pair.contiguous(memory_format=torch.channels_last)))
        for down, conv, film in zip(list(self.downs)[1:], self.convs, self.film, strict=True):
            scale, shift = film(condition)[:, :, None, None].chunk(2, 1)
            x = F.relu(down(x))
            x = F.relu(x + conv(x) * (1 + scale) + shift)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.head(torch.cat([x, condition], -1))[:, 0]

    @torch.no_grad()
    def probabilities(
        self, frames: UInt8[np.ndarray, "n t h w 3"], instructions: Sequence[str]
    ) -> Float[np.ndarray, "n t"]:
        """Probability of success at every frame of n clips, given the first frame of each."""
        n, t = frames.shape[:2]
        sentence = self.text(instructions, self.device).repeat_interleave(t, 0)
        now = torch.from_numpy(frames).flatten(0, 1)
        first = torch.from_numpy(frames[:, :1]).expand(n, t, *frames.shape[2:]).flatten(0, 1)
        parts = []
        for i in range(0, n * t, self.config.batch):
            rows = slice(i, i + self.config.batch)
            pair = torch.cat([first[rows], now[rows]], -1).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(self.logits(pair, sentence[rows]).sigmoid().cpu())
        return torch.cat(parts).view(n, t).numpy()

    def score(self, clips: Sequence[Clip], thresholds: Sequence[float] | None = None) -> list[Verdict]:
        """See `Judge.score`; clips of equal length are judged together, each by its threshold where some are given."""
        verdicts: list[Verdict | None] = [None] * len(clips)
        for length in sorted({len(c.frames) for c in clips}):
            rows = [i for i, c in enumerate(clips) if len(c.frames) == length]
            frames = np.stack([clips[i].frames for i in rows])
            found = self.probabilities(frames, [clips[i].instruction for i in rows])
            for i, probability in zip(rows, found, strict=True):
                verdicts[i] = self.verdict(probability, None if thresholds is None else thresholds[i], clips[i])
        return [v for v in verdicts if v is not None]

    def verdict(
        self, probability: Float[np.ndarray, " t"], threshold: float | None = None, clip: Clip | None = None
    ) -> Verdict:
        """The verdict on a clip from the probabilities of its frames, by the judge's own threshold or another."""
        beliefs = [probability] if clip is None or clip.foreseen is None else [probability, clip.foreseen]
        steady = np.stack([sustained(belief, self.config.sustain) for belief in beliefs])
        best = float(self._scaled(steady.max(1, keepdims=True), clip)[0])
        threshold = float(self.threshold) if threshold is None else threshold
        if best < threshold:
            return Verdict(0.0, best)
        held = self._scaled(steady, clip)
        began = int(np.flatnonzero(held >= min(threshold, held.max()))[0])
        late = np.flatnonzero(self._scaled(np.stack(beliefs)[:, began:], clip) >= threshold)
        return Verdict(1.0, best, began + (int(late[0]) if len(late) else 0))

    def _scaled(self, beliefs: Float[np.ndarray, "k t"], clip: Clip | None) -> Float[np.ndarray, " t"]:
        """Probabilities of success, from the judge's beliefs about frames of `clip` and the world model's own."""
        scales = {} if clip is None else self.config.scales
        source = "" if clip is None else "foreseen" if len(beliefs) > 1 else "imagined" if clip.imagined else "real"
        scale = scales.get(f"{source}/{'' if clip is None else clip.task}") or scales.get(source)
        if scale is None:
            return beliefs[0]
        odds = np.clip(beliefs, _EDGE, 1 - _EDGE)
        return 1 / (1 + np.exp(-np.asarray(scale[1:]) @ np.log(odds / (1 - odds)) - scale[0]))

    def augment(self, pair: Float[Tensor, "b 6 h w"], generator: torch.Generator) -> Float[Tensor, "b 6 h w"]:
        """The same random shift and colour for both frames of a pair."""
        b, s = len(pair), self.config.shift
        noise = (torch.randn(b, 4, 1, 1, generator=generator) * self.config.jitter).to(pair.device)
        pair = pair * (1 + noise[:, :1]) + 0.5 * noise[:, 1:].repeat(1, 2, 1, 1)
        if s:
            dy, dx = torch.randint(0, 2 * s + 1, (2,), generator=generator).tolist()
            pair = F.pad(pair, (s,) * 4, mode="replicate")[:, :, dy : dy + pair.shape[2], dx : dx + pair.shape[3]]
        return pair

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Cross-entropy of success at a frame.

        Args:
            batch: "first" and "now" uint8 [b h w 3], "instruction" (b sentences), "success" bool [b], "generator".
        """
        first, now, success = batch["first"], batch["now"], batch["success"]
        generator, instruction = batch["generator"], batch["instruction"]
        pair = torch.cat([first, now], -1).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        logits = self.logits(self.augment(pair, generator), self.text(instruction, self.device))
        target = success.to(self.device).float()
        loss = F.binary_cross_entropy_with_logits(logits, target)
        accuracy = ((logits > 0) == (target > 0.5)).float().mean()
        return loss, {"loss": float(loss.detach()), "accuracy": float(accuracy)}
