"""Distractors by an inpainting diffusion model in this process (diffusers).

A rectangle of free surface is painted anew with an object in it; robot and everything else that stands before the
plate is put back afterwards, so it hides the object as it should.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from worldgymnast.configs import Between, NonEmpty, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.hub import hub_reason
from worldgymnast.scenes.plate import Plate
from worldgymnast.video import resize

THINGS = (
    "a coffee mug", "a banana", "a soda can", "a wooden block", "a tennis ball", "a small cardboard box", "an apple",
    "a toy car", "a plastic bottle", "a sponge", "a roll of tape", "a cereal bowl",
)  # fmt: skip


@checked
class InpaintingConfig:
    """What paints.

    Attributes:
        model: folder or hub name of a pipeline for inpainting.
        objects: most objects in a frame; at least one.
        things: what is painted, drawn from.
        prompt: `{thing}` is filled in.
        share: height and width of what is painted anew, as a share of the frame's.
        pixels: height and width of the picture that the model sees.
        steps: of sampling.
        guidance: of sampling.
        plate: the empty scene's file; the starter's if left out.
    """

    model: str
    objects: Annotated[int, Between(1, 20)] = 2
    things: Annotated[tuple[str, ...], NonEmpty] = THINGS
    prompt: str = "{thing} standing on a table, photograph"
    share: Annotated[float, Between(0.05, 0.5)] = 0.2
    pixels: Annotated[int, Between(16, 4096)] = 512
    steps: Annotated[int, Between(1, 1000)] = 30
    guidance: Annotated[float, Between(0, 1000)] = 7.5
    plate: str = ""

    def __post_init__(self) -> None:
        if self.pixels % 8:
            raise FieldError("pixels", f"found {self.pixels}, expected a multiple of 8, such as 512")


class Inpainting:
    """An `Editor` that paints.

    Args:
        config: what.
        plate: the empty scene.
        device: where.
    """

    clips = False

    def __init__(self, config: InpaintingConfig, plate: Plate, device: str = "cpu"):
        try:
            from diffusers.pipelines.auto_pipeline import AutoPipelineForInpainting
        except ModuleNotFoundError as error:
            raise InputError("diffusers: found none, expected it for inpainting; run: pip install diffusers") from error
        self.config, self.plate, self.device = config, plate, device
        load: Any = AutoPipelineForInpainting.from_pretrained
        try:
            self._pipeline = load(config.model).to(device)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{config.model}: found no pipeline for inpainting ({hub_reason(error, config.model)}), expected a "
                "folder or hub name of one, such as stabilityai/stable-diffusion-2-inpainting"
            ) from error
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def name(self) -> str:
        """The model."""
        return self.config.model

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """See `Editor.edit`."""
        del instruction
        config, size = self.config, (frames.shape[1], frames.shape[2])
        plate = self.plate.at(size)
        before = plate.foreground(frames)[0]
        shown = frames[0]
        for _ in range(int(rng.integers(1, config.objects + 1))):
            mask = self._rectangle(plate.surface & (before < 0.5), rng)
            if mask is None:
                continue
            painted = self._painted(shown, mask, str(rng.choice(config.things)), int(rng.integers(2**31)))
            weight = (mask * (1 - before))[..., None]
            shown = np.round(shown * (1 - weight) + painted * weight).astype(np.uint8)
        return shown[None]

    def _rectangle(self, free: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Where to paint, float [h w]; mostly free surface, or None where there is no room."""
        height, width = (max(2, round(self.config.share * side)) for side in free.shape)
        for _ in range(60):
            top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(free.shape, (height, width), strict=True))
            if free[top : top + height, left : left + width].mean() > 0.9:
                mask = np.zeros(free.shape, np.float32)
                mask[top : top + height, left : left + width] = 1
                return mask
        return None

    def _painted(self, frame: np.ndarray, mask: np.ndarray, thing: str, seed: int) -> np.ndarray:
        config = self.config
        large = Image.fromarray(resize(frame, config.pixels))
        where = Image.fromarray((mask * 255).astype(np.uint8)).resize(large.size, Image.Resampling.NEAREST)
        answer = self._pipeline(
            prompt=config.prompt.replace("{thing}", thing),
            image=large,
            mask_image=where,
            height=config.pixels,
            width=config.pixels,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            generator=torch.Generator(self.device).manual_seed(seed),
        )
        painted = np.asarray(answer.images[0].convert("RGB"))
        if painted.shape[:2] != (config.pixels, config.pixels):
            raise InputError(
                f"{self.name}: found a picture of {painted.shape[1]}x{painted.shape[0]} pixels, expected "
                f'{config.pixels}x{config.pixels}; set "pixels" in the editor\'s file to a size that the model paints'
            )
        return resize(painted, (frame.shape[0], frame.shape[1]))
