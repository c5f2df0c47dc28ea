"""What small policies have in common: an image and a sentence to a vector of features.

A residual convolutional network whose every block is modulated by the sentence (FiLM, Perez et al. 2018) finds
keypoints (spatial softmax, Levine et al. 2016). Left out: proprioception, history.
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
    """The trunk of a small policy, and what every policy of ours has beside acting.

    Args:
        width: channels.
        blocks: residual blocks.
        text: the frozen sentence encoder.
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
        """See `Component`."""
        return module_identity(self)

    def trainable_state(self) -> dict[str, Tensor]:
        """See `Policy`: all weights; the frozen sentence encoder is not among them."""
        return dict(self.state_dict())

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """See `Policy`."""
        self.load_state_dict(dict(state))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sentence.weight.device

    def features(self, image: Float[Tensor, "b 3 h w"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, "b f"]:
        """Keypoints, what lies there, the mean image and the sentence: 4 width + 128 numbers; `image` in -1..1."""
        condition = F.relu(self.sentence(sentence))
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x, condition)
        x = F.relu(x)
        h, w = x.shape[-2:]
        where = self.keypoints(x).flatten(2).softmax(-1).unflatten(-1, (h, w))
        rows = torch.linspace(-1, 1, h, device=x.device)
        columns = torch.linspace(-1, 1, w, device=x.device)
        y_mean, x_mean = (where.sum(3) * rows).sum(-1), (where.sum(2) * columns).sum(-1)
        found = (x * where).flatten(2).sum(-1)
        return torch.cat([y_mean, x_mean, found, x.mean((2, 3)), condition], -1)

    def see(self, obs: Observation) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b s"]]:
        """The image in -1..1 and the sentence's vector."""
        image = obs.images[IMAGE].to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return image, self.text(obs.instruction, self.device)


def augmented(image: Tensor, shift: int, jitter: float, generator: torch.Generator) -> Tensor:
    """Random shift, in pixels, and color of [b 3 h w] in -1..1."""
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
