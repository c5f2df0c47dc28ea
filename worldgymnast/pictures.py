"""Pictures that other people made, to uint8 RGB as a person sees them.

Only formats that cameras and editors write are opened: Pillow otherwise starts Ghostscript for a PostScript file,
whatever its name. The EXIF orientation is applied. A picture that holds no colors as seen by a camera (16-bit, float,
depth) is refused rather than cut to 8 bits.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from worldgymnast.types import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64 * 2**20
"""Larger pictures are refused before they are decoded: 64 Mi pixels are 192 MiB as RGB."""

_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "1", "L", "LA", "La", "RGBa")
_DEEP = "16 bits or floats in one channel, as depth is stored"


def open_picture(source: Path | bytes, where: str | Path, *, gray: bool = False, alpha: bool = False) -> np.ndarray:
    """Decode one picture, turned as its EXIF orientation says.

    Args:
        source: a file, or the file's content.
        where: what the error message names.
        gray: accept pictures of one channel (they become three equal ones).
        alpha: return RGBA rather than RGB.

    Returns:
        uint8 [h w 3], or [h w 4] with `alpha`.

    Raises:
        InputError: no picture, a format outside `FORMATS`, damaged, more than `MAX_PIXELS`, more than 8 bits a
            channel, or one channel without `gray`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                _check(image, where, gray)
                turned = ImageOps.exif_transpose(image)
                return np.array(turned.convert("RGBA" if alpha else "RGB"))
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: is no picture that can be read ({reason}); expected a PNG or JPEG") from error


def on_white(rgba: np.ndarray, where: str | Path) -> np.ndarray:
    """Lay uint8 [h w 4] on white; raises InputError where nothing of it can be seen.

    >>> on_white(np.array([[[0, 0, 0, 255], [0, 0, 0, 51]]], np.uint8), "x.png").tolist()
    [[[0, 0, 0], [204, 204, 204]]]
    """
    opacity = rgba[..., 3:].astype(np.uint16)
    if not opacity.any():
        raise InputError(f"{where}: found a picture that is transparent everywhere; remove its alpha channel")
    if opacity.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    return ((rgba[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _check(image: Image.Image, where: str | Path, gray: bool) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: found {width} x {height} pixels, expected at most {MAX_PIXELS:,}; scale it down")
    bits = image.tag_v2.get(258, 8) if hasattr(image, "tag_v2") else 8  # type: ignore[attr-defined]
    if image.mode not in _MODES or max(bits if isinstance(bits, tuple) else (bits,)) > 8:
        raise InputError(f"{where}: found a picture of mode {image.mode} ({_DEEP}), expected 8-bit RGB; name a camera")
    if image.mode in ("1", "L", "LA", "La") and not gray:
        raise InputError(f"{where}: found a picture of one channel, expected RGB; name a color camera or convert it")
