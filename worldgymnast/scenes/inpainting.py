"""Distractors by an inpainting diffusion model in this process (diffusers).

The model repaints a rectangle of free surface with an object in it. The foreground (robot and objects) is restored
afterwards, so it occludes the new object.
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

OBJECTS = (
    "a coffee mug",
    "a banana",
    "a soda can",
    "a wooden block",
    "a tennis ball",
    "a small cardboard box",
    "an apple",
    "a toy car",
    "a plastic bottle",
    "a sponge",
    "a roll of tape",
    "a cereal bowl",
)


@checked
class InpaintingConfig:
    """Config of `Inpainting`.

    Attributes:
        model: folder or hub name of an inpainting pipeline.
        objects: most objects in a frame; at least one.
        things: descriptions of objects, sampled uniformly.
        prompt: prompt in which `{thing}` is replaced.
        share: height and width of the repainted rectangle, as a share of the frame.
        pixels: height and width of the model's input.
        steps: sampling steps.
        guidance: guidance scale.
        plate: file of the empty scene; the starter's by default.
    """

    model: str
    objects: Annotated[int, Between(1, 20)] = 2
    things: Annotated[tuple[str, ...], NonEmpty] = OBJECTS
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
    """`Editor` that inpaints objects with a diffusion model.

    Args:
        config: the model and its prompts.
        plate: the empty scene.
        device: device of the model.

    Raises:
        InputError: diffusers is not installed, or the model cannot be loaded.
    """

    clips = False

    def __init__(self, config: InpaintingConfig, plate: Plate, device: str = "cpu"):
        try:
            from diffusers.pipelines.auto_pipeline import AutoPipelineForInpainting
        except ModuleNotFoundError as error:
            raise InputError(
                "The package diffusers is not installed. Inpainting needs it. Run: pip install diffusers"
            ) from error
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
        """Name of the model."""
        return self.config.model

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Inpaint objects into the first frame."""
        del instruction
        config, size = self.config, (frames.shape[1], frames.shape[2])
        plate = self.plate.resized(size)
        foreground = plate.foreground(frames)[0]
        frame = frames[0]
        for _ in range(int(rng.integers(1, config.objects + 1))):
            mask = self._sample_mask(plate.surface & (foreground < 0.5), rng)
            if mask is None:
                continue
            painted = self._inpaint(frame, mask, str(rng.choice(config.things)), int(rng.integers(2**31)))
            weight = (mask * (1 - foreground))[..., None]
            frame = np.round(frame * (1 - weight) + painted * weight).astype(np.uint8)
        return frame[None]

    def _sample_mask(self, free: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Rectangle of mostly free surface as a mask, float [h w].

        None if there is no room.
        """
        height, width = (max(2, round(self.config.share * side)) for side in free.shape)
        for _ in range(60):
            top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(free.shape, (height, width), strict=True))
            if free[top : top + height, left : left + width].mean() > 0.9:
                mask = np.zeros(free.shape, np.float32)
                mask[top : top + height, left : left + width] = 1
                return mask
        return None

    def _inpaint(self, frame: np.ndarray, mask: np.ndarray, thing: str, seed: int) -> np.ndarray:
        config = self.config
        large = Image.fromarray(resize(frame, config.pixels))
        large_mask = Image.fromarray((mask * 255).astype(np.uint8)).resize(large.size, Image.Resampling.NEAREST)
        output = self._pipeline(
            prompt=config.prompt.replace("{thing}", thing),
            image=large,
            mask_image=large_mask,
            height=config.pixels,
            width=config.pixels,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            generator=torch.Generator(self.device).manual_seed(seed),
        )
        painted = np.asarray(output.images[0].convert("RGB"))
        if painted.shape[:2] != (config.pixels, config.pixels):
            raise InputError(
                f"{self.name}: found a picture of {painted.shape[1]}x{painted.shape[0]} pixels, expected "
                f'{config.pixels}x{config.pixels}. Set "pixels" in the editor\'s file to a size that the model supports'
            )
        return resize(painted, (frame.shape[0], frame.shape[1]))
