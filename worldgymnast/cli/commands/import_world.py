"""The command import-world: converts published weights."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.checks import require_new_path
from worldgymnast.cli.command import Command, OptionalPositive, print_written
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.errors import InputError
from worldgymnast.registry import Manifest, save_component
from worldgymnast.run import command_line
from worldgymnast.worldmodel.objective import DiffusionConfig
from worldgymnast.worldmodel.published import read_checkpoint, transformer_config
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.vae import ImageVAE

PIXEL_CHECKPOINT = "bridge_v2_ckpt.pt"
"""The only published checkpoint with "pixel" rotary positions; it has no action dropout, so no guidance."""

ACTION_DROPOUT = "actiondropout"
"""Part of the names of published checkpoints trained with action dropout, which guidance needs."""


@checked(kw_only=True)
class ImportWorld(Command):
    """Import a published WorldGym checkpoint (.pt) as one safetensors file.

    The image VAE is included in the file.

    Attributes:
        checkpoint: PyTorch checkpoint; pickled code in it is refused.
        vae: folder or hub name of the AutoencoderKL (diffusers).
        tiny: folder or hub name of an AutoencoderTiny, such as TAESD3, for decoding several times faster.
        rotary: spatial rotary positions, which the weights do not determine; default "pixel" for bridge_v2_ckpt.pt,
            else "standard". The choice is printed.
        size: height and width of the frames, in pixels.
        window: frames of context, including the new one.
        heads: attention heads; default one per 64 channels.
        steps: DDIM steps per frame.
        guidance: weight of classifier-free guidance on the actions; 1 for none. Default 3 if the file name contains
            "actiondropout", else 1. The choice is printed.
        slide: cache update when the window slides: "recompute" as published, or the cheaper "band".
        hop: frames dropped at once when the window slides: 1 as published; 10 is faster with a full window.
        fps: frames per second.
        half: store 16-bit floats.
        out: safetensors file to write.
    """

    checkpoint: Positional[Path]
    vae: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    tiny: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    rotary: Annotated[Literal["standard", "pixel"] | None, tyro.conf.arg(metavar="standard|pixel")] = None
    size: tuple[Positive, Positive] = (256, 256)
    window: Positive = 20
    heads: OptionalPositive = None
    steps: Positive = 10
    guidance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    slide: Literal["recompute", "band"] = "recompute"
    hop: Positive = 1
    fps: Annotated[float, Between(1e-3)] = 5.0
    half: bool = False
    out: Path

    def __call__(self) -> int:
        """Read, check and write the world model."""
        require_new_path(self.out)
        tensors = read_checkpoint(self.checkpoint)
        vae = ImageVAE.pretrained(self.vae, self.tiny)
        if self.size[0] % vae.shrink or self.size[1] % vae.shrink:
            raise InputError(f"--size: found {list(self.size)}, expected multiples of {vae.shrink} for this VAE")
        grid = (self.size[0] // vae.shrink, self.size[1] // vae.shrink)
        rotary, guidance, choices = self._settings()
        transformer = transformer_config(
            tensors, self.checkpoint, grid=grid, window=self.window, rotary=rotary, heads=self.heads
        )
        if transformer.channels != vae.channels:
            raise InputError(
                f"{self.vae}: field 'latent_channels': found {vae.channels}, expected {transformer.channels} as in "
                f"{self.checkpoint}. Give the VAE it was trained with"
            )
        if transformer.action_dim != WORLDGYM.dim:
            raise InputError(
                f"{self.checkpoint}: field 'action_embedder.weight': found actions {transformer.action_dim} wide, "
                f"expected {WORLDGYM.dim}: {WORLDGYM}"
            )
        config = WorldModelConfig(
            vae.config,
            transformer,
            DiffusionConfig(),
            steps=self.steps,
            guidance=guidance,
            slide=self.slide,
            hop=self.hop,
        )
        world = LatentWorldModel(config, WORLDGYM, self.fps)
        world.transformer.load_state_dict(tensors)
        world.autoencoder.load_state_dict(vae.state_dict())
        with self.checkpoint.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        save_component(self.out, world, Manifest(command_line(), 0, digest), half=self.half)
        print(choices, file=sys.stderr)
        return print_written(self.out)

    def _settings(self) -> tuple[Literal["standard", "pixel"], float, str]:
        """Choose rotary positions and guidance, and describe the choice."""
        name = self.checkpoint.name
        has_known_name = name == PIXEL_CHECKPOINT or ACTION_DROPOUT in name
        reason = "from the file name" if has_known_name else "a guess: unknown file name"
        rotary = self.rotary or ("pixel" if name == PIXEL_CHECKPOINT else "standard")
        guidance = self.guidance
        if guidance is None:
            guidance = 3.0 if ACTION_DROPOUT in name else 1.0
        is_given = {
            f"--rotary {rotary}": self.rotary is not None,
            f"--guidance {guidance:g}": self.guidance is not None,
        }
        choices = ", ".join(f"{flag} ({'given' if given else reason})" for flag, given in is_given.items())
        return rotary, guidance, f"{self.checkpoint}: {choices}"
