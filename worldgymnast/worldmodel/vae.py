"""Image VAEs of diffusers: Stable Diffusion 3's `AutoencoderKL`, as published world models use it, and TAESD3.

The latents are those of WorldGym (arXiv 2506.00613): the posterior's mean times `scaling_factor`; `shift_factor` is not
used. `AutoencoderTiny` (TAESD3) decodes the same pictures several times faster; it was distilled in the latents that
diffusers' pipelines use, which are shifted, so the shift is put back before it decodes.
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
from worldgymnast.hub import hub_reason

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
"""The shape of Stable Diffusion 3's `AutoencoderKL`."""


@checked
class VAEConfig:
    """An `ImageVAE`.

    Attributes:
        encoder: config of diffusers' `AutoencoderKL`, as JSON.
        decoder: config of an `AutoencoderTiny` that decodes, as JSON; "" to decode with the encoder's own decoder.
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
        """How many times smaller the latents are on each side."""
        return 2 ** (len(json.loads(self.encoder).get("block_out_channels", [64])) - 1)


def _check_bounds(where: str, value: Any) -> None:
    """Raises where a config of diffusers asks for more than a picture's model has, before any of it is made."""
    values = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    if len(values) > 256:
        raise InputError(f"{where}: found {len(values)} entries, expected at most 256; copy the file again")
    for inner in values:
        _check_bounds(where, inner)
    if isinstance(value, int | float) and not -MOST_WIDE <= value <= MOST_WIDE:
        raise InputError(f"{where}: found {short(value)}, expected a number within {MOST_WIDE}; copy the file again")


def _made(kind: str, config: str) -> Any:
    """A model of diffusers from its config; what its constructor finds wrong is one line."""
    try:
        return _diffusers(kind).from_config(json.loads(config)).eval()
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"image VAE: its config makes no {kind} ({reason}); copy the file again") from error


def _diffusers(name: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "image VAE: found no diffusers, expected it for published world models; pip install "
            "'worldgymnast[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def _numbers(config: Any) -> str:
    """A diffusers config as JSON, without the names it keeps for itself."""
    return json.dumps({k: v for k, v in dict(config).items() if not k.startswith("_")}, sort_keys=True)


class ImageVAE(nn.Module):
    """Frames uint8 [... h w 3] to latents [... h/s w/s c] and back."""

    latent_weight: Tensor

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.kl = _made("AutoencoderKL", config.encoder)
        self.tiny: nn.Module | None = None
        self.register_buffer("latent_weight", torch.ones(self.channels), persistent=False)
        if config.decoder:
            self.tiny = _made("AutoencoderTiny", config.decoder)

    @classmethod
    def pretrained(cls, name: str, tiny: str | None = None) -> ImageVAE:
        """The VAE of that folder or hub name (of a whole pipeline: its "vae"), with its weights.

        Args:
            name: an `AutoencoderKL`, such as "stabilityai/stable-diffusion-3-medium-diffusers".
            tiny: an `AutoencoderTiny` to decode with, such as "madebyollin/taesd3".

        Raises:
            InputError: there is none, it is of another kind, or the two do not fit.
        """
        kl = _pretrained("AutoencoderKL", name)
        fast = None if tiny is None else _pretrained("AutoencoderTiny", tiny)
        if fast is not None and fast.config.latent_channels != kl.config.latent_channels:
            raise InputError(
                f"{tiny}: field 'latent_channels': found {fast.config.latent_channels}, expected "
                f"{kl.config.latent_channels} as in {name}; give the one made for it"
            )
        made = cls(VAEConfig(_numbers(kl.config), "" if fast is None else _numbers(fast.config)))
        made.kl.load_state_dict(kl.state_dict())
        if fast is not None and made.tiny is not None:
            made.tiny.load_state_dict(fast.state_dict())
        return made

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.kl.device

    @property
    def channels(self) -> int:
        """Latent channels, c."""
        return int(self.kl.config.latent_channels)

    @property
    def shrink(self) -> int:
        """How many times smaller the latents are on each side."""
        return self.config.shrink

    @property
    def scale(self) -> float:
        """What the posterior's mean is multiplied by."""
        return float(self.kl.config.scaling_factor)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "*n h w 3"]) -> Float[Tensor, "*n hl wl c"]:
        """Latents, frame by frame."""
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
        """Frames."""
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
    """A pretrained model of diffusers, from a folder or repository of its own or from the "vae" of a pipeline's."""
    cls, reason = _diffusers(kind), ""
    for folder in _places(kind, name):
        try:
            return cls.from_pretrained(name, low_cpu_mem_usage=False, **folder)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = hub_reason(error, name)
            if "cannot be reached" in reason:
                break  # the second try would wait for the network as long again
    raise InputError(f"{name}: found no {kind} ({reason}), expected a folder that diffusers saved or a hub name")


def _places(kind: str, name: str) -> list[dict[str, str]]:
    """Where in a folder or repository the model may lie, as arguments of `from_pretrained`."""
    if not Path(name).exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise InputError(f"{name}: found no such folder, expected an {kind} that diffusers saved, or a hub name")
        return [{"subfolder": "vae"}, {}]
    return [{"subfolder": "vae"}] if (Path(name) / "vae").is_dir() else [{}]
