"""The command that takes in published weights: import-world."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.command import Command, Number, new, wrote
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.errors import InputError
from worldgymnast.registry import Manifest, save_component
from worldgymnast.run import command_line
from worldgymnast.worldmodel.objective import DiffusionConfig
from worldgymnast.worldmodel.published import read_checkpoint, transformer_config
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.vae import ImageVAE

PIXEL_CHECKPOINT = "bridge_v2_ckpt.pt"
"""The one published checkpoint with "pixel" rotary positions; older than action dropout, so without guidance."""

ACTION_DROPOUT = "actiondropout"
"""In the names of published checkpoints that were trained with action dropout, which guidance needs."""


@checked(kw_only=True)
class ImportWorld(Command):
    """A published WorldGym checkpoint (.pt) as a world model of ours: one safetensors file, image VAE included.

    Attributes:
        checkpoint: what torch saved; pickled code in it is refused.
        vae: diffusers' AutoencoderKL, a folder or a hub name.
        tiny: an AutoencoderTiny to decode with several times faster, such as TAESD3, a folder or a hub name.
        rotary: the spatial rotary positions, which the weights do not tell. Left out, "pixel" for the file
            bridge_v2_ckpt.pt, else "standard"; what was taken is printed.
        size: height and width of the frames.
        window: most frames it sees at once, the new one included.
        heads: attention heads; left out, as many as are 64 wide.
        steps: DDIM steps a frame.
        guidance: of the action against none; 1 for none, as for a checkpoint that was trained without action dropout.
            Left out, 3 where the file's name says "actiondropout", else 1; what was taken is printed.
        slide: what happens when the window slides: "recompute" as published, "band" is cheaper.
        hop: frames that leave the window at once when it slides; 1 as published; 10 is faster in a full window.
        fps: frames per second.
        half: store 16-bit floats.
        out: the file to write.
    """

    checkpoint: Positional[Path]
    vae: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    tiny: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    rotary: Annotated[Literal["standard", "pixel"] | None, tyro.conf.arg(metavar="standard|pixel")] = None
    size: tuple[Positive, Positive] = (256, 256)
    window: Positive = 20
    heads: Number = None
    steps: Positive = 10
    guidance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    slide: Literal["recompute", "band"] = "recompute"
    hop: Positive = 1
    fps: Annotated[float, Between(1e-3)] = 5.0
    half: bool = False
    out: Path

    def __call__(self) -> int:
        """Reads, checks, writes."""
        new(self.out)
        tensors = read_checkpoint(self.checkpoint)
        vae = ImageVAE.pretrained(self.vae, self.tiny)
        if self.size[0] % vae.shrink or self.size[1] % vae.shrink:
            raise InputError(f"--size: found {list(self.size)}, expected multiples of {vae.shrink} for this VAE")
        grid = (self.size[0] // vae.shrink, self.size[1] // vae.shrink)
        rotary, guidance, said = self._untold()
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
        print(said, file=sys.stderr)
        return wrote(self.out)

    def _untold(self) -> tuple[Literal["standard", "pixel"], float, str]:
        """Rotary positions and guidance, which no weight tells, and a line that says which were taken, and why."""
        name = self.checkpoint.name
        known = "by its name" if name == PIXEL_CHECKPOINT or ACTION_DROPOUT in name else "a guess: the name is unknown"
        rotary = self.rotary or ("pixel" if name == PIXEL_CHECKPOINT else "standard")
        guidance = (3.0 if ACTION_DROPOUT in name else 1.0) if self.guidance is None else self.guidance
        sources = {
            f"--rotary {rotary}": self.rotary is not None,
            f"--guidance {guidance:g}": self.guidance is not None,
        }
        said = ", ".join(f"{flag} ({'given' if given else known})" for flag, given in sources.items())
        return rotary, guidance, f"{self.checkpoint}: {said}"
