"""Several cameras in one frame, and back.

World models, judges and data see one frame per time step. The cameras of a robot are tiled into it, and untiled for a
policy that asks for cameras by name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.preprocessing import Resize, Size, fit, resize, sides

ONE_CAMERA = "image"
"""Name of the only camera; the same as `types.IMAGE`."""
_UNNAMED = ("observation.images.camera",)
"""Names of the only camera in recordings of this project."""
Frames = TypeVar("Frames", np.ndarray, Tensor)


class Box(NamedTuple):
    """Part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True)
class Tiling:
    """Where each camera lies in a frame.

    Attributes:
        size: height and width of the frame.
        boxes: part of the frame by name of the camera, in order.

    Raises:
        InputError: there is no camera, or a box is empty, outside of the frame, or overlaps another.

    >>> tiling = Tiling.side_by_side({"front": (64, 64), "wrist": (64, 48)})
    >>> tiling.size, tiling.cameras, tiling["wrist"]
    ((64, 112), ('front', 'wrist'), Box(top=0, left=64, height=64, width=48))
    >>> frames = np.zeros((5, 64, 112, 3), np.uint8)
    >>> {name: part.shape for name, part in tiling.untile(frames).items()}
    {'front': (5, 64, 64, 3), 'wrist': (5, 64, 48, 3)}
    >>> bool((tiling.tile(tiling.untile(frames)) == frames).all()), Tiling.from_json(tiling.to_json()) == tiling
    (True, True)
    """

    size: tuple[int, int]
    boxes: Mapping[str, Box]

    def __post_init__(self) -> None:
        boxes = {str(name): Box(*(int(side) for side in box)) for name, box in self.boxes.items()}
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "boxes", MappingProxyType(boxes))
        if not boxes:
            raise InputError("tiling: found no camera, expected at least one")
        taken = np.zeros([max(0, side) for side in self.size], bool)
        for name, (top, left, height, width) in boxes.items():
            inside = 0 <= top < top + height <= self.size[0] and 0 <= left < left + width <= self.size[1]
            if not inside or taken[top : top + height, left : left + width].any():
                problem = "overlaps another camera" if inside else "is empty or outside"
                raise InputError(
                    f"tiling: camera '{name}' at top {top}, left {left} with {height}x{width} pixels {problem}, in a "
                    f"frame of {self.size[0]}x{self.size[1]} pixels. Give each camera a part of its own"
                )
            taken[top : top + height, left : left + width] = True

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:  # a MappingProxyType cannot be pickled
        return Tiling, (self.size, dict(self.boxes))

    def __getitem__(self, camera: str) -> Box:
        """Box of a camera.

        Raises:
            InputError: the camera is not in the frame.
        """
        self.require([camera])
        return self.boxes[self.find(camera) or camera]

    def find(self, camera: str) -> str | None:
        """Name in the frame of a camera, given as a whole or by its last part; None if there is no such one.

        >>> Tiling.single(8, "observation.images.top").find("top")
        'observation.images.top'
        >>> Tiling.single(8, "top").find("observation.images.top")
        'top'
        """
        if camera in self.boxes:
            return camera
        matches = [name for name in self.boxes if name.endswith(f".{camera}") or camera.endswith(f".{name}")]
        return matches[0] if len(matches) == 1 else None

    @property
    def names_cameras(self) -> bool:
        """Whether the names say more than that there is one camera."""
        return len(self.boxes) > 1 or not {*self.boxes} <= {ONE_CAMERA, *_UNNAMED}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(self.boxes)

    @classmethod
    def single(cls, size: Size, camera: str = ONE_CAMERA) -> Tiling:
        """The tiling of a frame that is one camera's picture.

        >>> Tiling.single(64).cameras
        ('image',)
        """
        return cls(sides(size), {camera: Box(0, 0, *sides(size))})

    @classmethod
    def side_by_side(cls, sizes: Mapping[str, tuple[int, int]]) -> Tiling:
        """Cameras from left to right, each scaled to the height of the first.

        Args:
            sizes: height and width of each camera's pictures, in order.

        >>> Tiling.side_by_side({"front": (48, 64), "wrist": (96, 96)}).boxes["wrist"]
        Box(top=0, left=64, height=48, width=48)
        """
        boxes, left, height = dict[str, Box](), 0, next(iter(sizes.values()), (1, 1))[0]
        for name, (own_height, own_width) in sizes.items():
            width = max(1, round(own_width * height / own_height))
            boxes[name] = Box(0, left, height, width)
            left += width
        return cls((height, left), boxes)

    def resized(self, size: Size | None) -> Tiling:
        """The tiling after the whole frame is resized; None keeps it.

        >>> Tiling.side_by_side({"front": (480, 640), "wrist": (480, 480)}).resized(64)["front"]
        Box(top=0, left=0, height=64, width=37)
        """
        if size is None or sides(size) == self.size:
            return self
        height, width = sides(size)

        def scaled(start: int, length: int, old: int, new: int) -> tuple[int, int]:
            first = min(new - 1, round(start * new / old))
            return first, max(1, round((start + length) * new / old) - first)

        boxes = {}
        for name, box in self.boxes.items():
            top, tall = scaled(box.top, box.height, self.size[0], height)
            left, wide = scaled(box.left, box.width, self.size[1], width)
            boxes[name] = Box(top, left, tall, wide)
        return Tiling((height, width), boxes)

    def require(self, cameras: Sequence[str], who: str = "camera") -> None:
        """Raise InputError unless these cameras are in the frame.

        >>> Tiling.single(8, "front").require(["frnt"], "rl")
        Traceback (most recent call last):
        worldgymnast.errors.InputError: rl: camera 'frnt' is not in the frame, which has front. Did you mean 'front'?
        """
        if missing := [name for name in cameras if self.find(name) is None]:
            parts = {name.rpartition(".")[2]: name for name in self.boxes}
            close = difflib.get_close_matches(missing[0], [*self.boxes, *parts], n=1)
            advice = f"Did you mean '{close[0]}'?" if close else "Use cameras of these names, in data and components"
            raise InputError(
                f"{who}: camera '{missing[0]}' is not in the frame, which has {', '.join(self.boxes)}. {advice}"
            )

    def tile(self, pictures: Mapping[str, Frames], rule: Resize = "squash") -> Frames:
        """Place the cameras' pictures uint8 [... h w 3] in one frame.

        Pictures of another size than their box are resized by `rule`. Pixels outside of all boxes are black.

        Raises:
            InputError: a camera is missing or unknown, or a picture's dtype or shape is wrong.
        """
        self.require(list(pictures), "tile")
        pictures = {self.find(name) or name: picture for name, picture in pictures.items()}
        if missing := [name for name in self.boxes if name not in pictures]:
            raise InputError(f"tile: found no picture of camera {', '.join(missing)}, expected {', '.join(self.boxes)}")
        first = next(iter(pictures.values()))
        if isinstance(first, Tensor):
            arrays = {name: np.asarray(torch.as_tensor(picture).cpu()) for name, picture in pictures.items()}
            return torch.from_numpy(self.tile(arrays, rule)).to(first.device)
        frame: Any = np.zeros((*first.shape[:-3], *self.size, 3), np.uint8)
        for name, box in self.boxes.items():
            picture: Any = pictures[name]
            if picture.dtype != np.uint8 or picture.shape[-1] != 3 or picture.shape[:-3] != first.shape[:-3]:
                raise InputError(
                    f"tile: camera '{name}' has {picture.dtype} {list(picture.shape)}, expected uint8 "
                    f"{[*first.shape[:-3], *box.size, 3]}"
                )
            frame[..., box.top : box.top + box.height, box.left : box.left + box.width, :] = fit(
                picture, box.size, rule
            )
        return frame

    def untile(self, frames: Frames, cameras: Sequence[str] | None = None) -> dict[str, Frames]:
        """Return views of frames [... h w 3] by name of the camera.

        Args:
            frames: of this tiling's size.
            cameras: the cameras to return; all by default.

        Raises:
            InputError: the frames have another size, or a camera is unknown.
        """
        names = self.cameras if cameras is None else tuple(cameras)
        self.require(names, "untile")
        if tuple(frames.shape[-3:-1]) != self.size:
            height, width = frames.shape[-3:-1]
            raise InputError(
                f"untile: found frames of {height}x{width} pixels, expected {self.size[0]}x{self.size[1]}, in which "
                f"the cameras {', '.join(self.boxes)} lie"
            )
        parts = {}
        for name in names:
            top, left, height, width = self[name]
            parts[name] = frames[..., top : top + height, left : left + width, :]
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in a component's file."""
        return {"size": list(self.size), "boxes": {name: list(box) for name, box in self.boxes.items()}}

    @classmethod
    def from_dict(cls, data: object, where: str = "tiling") -> Tiling:
        """Tiling of plain values.

        Raises:
            InputError: they are not those of `to_dict`; the message begins with `where`.
        """
        try:
            content: Any = data
            height, width = content["size"]
            boxes = {name: Box(*box) for name, box in content["boxes"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            expected = '{"size": [h, w], "boxes": {"CAMERA": [top, left, height, width]}}'
            raise InputError(f"{where}: found {str(data)[:80]}, expected {expected}") from error
        try:
            return cls((height, width), boxes)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {error}") from error

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, where: str = "tiling") -> Tiling:
        """Tiling of `to_json`.

        Raises:
            InputError: the text is not that of `to_json`.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where}: found no JSON ({error})") from error
        return cls.from_dict(data, where)


def check_cameras(cameras: Sequence[str], tiling: Tiling | None, who: str) -> None:
    """Raise InputError unless a frame has these cameras; "image" alone is the whole frame.

    Args:
        cameras: names of the cameras that are needed.
        tiling: of the frame; None if it is unknown.
        who: what needs them, for the message.
    """
    if tuple(cameras) == (ONE_CAMERA,):
        return
    if tiling is None:
        raise InputError(
            f"{who} needs the cameras {', '.join(cameras)}, but the frame is one picture without known cameras. Name "
            "the cameras when reading data (--image-key NAME NAME), and use an environment and a world model with them"
        )
    tiling.require(cameras, who)


def see(frames: Frames, cameras: Sequence[str], tiling: Tiling | None) -> dict[str, Frames]:
    """Frames [... h w 3] as a policy sees them: by name of the camera; "image" alone is the whole frame.

    >>> frames = np.zeros((2, 8, 16, 3), np.uint8)
    >>> two = Tiling.side_by_side({"front": (8, 8), "hand": (8, 8)})
    >>> {name: part.shape for name, part in see(frames, ["hand"], two).items()}
    {'hand': (2, 8, 8, 3)}
    >>> see(frames, ["image"], two)["image"].shape
    (2, 8, 16, 3)
    """
    if tuple(cameras) == (ONE_CAMERA,):
        return {ONE_CAMERA: frames}
    check_cameras(cameras, tiling, "policy")
    assert tiling is not None
    return tiling.untile(frames, cameras)


def picture_sizes(cameras: Sequence[str], size: tuple[int, int], tiling: Tiling | None) -> tuple[tuple[int, int], ...]:
    """Height and width of the picture of each camera, as `see` gives them.

    >>> two = Tiling.side_by_side({"front": (8, 8), "hand": (8, 6)})
    >>> picture_sizes(["hand", "front"], two.size, two), picture_sizes(["image"], two.size, two)
    (((8, 6), (8, 8)), ((8, 14),))
    """
    if tuple(cameras) == (ONE_CAMERA,):
        return (size,)
    check_cameras(cameras, tiling, "policy")
    assert tiling is not None
    return tuple(tiling[name].size for name in cameras)


def composed_tiling(sizes: Mapping[str, tuple[int, int]], size: Size | None = None) -> Tiling:
    """The tiling of the frame that `compose` makes of pictures of these sizes."""
    return Tiling.side_by_side(sizes).resized(size)


def compose(pictures: Mapping[str, np.ndarray], size: Size | None = None, rule: Resize = "squash") -> np.ndarray:
    """Make one frame of one picture uint8 [h w 3] per camera.

    Args:
        pictures: by name of the camera; several are placed side by side, each at the height of the first.
        size: pixels of the frame; by default those that result.
        rule: what happens if the aspect ratio differs. "squash" resizes the joined picture; "crop" and "pad" are
            applied to each camera, for its part of the frame.

    >>> two = {"front": np.zeros((48, 64, 3), np.uint8), "wrist": np.zeros((96, 96, 3), np.uint8)}
    >>> compose(two).shape, compose(two, (64, 128), "crop").shape
    ((48, 112, 3), (64, 128, 3))
    """
    if len(pictures) == 1:
        (picture,) = pictures.values()
        return picture if size is None else fit(picture, size, rule)
    sizes = {name: (picture.shape[0], picture.shape[1]) for name, picture in pictures.items()}
    joined = Tiling.side_by_side(sizes)
    if rule == "squash" or size is None:
        frame = joined.tile(pictures)
        return frame if size is None else resize(frame, size)
    return joined.resized(size).tile(pictures, rule)
