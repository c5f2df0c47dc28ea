"""A learned success classifier: a clip and its sentence in, probability of success at every frame out.

Each frame is seen next to the clip's first one; a recurrent state carries what happened between them. An imagined frame
may show a contact that the motion before it could not have made, and the judge can weigh the one against the other: it
is trained on labelled logged episodes and on imagined replays of real action sequences, whose true outcome is known. A
clip succeeds where the mean probability of two neighbouring judged frames passes the threshold; the threshold is set on
episodes it was not trained on (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import Clip, Metrics, Verdict


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a `SuccessClassifier`.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 of the frame's size.
        jitter: strength of random brightness, contrast and colour while training.
        shift: largest random shift, the same for all frames of a clip, in pixels.
        memory: width of the recurrent state.
        batch: clips judged at a time.
    """

    widths: tuple[int, ...] = (24, 48, 96)
    jitter: float = 0.1
    shift: int = 2
    memory: int = 128
    batch: int = 32


class SuccessClassifier(nn.Module):
    """A `Judge` that learned from labels."""

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
        self.present = nn.Sequential(nn.Linear(widths[-1] * 16 + 64, 128), nn.ReLU())
        self.past = nn.GRU(128, config.memory, batch_first=True)
        self.head = nn.Linear(128 + config.memory, 1)
        self.register_buffer("threshold", torch.tensor(0.5))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    @property
    def name(self) -> str:
        """Names the model and the version of its input."""
        return "classifier-clip-v2"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sentence.weight.device

    def logits(self, clips: Float[Tensor, "b t 3 h w"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, "b t"]:
        """Log-odds of success at every frame, given those up to it; frames in -1..1."""
        b, t = clips.shape[:2]
        pairs = torch.cat([clips[:, :1].expand_as(clips), clips], 2).flatten(0, 1)
        condition = F.relu(self.sentence(sentence)).repeat_interleave(t, 0)
        x = F.relu(self.downs[0](pairs.contiguous(memory_format=torch.channels_last)))
        for down, conv, film in zip(list(self.downs)[1:], self.convs, self.film, strict=True):
            scale, shift = film(condition)[:, :, None, None].chunk(2, 1)
            x = F.relu(down(x))
            x = F.relu(x + conv(x) * (1 + scale) + shift)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        present = self.present(torch.cat([x, condition], -1)).view(b, t, -1)
        return self.head(torch.cat([present, self.past(present)[0]], -1))[..., 0]

    @torch.no_grad()
    def probabilities(
        self, frames: UInt8[np.ndarray, "n t h w 3"], instructions: Sequence[str]
    ) -> Float[np.ndarray, "n t"]:
        """Probability of success at every frame of n clips, given the first frame of each."""
        parts = []
        for i in range(0, len(frames), self.config.batch):
            rows = slice(i, i + self.config.batch)
            sentence = self.text(instructions[rows], self.device)
            parts.append(self.logits(_scaled(torch.from_numpy(frames[rows]), self.device), sentence).sigmoid().cpu())
        return torch.cat(parts).numpy()

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`; clips of equal length are judged together."""
        verdicts: list[Verdict | None] = [None] * len(clips)
        for length in sorted({len(c.frames) for c in clips}):
            rows = [i for i, c in enumerate(clips) if len(c.frames) == length]
            frames = np.stack([clips[i].frames for i in rows])
            found = self.probabilities(frames, [clips[i].instruction for i in rows])
            for i, probability in zip(rows, found, strict=True):
                verdicts[i] = self.verdict(probability)
        return [v for v in verdicts if v is not None]

    def verdict(self, probability: Float[np.ndarray, " t"]) -> Verdict:
        """The verdict on a clip from the probabilities of its frames."""
        steady = smooth(probability)
        best = float(steady.max())
        threshold = float(self.threshold)
        if best < threshold:
            return Verdict(0.0, best)
        return Verdict(1.0, best, int(np.flatnonzero(steady >= threshold)[0]))

    def augment(self, clips: Float[Tensor, "b t 3 h w"], generator: torch.Generator) -> Float[Tensor, "b t 3 h w"]:
        """One random shift for all clips, one random colour for each."""
        s = self.config.shift
        noise = (torch.randn(len(clips), 1, 4, 1, 1, generator=generator) * self.config.jitter).to(clips.device)
        clips = clips * (1 + noise[:, :, :1]) + 0.5 * noise[:, :, 1:]
        if s:
            dy, dx = torch.randint(0, 2 * s + 1, (2,), generator=generator).tolist()
            h, w = clips.shape[-2:]
            padded = F.pad(clips.flatten(0, 1), (s,) * 4, mode="replicate")[..., dy : dy + h, dx : dx + w]
            clips = padded.view_as(clips)
        return clips

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Cross-entropy of success at every frame.

        Args:
            batch: "clips" uint8 [b t h w 3], "instruction" (b sentences), "success" bool [b t], "generator".
        """
        clips = self.augment(_scaled(batch["clips"], self.device), batch["generator"])
        logits = self.logits(clips, self.text(batch["instruction"], self.device))
        target = batch["success"].to(self.device).float()
        loss = F.binary_cross_entropy_with_logits(logits, target)
        accuracy = ((logits > 0) == (target > 0.5)).float().mean()
        return loss, {"loss": float(loss.detach()), "accuracy": float(accuracy)}


def _scaled(frames: UInt8[Tensor, "b t h w 3"], device: torch.device) -> Float[Tensor, "b t 3 h w"]:
    """Frames in -1..1, colour first."""
    return frames.to(device).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def smooth(probability: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Mean of each frame and the one after it; the last frame stands alone."""
    following = np.append(probability[1:], probability[-1:])
    return (probability + following) / 2
