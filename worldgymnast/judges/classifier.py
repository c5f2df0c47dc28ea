"""Learned success classifier: first frame, current frame and sentence in, success probability out.

Training data are labeled logged episodes and imagined replays of real action sequences, whose true outcome is known, so
the classifier also works on generated video. A clip succeeds if the mean probability over `sustain` consecutive judged
frames reaches the threshold: imagined objects flicker, while true success lasts. The threshold is set on held-out
episodes (`calibrate`).
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
from worldgymnast.protocols import ComponentInfo
from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import Clip, Metrics, Verdict
from worldgymnast.weights import module_identity, registered


@checked
class ClassifierConfig:
    """Config of a `SuccessClassifier`.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 of the frame's resolution.
        jitter: strength of random brightness, contrast and color in training.
        shift: largest random shift in training, in pixels; the same for both frames.
        sustain: judged frames over which success must last.
        batch: frames judged at a time.
        scales: intercept and slopes of the Platt scaling (`evaluation.scaling`), by source and task, such as
            "real/TASK", or by source for all other tasks, such as "real". Sources are "real", "imagined" and
            "foreseen" (imagined by a world model with a success head, whose probability has the second slope). Without
            an entry the probability is not scaled.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (24, 48, 96)
    jitter: NonNegative = 0.1
    shift: Annotated[int, Between(0, 4096)] = 2
    sustain: Annotated[int, Between(1, 2**20)] = 4
    batch: Annotated[int, Between(1, 2**20)] = 256
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


_MARGIN = 1e-4
"""Smallest distance of probabilities from 0 and 1 before scaling."""


class SuccessClassifier(nn.Module):
    """`Judge` trained on labeled frames."""

    config_type: ClassVar[type] = ClassifierConfig
    threshold: Tensor = registered()

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
    def from_config(cls, config: ClassifierConfig, info: ComponentInfo) -> SuccessClassifier:
        """Build the classifier with fresh weights."""
        del info
        return cls(config)

    @property
    def identity(self) -> str:
        """Hash of the weights."""
        return module_identity(self)

    @property
    def name(self) -> str:
        """Name of the model and version of its input."""
        return "classifier-first-now-v1"

    @property
    def is_remote(self) -> bool:
        """False: scoring runs in this process."""
        return False

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.sentence.weight.device

    def logits(self, pair: Float[Tensor, "b 6 h w"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, " b"]:
        """Log-odds of success at the current frame.

        `pair` is the first and the current frame in -1..1.
        """
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
        """Success probability at every frame of n clips of equal length."""
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
        """One verdict per clip; clips of equal length are judged together.

        Args:
            clips: the clips.
            thresholds: one per clip; by default the judge's own.
        """
        verdicts: list[Verdict | None] = [None] * len(clips)
        for length in sorted({len(c.frames) for c in clips}):
            rows = [i for i, c in enumerate(clips) if len(c.frames) == length]
            frames = np.stack([clips[i].frames for i in rows])
            probabilities = self.probabilities(frames, [clips[i].instruction for i in rows])
            for i, probability in zip(rows, probabilities, strict=True):
                verdicts[i] = self.verdict(probability, None if thresholds is None else thresholds[i], clips[i])
        return [v for v in verdicts if v is not None]

    def verdict(
        self, probability: Float[np.ndarray, " t"], threshold: float | None = None, clip: Clip | None = None
    ) -> Verdict:
        """Verdict from the probabilities of a clip's frames.

        Args:
            probability: success probability at each frame.
            threshold: by default the judge's own.
            clip: the clip, for scaling and for the world model's own probability.
        """
        signals = [probability] if clip is None or clip.foreseen is None else [probability, clip.foreseen]
        means = np.stack([sustained(signal, self.config.sustain) for signal in signals])
        best = float(self._scale(means.max(1, keepdims=True), clip)[0])
        threshold = float(self.threshold) if threshold is None else threshold
        if best < threshold:
            return Verdict(0.0, best)
        scaled = self._scale(means, clip)
        start = int(np.flatnonzero(scaled >= min(threshold, scaled.max()))[0])
        reached = np.flatnonzero(self._scale(np.stack(signals)[:, start:], clip) >= threshold)
        return Verdict(1.0, best, start + (int(reached[0]) if len(reached) else 0))

    def _scale(self, probabilities: Float[np.ndarray, "k t"], clip: Clip | None) -> Float[np.ndarray, " t"]:
        """Calibrated probabilities, from the judge's and (with k = 2) the world model's own."""
        if clip is None:
            return probabilities[0]
        source = "imagined" if clip.imagined else "real"
        if len(probabilities) > 1:
            source = "foreseen"
        scale = self.config.scales.get(f"{source}/{clip.task}") or self.config.scales.get(source)
        if scale is None:
            return probabilities[0]
        odds = np.clip(probabilities, _MARGIN, 1 - _MARGIN)
        return 1 / (1 + np.exp(-np.asarray(scale[1:]) @ np.log(odds / (1 - odds)) - scale[0]))

    def augment(self, pair: Float[Tensor, "b 6 h w"], generator: torch.Generator) -> Float[Tensor, "b 6 h w"]:
        """Apply the same random shift and color to both frames of a pair."""
        b, s = len(pair), self.config.shift
        noise = (torch.randn(b, 4, 1, 1, generator=generator) * self.config.jitter).to(pair.device)
        pair = pair * (1 + noise[:, :1]) + 0.5 * noise[:, 1:].repeat(1, 2, 1, 1)
        if s:
            dy, dx = torch.randint(0, 2 * s + 1, (2,), generator=generator).tolist()
            pair = F.pad(pair, (s,) * 4, mode="replicate")[:, :, dy : dy + pair.shape[2], dx : dx + pair.shape[3]]
        return pair

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Binary cross-entropy of success at the current frame.

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
