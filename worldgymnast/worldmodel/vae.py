"""Image VAEs from diffusers: Stable Diffusion 3's `AutoencoderKL`, used by published world models, and TAESD3.

Latents follow WorldGym (arXiv 2506.00613): the posterior mean times `scaling_factor`, without `shift_factor`.
`AutoencoderTiny` (TAESD3) decodes several times faster. It was distilled on the shifted latents of diffusers'
pipelines, so the shift is added before it decodes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from worldgymnast.configs import MOST_WIDE, Between, checked
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, short
from worldgymnast.hub import check_source, hub_reason
from worldgymnast.weights import registered

SD3 = json.dumps(
    {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 16,
        "layers_per_block": 2,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
)
"""Config of Stable Diffusion 3's `AutoencoderKL`, as JSON."""


@checked
class VAEConfig:
    """Config of an `ImageVAE`.

    Attributes:
        encoder: config of diffusers' `AutoencoderKL`, as JSON.
        decoder: config of an `AutoencoderTiny` for decoding, as JSON; "" uses the decoder of `AutoencoderKL`.
        batch: frames encoded or decoded at a time.
    """

    encoder: str = "{}"
    decoder: str = ""
    batch: Annotated[int, Between(1, 2**20)] = 16

    def __post_init__(self) -> None:
        for name, text in (("encoder", self.encoder), ("decoder", self.decoder or "{}")):
            where = f"field '{name}' of VAEConfig"
            _check_bounds(where, json_object(parse_json(text, where), where))

    @property
    def shrink(self) -> int:
        """Downsampling factor per side."""
        return 2 ** (len(json.loads(self.encoder).get("block_out_channels", [64])) - 1)


def _check_bounds(where: str, value: Any) -> None:
    """Raise InputError if a diffusers config has implausible sizes, before any memory is allocated."""
    values: list[Any] = []
    if isinstance(value, dict | list):
        values = list(value.values()) if isinstance(value, dict) else value
    if len(values) > 256:
        raise InputError(f"{where}: found {len(values)} entries, expected at most 256; copy the file again")
    for inner in values:
        _check_bounds(where, inner)
    if isinstance(value, int | float) and not -MOST_WIDE <= value <= MOST_WIDE:
        raise InputError(f"{where}: found {short(value)}, expected a number within {MOST_WIDE}; copy the file again")


def _build(kind: str, config: str) -> Any:
    """Build a diffusers model from its config.

    Report errors of its constructor in one line.
    """
    try:
        return _diffusers(kind).from_config(json.loads(config)).eval()
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"image VAE: its config is not valid for {kind} ({reason}). Copy the file again") from error


def _diffusers(name: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "image VAE: the package diffusers is not installed. Published world models need it. Run: pip install "
            "'worldgymnast[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def _numbers(config: Any) -> str:
    """A diffusers config as JSON, without its private entries."""
    return json.dumps({k: v for k, v in dict(config).items() if not k.startswith("_")}, sort_keys=True)


class ImageVAE(nn.Module):
    """Image VAE of diffusers: frames uint8 [... h w 3] to latents [... h/s w/s c] and back."""

    latent_weight: Tensor = registered()

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.kl = _build("AutoencoderKL", config.encoder)
        self.tiny: nn.Module | None = None
        self.register_buffer("latent_weight", torch.ones(self.channels), persistent=False)
        if config.decoder:
            self.tiny = _build("AutoencoderTiny", config.decoder)

    @classmethod
    def pretrained(cls, name: str, tiny: str | None = None) -> ImageVAE:
        """Load a pretrained VAE from a folder or the hub.

        Of a pipeline, its "vae".

        Args:
            name: an `AutoencoderKL`, such as "stabilityai/stable-diffusion-3-medium-diffusers".
            tiny: an `AutoencoderTiny` for decoding, such as "madebyollin/taesd3".

        Raises:
            InputError: the VAE is missing or of another kind, or the two do not match.
        """
        kl = _pretrained("AutoencoderKL", name)
        fast = None if tiny is None else _pretrained("AutoencoderTiny", tiny)
        if fast is not None and fast.config.latent_channels != kl.config.latent_channels:
            raise InputError(
                f"{tiny}: field 'latent_channels': found {fast.config.latent_channels}, expected "
                f"{kl.config.latent_channels} as in {name}. Use the decoder made for it"
            )
        vae = cls(VAEConfig(_numbers(kl.config), "" if fast is None else _numbers(fast.config)))
        vae.kl.load_state_dict(kl.state_dict())
        if fast is not None and vae.tiny is not None:
            vae.tiny.load_state_dict(fast.state_dict())
        return vae

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.kl.device

    @property
    def channels(self) -> int:
        """Latent channels, c."""
        return int(self.kl.config.latent_channels)

    @property
    def shrink(self) -> int:
        """Downsampling factor per side."""
        return self.config.shrink

    @property
    def scale(self) -> float:
        """Scaling factor of the posterior mean."""
        return float(self.kl.config.scaling_factor)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "*n h w 3"]) -> Float[Tensor, "*n hl wl c"]:
        """Encode frames to latents."""
        flat = frames.flatten(0, -4).permute(0, 3, 1, 2)
        device, dtype = self.kl.device, self.kl.dtype
        parts = [
            self.kl.encode((part.to(device).to(dtype) / 255) * 2 - 1).latent_dist.mean
            for part in flat.split(self.config.batch)
        ]
        latents = (torch.cat(parts) * self.scale).permute(0, 2, 3, 1).float()
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "*n hl wl c"]) -> UInt8[Tensor, "*n h w 3"]:
        """Decode latents to frames."""
        flat = latents.flatten(0, -4).permute(0, 3, 1, 2).to(self.kl.dtype)
        if self.tiny is None:
            model, flat = self.kl, flat / self.scale
        else:
            model, flat = self.tiny, flat - float(self.kl.config.shift_factor or 0.0) * self.scale
        parts = [cast("Any", model).decode(part).sample for part in flat.split(self.config.batch)]
        pixels = torch.cat(parts).permute(0, 2, 3, 1).float()
        frames = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])


def _pretrained(kind: str, name: str) -> Any:
    """Load a pretrained diffusers model from its own folder or repository, or from the "vae" of a pipeline."""
    cls, reason = _diffusers(kind), ""
    for folder in _locations(kind, name):
        try:
            return cls.from_pretrained(name, low_cpu_mem_usage=False, **folder)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = hub_reason(error, name)
            if "cannot be reached" in reason:
                break  # a second attempt would wait for the network again
    raise InputError(f"{name}: found no {kind} ({reason}), expected a folder saved by diffusers or a hub name")


def _locations(kind: str, name: str) -> list[dict[str, str]]:
    """Possible locations in a folder or repository, as arguments of `from_pretrained`."""
    check_source(name, f"an {kind} saved by diffusers")
    if not Path(name).exists():
        return [{"subfolder": "vae"}, {}]
    return [{"subfolder": "vae"}] if (Path(name) / "vae").is_dir() else [{}]
