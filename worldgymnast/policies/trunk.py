"""Trunk of the small policies: an image and a sentence to a feature vector.

A residual convolutional network, modulated by the sentence in every block (FiLM, Perez et al. 2018), predicts keypoints
(spatial softmax, Levine et al. 2016). Not supported: proprioception, history.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import IMAGE, Observation
from worldgymnast.weights import module_identity


class _Block(nn.Module):
    def __init__(self, width: int, condition: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        y = F.relu(self.first(F.relu(self.norm(x))))
        return x + self.second(F.relu(y * (1 + scale) + shift))


class Trunk(nn.Module):
    """Trunk and common members of the small policies.

    Args:
        width: channels.
        blocks: residual blocks.
        text: frozen sentence encoder.
    """

    needs = frozenset({IMAGE})
    cameras = (IMAGE,)

    def __init__(self, width: int, blocks: int, text: SentenceEncoder | None = None):
        super().__init__()
        self.text = text or SentenceEncoder()
        self.sentence = nn.Linear(SENTENCE_WIDTH, 128)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, width, 4, stride=2, padding=1)
        )
        self.blocks = nn.ModuleList([_Block(width, 128) for _ in range(blocks)])
        self.keypoints = nn.Conv2d(width, width, 1)

    @property
    def identity(self) -> str:
        """Hash of the weights."""
        return module_identity(self)

    def trainable_state(self) -> dict[str, Tensor]:
        """All weights, without the frozen sentence encoder."""
        return dict(self.state_dict())

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `trainable_state` into the policy."""
        self.load_state_dict(dict(state))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.sentence.weight.device

    def features(self, image: Float[Tensor, "b 3 h w"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, "b f"]:
        """Feature vector, 4 width + 128 numbers; `image` in -1..1.

        It contains the keypoints' coordinates, the features at the keypoints, the mean features and the sentence.
        """
        condition = F.relu(self.sentence(sentence))
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x, condition)
        x = F.relu(x)
        h, w = x.shape[-2:]
        heatmaps = self.keypoints(x).flatten(2).softmax(-1).unflatten(-1, (h, w))
        rows = torch.linspace(-1, 1, h, device=x.device)
        columns = torch.linspace(-1, 1, w, device=x.device)
        y_mean, x_mean = (heatmaps.sum(3) * rows).sum(-1), (heatmaps.sum(2) * columns).sum(-1)
        at_keypoints = (x * heatmaps).flatten(2).sum(-1)
        return torch.cat([y_mean, x_mean, at_keypoints, x.mean((2, 3)), condition], -1)

    def preprocess(self, obs: Observation) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b s"]]:
        """Image in -1..1, and sentence vector."""
        image = obs.images[IMAGE].to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return image, self.text(obs.instruction, self.device)


def augment(image: Tensor, shift: int, jitter: float, generator: torch.Generator) -> Tensor:
    """Apply a random shift, in pixels, and random color to images [b 3 h w] in -1..1."""
    b, _, h, w = image.shape
    if shift:
        padded = F.pad(image, (shift,) * 4, mode="replicate")
        dy, dx = torch.randint(0, 2 * shift + 1, (2, b), generator=generator).to(image.device)
        rows = (dy[:, None] + torch.arange(h, device=image.device))[:, None, :, None]
        columns = (dx[:, None] + torch.arange(w, device=image.device))[:, None, None, :]
        batch = torch.arange(b, device=image.device)[:, None, None, None]
        image = padded[batch, torch.arange(3, device=image.device)[None, :, None, None], rows, columns]
    noise = torch.randn(b, 4, 1, 1, generator=generator).to(image.device) * jitter
    return (image * (1 + noise[:, :1]) + noise[:, 1:] * 0.5).clamp(-1.2, 1.2)
