"""Pictures that other people made, to uint8 RGB as a person sees them.

Only formats that cameras and editors write are opened: Pillow otherwise starts Ghostscript for a PostScript file,
whatever its name. The rules:

- The EXIF orientation is applied. Of an animation the first picture counts.
- One channel of 8 bits or fewer becomes three equal ones, as of a monochrome camera. Depth stored so looks the same.
- One channel of more than 8 bits, and floats, are refused: so depth is stored.
- Colors of 16 bits keep their upper 8. CMYK and palettes become RGB; color profiles are ignored.
- Transparency is laid on white; a picture that is transparent everywhere is refused.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken, mistaken_file

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64 * 2**20
"""Larger pictures are refused before they are decoded: 64 Mi pixels are 192 MiB as RGB."""

_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "1", "L", "LA", "La", "RGBa")
_GRAY = ("1", "L", "P")  # beginnings: also of LA and PA
_DEEP = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(source: Path | bytes, where: str | Path, *, alpha: bool = False) -> np.ndarray:
    """Decode one picture by the rules of this module.

    Args:
        source: a file, or the file's content.
        where: what the error message names.
        alpha: return RGBA rather than RGB on white.

    Returns:
        uint8 [h w 3], or [h w 4] with `alpha`.

    Raises:
        InputError: no picture, a format outside `FORMATS`, damaged, more than `MAX_PIXELS`, one channel of more than
            8 bits, or transparent everywhere.
    """
    if isinstance(source, Path):
        _check_file(source, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: `_check` decides
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                _check(image, where)
                image.load()  # turns a TIFF and drops its orientation: it must not be turned twice
                turned = ImageOps.exif_transpose(image)
                if alpha or turned.has_transparency_data:
                    pixels = np.array(turned.convert("RGBA"))
                else:
                    pixels = np.array(turned.convert("RGB"))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        expected = ", ".join(FORMATS)
        if said := mistaken(source[:512]) if isinstance(source, bytes) else mistaken_file(source):
            raise InputError(f"{where}: found no picture that can be read ({said})") from error
        raise InputError(f"{where}: found no picture that can be read, expected {expected}; check the file") from error
    except Image.DecompressionBombError as error:  # more than `_check` gets to see
        raise InputError(f"{where}: found too many pixels, expected at most {MAX_PIXELS:,}; scale it down") from error
    except Exception as error:  # whatever Pillow raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: found no picture that can be read ({reason}); copy it again") from error
    return on_white(pixels, where) if pixels.shape[-1] == 4 and not alpha else pixels


def on_white(rgba: np.ndarray, where: str | Path) -> np.ndarray:
    """Lay uint8 [h w 4] on white; raises InputError where nothing of it can be seen.

    >>> on_white(np.array([[[0, 0, 0, 255], [0, 0, 0, 51]]], np.uint8), "x.png").tolist()
    [[[0, 0, 0], [204, 204, 204]]]
    """
    if not rgba[..., 3].any():
        raise InputError(f"{where}: found a picture that is transparent everywhere; remove its alpha channel")
    laid = np.ascontiguousarray(rgba[..., :3])
    if rgba[..., 3].min() == 255:
        return laid
    for colors, opacity in zip(laid, rgba[..., 3:], strict=True):  # row by row, to spare memory
        wide = opacity.astype(np.uint16)
        colors[:] = (colors * wide + 255 * (255 - wide) + 127) // 255
    return laid


def _check_file(path: Path, where: str | Path) -> None:
    """A pipe or a device is refused before it is opened: reading it may never end."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: the path holds a null byte, which no file name can; correct the path")
    if not path.is_file():
        found = "no regular file" if path.exists() else "no file"
        raise InputError(f"{where}: found {found}, expected a picture (.png, .jpg, ...); check the path")


def _check(image: Image.Image, where: str | Path) -> None:
    """Refuse by what the header says, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: found {width} x {height} pixels, expected at most {MAX_PIXELS:,}; scale it down")
    raw = _raw_mode(image)
    is_gray = image.mode.startswith(_GRAY) or raw.startswith(_GRAY)
    if image.mode in _DEEP or (is_gray and (";16" in raw or _bits(image) > 8)):
        raise InputError(
            f"{where}: found one channel of more than 8 bits (mode {image.mode}), as depth is stored, expected color "
            "or 8-bit gray; name another camera"
        )
    if image.mode not in _MODES:
        raise InputError(f"{where}: found a picture of mode {image.mode}, expected RGB; convert it")


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel; Pillow opens 16-bit gray with transparency as 8-bit RGBA, from "LA;16B"."""
    tiles = getattr(image, "tile", None)
    found = tiles[0].args if tiles else ""
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, str) else ""


def _bits(image: Image.Image) -> int:
    """Bits a channel by the tag of a TIFF file; 8 for the other formats."""
    stored = getattr(image, "tag_v2", {}).get(258, 8)
    return max(stored) if isinstance(stored, tuple) else int(stored)
