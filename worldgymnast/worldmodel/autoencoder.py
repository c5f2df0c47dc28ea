"""Image autoencoder: uint8 frames to latents of unit variance and back, frame by frame.

A convolutional network, by default with a downsampling factor of 16. The narrow bottleneck leaves the world model few
numbers to predict, and a slightly wrong latent still decodes to a sharp picture. Noise on the latents during training
makes the decoder robust to small errors. Latents are standardized by statistics measured once after training
(`measure_latents`), like the scaling factor of published image VAEs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.configs import MOST_LAYERS, Between, NonNegative, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.types import Metrics
from worldgymnast.weights import registered


@checked
class AutoencoderConfig:
    """The network that makes frames smaller (latents) and back; config of `Autoencoder`.

    Attributes:
        channels: latent channels, c.
        widths: convolution channels at 1/2, 1/4, ... of the frame's resolution.
        blocks: residual blocks per resolution.
        noise: standard deviation of the training noise on latents, relative to theirs.
    """

    channels: Width = 32
    widths: tuple[Width, ...] = (32, 64, 128, 192)
    blocks: tuple[Annotated[int, Between(0, MOST_LAYERS)], ...] = (1, 1, 2, 2)
    noise: NonNegative = 0.05

    def __post_init__(self) -> None:
        if not 1 <= len(self.widths) == len(self.blocks) <= 16:
            raise FieldError(
                "widths, blocks",
                f"found {len(self.widths)} and {len(self.blocks)}, expected equal lengths, 1 to 16",
            )

    @property
    def shrink(self) -> int:
        """Downsampling factor per side."""
        return 2 ** len(self.widths)


@runtime_checkable
class Codec(Protocol):
    """Frames to latents and back."""

    latent_weight: Tensor
    """Importance of errors in each channel, float [c] with mean 1."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    def encode(self, frames: UInt8[Tensor, "*n h w 3"]) -> Float[Tensor, "*n hl wl c"]:
        """Encode frames to latents."""
        ...

    def decode(self, latents: Float[Tensor, "*n hl wl c"]) -> UInt8[Tensor, "*n h w 3"]:
        """Decode latents to frames."""
        ...


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Convolutional autoencoder of frames; latents are `config.shrink` times smaller per side."""

    latent_mean: Tensor
    latent_std: Tensor
    latent_weight: Tensor = registered()

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        widths, blocks = config.widths, config.blocks
        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(widths[0], 12, 3, padding=1), nn.PixelShuffle(2)]
        for i, width in enumerate(widths):
            if i:
                down.append(nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1))
                up[:0] = [nn.Conv2d(width, 4 * widths[i - 1], 1), nn.PixelShuffle(2)]
            down += [_Residual(width) for _ in range(blocks[i])]
            up[:0] = [_Residual(width) for _ in range(blocks[i])]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], config.channels, 1))
        self.decoder = nn.Sequential(nn.Conv2d(config.channels, widths[-1], 1), *up)
        self.register_buffer("latent_mean", torch.zeros(config.channels))
        self.register_buffer("latent_std", torch.ones(config.channels))
        self.register_buffer("latent_weight", torch.ones(config.channels))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.latent_mean.device

    @property
    def channels(self) -> int:
        """Latent channels, c."""
        return self.config.channels

    def _pixels(self, frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        return frames.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def encode(self, frames: UInt8[Tensor, "*n h w 3"]) -> Float[Tensor, "*n hl wl c"]:
        """Encode frames to latents of zero mean and unit variance."""
        raw = self.encoder(self._pixels(frames.flatten(0, -4))).permute(0, 2, 3, 1)
        latents = (raw - self.latent_mean) / self.latent_std
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    def decode(self, latents: Float[Tensor, "*n hl wl c"]) -> UInt8[Tensor, "*n h w 3"]:
        """Decode latents to frames."""
        raw = (latents.flatten(0, -4) * self.latent_std + self.latent_mean).permute(0, 3, 1, 2)
        pixels = self.decoder(raw.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        frames = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Mean squared reconstruction error through noisy latents, pixels in -1..1.

        Args:
            batch: "frames" uint8 [n h w 3] and "generator".

        Returns:
            The loss, and the metrics "loss" and "psnr" (dB).
        """
        pixels = self._pixels(batch["frames"])
        raw = self.encoder(pixels)
        spread = raw.detach().std((0, 2, 3), keepdim=True)
        noise = torch.randn(raw.shape, generator=batch["generator"]).to(self.device)
        reconstruction = self.decoder(raw + noise * spread * self.config.noise)
        error = F.mse_loss(reconstruction, pixels)
        penalty = 1e-4 * raw.square().mean()  # keeps the latents' scale bounded
        psnr = 10 * torch.log10(4 / error.detach())
        return error + penalty, {"loss": float(error.detach()), "psnr": float(psnr)}

    @torch.no_grad()
    def measure_latents(self, batches: Iterable[UInt8[Tensor, "n h w 3"]]) -> None:
        """Set the statistics that standardize latents, and the importance of each channel.

        `latent_weight` [c], mean 1, is the squared pixel error caused by a small error in a channel. Weighted by it, a
        squared error of latents approximates a squared error of pixels.
        """
        raw = torch.cat([self.encoder(self._pixels(b)) for b in batches])
        self.latent_mean.copy_(raw.mean((0, 2, 3)))
        self.latent_std.copy_(raw.std((0, 2, 3)))
        probe = raw[:: max(1, len(raw) // 16)]
        clean = self.decoder(probe)
        error = torch.zeros_like(self.latent_std)
        for channel in range(len(error)):
            shifted = probe.clone()
            shifted[:, channel] += 0.3 * self.latent_std[channel]
            error[channel] = (self.decoder(shifted) - clean).square().mean()
        self.latent_weight.copy_(error / error.mean())
