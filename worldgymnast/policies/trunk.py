"""Trunk of the small policies: an image and a sentence to a feature vector.

A residual convolutional network, modulated by the sentence in every block (FiLM, Perez et al. 2018), predicts keypoints
(spatial softmax, Levine et al. 2016). Several cameras pass through the same network, one after the other; their
features are concatenated. Proprioception is normalized by statistics that are stored with the weights. Not supported:
history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldgymnast.configs import Between
from worldgymnast.errors import FieldError, InputError
from worldgymnast.policies.state import checked_state
from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import IMAGE, STATE, Observation
from worldgymnast.weights import mean_and_deviation, module_identity

Pixels = Annotated[int, Between(1, 4096)]
"""Height or width of a picture."""


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


STATE_FEATURES = 64
"""Width of the embedded state."""
_MAX_DEVIATION = 5.0
"""Largest normalized state, in standard deviations; beyond it lies nothing that training has shown."""


class Trunk(nn.Module):
    """Trunk and common members of the small policies.

    Args:
        width: channels.
        blocks: residual blocks.
        text: frozen sentence encoder.
        cameras: names of the cameras; "image" alone is the whole frame.
        state_dim: numbers of proprioception; 0 for none.
        image_sizes: height and width of the pictures of each camera; none for any size.
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self,
        width: int,
        blocks: int,
        text: SentenceEncoder | None = None,
        cameras: Sequence[str] = (IMAGE,),
        state_dim: int = 0,
        image_sizes: Sequence[tuple[int, int]] = (),
    ):
        super().__init__()
        self.cameras, self.state_dim = tuple(cameras), state_dim
        self._image_sizes = dict(zip(cameras, image_sizes, strict=True)) if image_sizes else {}
        self.feature_width = 4 * width * len(self.cameras) + 128 + (STATE_FEATURES if state_dim else 0)
        self.text = text or SentenceEncoder()
        self.sentence = nn.Linear(SENTENCE_WIDTH, 128)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, width, 4, stride=2, padding=1)
        )
        self.blocks = nn.ModuleList([_Block(width, 128) for _ in range(blocks)])
        self.keypoints = nn.Conv2d(width, width, 1)
        if state_dim:
            self.state = nn.Sequential(nn.Linear(state_dim, STATE_FEATURES), nn.ReLU())
            self.register_buffer("state_mean", torch.zeros(state_dim))
            self.register_buffer("state_std", torch.ones(state_dim))

    @property
    def needs(self) -> frozenset[str]:
        """Parts of an observation that the policy reads."""
        return frozenset({*self.cameras, *((STATE,) if self.state_dim else ())})

    @torch.no_grad()
    def measure_state(self, state: Float[np.ndarray, "n s"]) -> None:
        """Set the statistics that normalize the state."""
        mean, std = mean_and_deviation(state)
        self.state_mean.copy_(mean)
        self.state_std.copy_(std)

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

    def features(
        self,
        images: Float[Tensor, "b 3 h w"] | Sequence[Tensor],
        sentence: Float[Tensor, "b s"],
        state: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b f"]:
        """Feature vector, `feature_width` numbers; images in -1..1, one of each camera, and normalized state.

        It contains the keypoints' coordinates, the features at the keypoints and the mean features of each camera, the
        sentence and the state.
        """
        condition = F.relu(self.sentence(sentence))
        several = [images] if isinstance(images, Tensor) else images
        parts = [part for image in several for part in self._image_features(image, condition)]
        if state is not None:
            return torch.cat([*parts, condition, self.state(state)], -1)
        return torch.cat([*parts, condition], -1)

    def _image_features(self, image: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
        """Coordinates of the keypoints, features at the keypoints, and mean features of one camera."""
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
        return y_mean, x_mean, at_keypoints, x.mean((2, 3))

    def preprocess(self, obs: Observation) -> tuple[list[Tensor], Float[Tensor, "b s"], Tensor | None]:
        """Images [b 3 h w] of each camera in -1..1, sentence vector, and normalized state [b p] or None.

        Raises:
            InputError: the pictures have another size than those of the training, or the state another width.
        """
        for name, (height, width) in self._image_sizes.items():
            if (found := tuple(obs.images[name].shape[1:3])) != (height, width):
                raise InputError(
                    f"policy: found pictures of {found[0]}x{found[1]} pixels (camera '{name}'), but it was trained on "
                    f"{height}x{width}. Its actions would be wrong. Resize the frames, as with --env.size or --size, "
                    "or train it again on these"
                )
        images = [obs.images[name].to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for name in self.cameras]
        return images, self.text(obs.instruction, self.device), self._normalized(obs.state)

    def _normalized(self, state: Tensor | None) -> Tensor | None:
        if not self.state_dim:
            return None
        state = checked_state(state, self.state_dim).to(self.device).float()
        normalized = (state - self.state_mean) / self.state_std
        return normalized.clamp(-_MAX_DEVIATION, _MAX_DEVIATION)


def add_noise(state: Tensor | None, deviation: float, generator: torch.Generator) -> Tensor | None:
    """Add noise to a normalized state, so that a policy relies on the images as well."""
    if state is None:
        return None
    return state + torch.randn(state.shape, generator=generator).to(state.device) * deviation


def check_camera_names(cameras: Sequence[str]) -> None:
    """Raise FieldError unless these are names of cameras, each once."""
    if not cameras or len(set(cameras)) < len(cameras) or not all(cameras) or STATE in cameras:
        raise FieldError("cameras", f"found {' '.join(cameras) or 'none'}, expected names of cameras, each once")


def check_image_sizes(sizes: Sequence[tuple[int, int]], cameras: Sequence[str]) -> None:
    """Raise FieldError unless there is one size per camera, or none at all."""
    if sizes and (len(sizes) != len(cameras) or min(map(min, sizes)) < 1):
        raise FieldError("image_sizes", f"found {sizes} for {len(cameras)} cameras, expected a height and width each")


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
