"""Values of other people's environments: paths into observations, frames, states and success.

Environments give dictionaries, torch tensors, batches of one row, channels first, floats. These functions convert what
has one meaning, and refuse the rest with one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldgymnast.errors import InputError

_CHANNELS = (1, 3, 4)
_ANY = "*"


def find(values: Any, path: str) -> Any:
    """Value at a dotted path, or None.

    A key may contain dots. "*" stands for every key: the result is then a dictionary by these keys.

    >>> find({"pixels": {"top": 1}}, "pixels.top"), find({"a.b": {"c": 2}}, "a.b.c"), find({}, "a")
    (1, 2, None)
    >>> find({"sensor_data": {"base": {"rgb": 1}, "hand": {"rgb": 2}}}, "sensor_data.*.rgb")
    {'base': 1, 'hand': 2}
    """
    if not path:
        return values
    if not isinstance(values, Mapping):
        return None
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    if head == _ANY:
        found = {str(key): find(inner, rest) for key, inner in values.items()}
        return {key: value for key, value in found.items() if value is not None} or None
    while rest:
        if head in values:
            return find(values[head], rest)
        more, _, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def keys_of(values: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all values in nested dictionaries.

    >>> keys_of({"pixels": {"top": 1}, "agent_pos": 2})
    ['pixels.top', 'agent_pos']
    """
    if not isinstance(values, Mapping):
        return [prefix] if prefix else []
    return [path for key, inner in values.items() for path in keys_of(inner, f"{prefix}.{key}" if prefix else str(key))]


def as_array(value: Any) -> np.ndarray:
    """NumPy array of an array or tensor on any device."""
    for step in ("detach", "cpu"):
        value = getattr(value, step)() if hasattr(value, step) else value
    return np.asarray(value)


def describe_array(value: Any) -> str:
    """Type and shape of a value, for messages.

    >>> describe_array(np.zeros((3, 4, 4), np.float32)), describe_array(None), describe_array({"a": 1})
    ('float32 [3, 4, 4]', 'nothing', 'dict')
    """
    if value is None:
        return "nothing"
    if not hasattr(value, "shape"):
        return type(value).__name__
    array = as_array(value)
    return f"{array.dtype} {list(array.shape)}"


def as_frame(value: Any, where: str) -> np.ndarray:
    """Picture uint8 [h w 3] of what an environment calls a picture.

    A batch of one row, channels first, gray, transparency and floats from 0 to 1 are converted.

    Raises:
        InputError: the value has another meaning or none.

    >>> as_frame(np.ones((1, 3, 8, 6), np.float32), "image").shape
    (8, 6, 3)
    >>> as_frame(np.full((8, 6, 3), 200.0), "image")
    Traceback (most recent call last):
    worldgymnast.errors.InputError: image: found floats up to 200, expected uint8, or floats from 0 to 1. Convert it ...
    """
    if value is None or isinstance(value, Mapping | str):
        raise InputError(f"{where}: found {describe_array(value)}, expected a picture [h w 3]")
    picture = as_array(value)
    shape = list(picture.shape)
    if picture.ndim == 4:
        if len(picture) != 1:
            raise InputError(
                f"{where}: found a batch of {len(picture)} pictures {shape}. Make the environment with 1 row"
            )
        picture = picture[0]
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim == 3 and picture.shape[-1] not in _CHANNELS and picture.shape[0] in _CHANNELS:
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[-1] not in _CHANNELS or 0 in picture.shape:
        raise InputError(f"{where}: found {picture.dtype} {shape}, expected a picture [h w 3]. Choose another key")
    return np.ascontiguousarray(_as_rgb(_as_bytes(picture, where)))


def _as_bytes(picture: np.ndarray, where: str) -> np.ndarray:
    """Convert numbers from 0 to 1, or from 0 to 255, to uint8."""
    if picture.dtype == np.uint8:
        return picture
    low, high = (float(picture.min()), float(picture.max())) if picture.dtype != bool else (0.0, 0.0)
    if np.issubdtype(picture.dtype, np.floating):
        if 0 <= low <= high <= 1:
            return (picture * 255).round().astype(np.uint8)
        beyond = f"down to {low:.6g}" if low < 0 else f"up to {high:.6g}"
        raise InputError(
            f"{where}: found floats {beyond}, expected uint8, or floats from 0 to 1. Convert it in the environment"
        )
    if np.issubdtype(picture.dtype, np.integer) and 0 <= low <= high <= 255:
        return picture.astype(np.uint8)
    raise InputError(
        f"{where}: found {picture.dtype} from {low:.6g} to {high:.6g}, expected uint8 RGB. A mask or depth map is no "
        "picture; choose another key"
    )


def _as_rgb(picture: np.ndarray) -> np.ndarray:
    """Repeat a gray channel; put transparency on white."""
    if picture.shape[-1] == 1:
        return np.repeat(picture, 3, axis=-1)
    if picture.shape[-1] == 3 or (picture[..., 3] == 255).all():
        return picture[..., :3]
    alpha = picture[..., 3:].astype(np.float64) / 255
    return (picture[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def as_state(value: Any, where: str) -> np.ndarray:
    """Proprioception float32 [s]; a dictionary is joined in the order of its keys.

    Raises:
        InputError: the value is no vector of numbers.

    >>> as_state({"joints": np.zeros((1, 6)), "gripper": 0.5}, "state").shape
    (7,)
    """
    parts = list(value.values()) if isinstance(value, Mapping) else [value]
    vectors = []
    for part in parts:
        try:
            array = as_array(part).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: found {describe_array(part)}, expected numbers [s]") from error
        array = array[0] if array.ndim == 2 and len(array) == 1 else array
        if array.ndim > 1:
            raise InputError(f"{where}: found {describe_array(part)}, expected numbers [s]")
        vectors.append(array.reshape(-1))
    return np.concatenate(vectors) if vectors else np.zeros(0, np.float32)


def as_success(value: Any) -> bool | None:
    """Success that an environment reports; None if it is unknown.

    >>> as_success(np.array([True])), as_success(None), as_success("success"), as_success(float("nan"))
    (True, None, True, None)
    """
    if isinstance(value, str):
        return value == "success"
    if value is None:
        return None
    array = as_array(value).reshape(-1)
    if len(array) != 1 or array[0] is None:
        return None
    number = float(array[0])
    return None if np.isnan(number) else bool(number)


def as_number(value: Any) -> float:
    """One number, such as a reward or progress; NaN for none."""
    try:
        return float(as_array(value).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return float("nan")


def as_sentences(value: Any) -> tuple[str, ...]:
    """Sentences of a text, a list of texts or a batch of one.

    >>> as_sentences("lift the cube"), as_sentences(["lift it", " "]), as_sentences(None)
    (('lift the cube',), ('lift it',), ())
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(sentence for one in value for sentence in as_sentences(one))
    return ()
