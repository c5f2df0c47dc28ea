"""Distractors by an image-editing model behind any OpenAI-compatible endpoint (POST /images/edits).

This is the published method (World-Gymnast, arXiv 2602.02454) with any image-editing model. A frame is enlarged before
it is sent, and the reply must have the same size.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import UInt8

from worldgymnast.configs import Between, checked
from worldgymnast.endpoint import Endpoint, EndpointConfig, RequestFailed
from worldgymnast.errors import InputError
from worldgymnast.ledger import Ledger
from worldgymnast.pictures import open_picture
from worldgymnast.video import png, resize

PROMPT = (
    "Add {count} small everyday objects to free places of the surface in this picture of a robot's workspace. They "
    'have nothing to do with the task "{instruction}". Change nothing else: robot, objects, camera, light and '
    "background stay exactly as they are, and the robot stays in front of what it hides."
)


@checked
class RemoteEditorConfig:
    """Config of a `RemoteEditor`.

    Attributes:
        endpoint: the server and its model.
        objects: most objects in a frame; at least one.
        pixels: height and width of the picture sent and received.
        prompt: prompt in which `{count}` and `{instruction}` are replaced.
    """

    endpoint: EndpointConfig
    objects: Annotated[int, Between(1, 20)] = 3
    pixels: Annotated[int, Between(64, 4096)] = 1024
    prompt: str = PROMPT


class RemoteEditor:
    """`Editor` behind an endpoint.

    Args:
        config: the model and its prompt.
        ledger: records costs; in memory by default.
    """

    clips = False

    def __init__(self, config: RemoteEditorConfig, ledger: Ledger | None = None):
        self.config = config
        self.endpoint = Endpoint(config.endpoint, ledger)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.config.endpoint.model

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Edit the first frame.

        Raises:
            InputError: the reply is missing, is no picture, or has another size.
            BudgetSpent: the budget is used up.
        """
        pixels, where = self.config.pixels, f"{self.config.endpoint.url}: '{self.name}'"
        sent = resize(frames[0], pixels)
        count = int(rng.integers(1, self.config.objects + 1))
        prompt = self.config.prompt.replace("{count}", str(count)).replace("{instruction}", instruction)
        try:
            content = self.endpoint.edit(png(sent), prompt, size=f"{pixels}x{pixels}")
        except RequestFailed as failed:
            raise InputError(f"{where}: the server returned no edited picture ({failed}). Check the model") from failed
        try:
            edited = open_picture(content, "the reply")
        except InputError as error:
            raise InputError(f"{where}: no picture in the reply ({error}). Use another model") from error
        if edited.shape != sent.shape:
            raise InputError(
                f"{where}: found a picture of {edited.shape[1]}x{edited.shape[0]} pixels, expected {pixels}x{pixels} "
                f'as sent. Set "pixels" in the editor\'s file to a size that the model returns'
            )
        return resize(edited, (frames.shape[1], frames.shape[2]))[None]
