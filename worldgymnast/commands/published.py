"""The command that takes in published weights: import-world."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from worldgymnast.actions import WORLDGYM
from worldgymnast.commands.command import Command, new, wrote
from worldgymnast.config import Manifest, save_component
from worldgymnast.run import command_line
from worldgymnast.types import InputError, in_range
from worldgymnast.worldmodel.objective import DiffusionConfig
from worldgymnast.worldmodel.published import read_checkpoint, transformer_config
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.vae import ImageVAE

PIXEL_CHECKPOINT = "bridge_v2_ckpt.pt"
"""The one published checkpoint with "pixel" rotary positions."""


@dataclass(frozen=True, kw_only=True)
class ImportWorld(Command):
    """A published WorldGym checkpoint (.pt) as a world model of ours: one safetensors file, image VAE included.

    Attributes:
        checkpoint: what torch saved; pickled code in it is refused.
        vae: diffusers' AutoencoderKL, a folder or a hub name.
        tiny: an AutoencoderTiny to decode with several times faster, such as TAESD3, a folder or a hub name.
        rotary: the spatial rotary positions; left out, "pixel" for the file bridge_v2_ckpt.pt, else "standard".
        size: height and width of the frames.
        window: most frames it sees at once, the new one included.
        heads: attention heads; left out, as many as are 64 wide.
        steps: DDIM steps a frame.
        guidance: of the action against none; 1 for none.
        slide: what happens when the window slides: "recompute" as published, "band" is cheaper.
        fps: frames per second.
        half: store 16-bit floats.
        out: the file to write.
    """

    checkpoint: Positional[Path]
    vae: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    tiny: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    rotary: Annotated[Literal["standard", "pixel"] | None, tyro.conf.arg(metavar="standard|pixel")] = None
    size: tuple[int, int] = (256, 256)
    window: int = 20
    heads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    steps: int = 10
    guidance: float = 3.0
    slide: Literal["recompute", "band"] = "recompute"
    fps: float = 5.0
    half: bool = False
    out: Path

    def __post_init__(self) -> None:
        in_range(self, 1, "size", "window", "steps", *(["heads"] if self.heads is not None else []))
        in_range(self, 1e-3, "fps")

    def __call__(self) -> int:
        """Reads, checks, writes."""
        new(self.out)
        tensors = read_checkpoint(self.checkpoint)
        vae = ImageVAE.pretrained(self.vae, self.tiny)
        if self.size[0] % vae.shrink or self.size[1] % vae.shrink:
            raise InputError(f"--size: found {list(self.size)}, expected multiples of {vae.shrink} for this VAE")
        grid = (self.size[0] // vae.shrink, self.size[1] // vae.shrink)
        rotary = self.rotary or ("pixel" if self.checkpoint.name == PIXEL_CHECKPOINT else "standard")
        transformer = transformer_config(
            tensors, self.checkpoint, grid=grid, window=self.window, rotary=rotary, heads=self.heads
        )
        if transformer.channels != vae.channels:
            raise InputError(
                f"{self.vae}: field 'latent_channels': found {vae.channels}, expected {transformer.channels} as in "
                f"{self.checkpoint}; give the VAE it was trained with"
            )
        if transformer.action_dim != WORLDGYM.dim:
            raise InputError(
                f"{self.checkpoint}: field 'action_embedder.weight': found actions {transformer.action_dim} wide, "
                f"expected {WORLDGYM.dim}: {WORLDGYM}"
            )
        config = WorldModelConfig(
            vae.config, transformer, DiffusionConfig(), steps=self.steps, guidance=self.guidance, slide=self.slide
        )
        world = LatentWorldModel(config, WORLDGYM, self.fps)
        world.transformer.load_state_dict(tensors)
        world.autoencoder.load_state_dict(vae.state_dict())
        with self.checkpoint.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        save_component(self.out, world, Manifest(command_line(), 0, digest), half=self.half)
        return wrote(self.out)
