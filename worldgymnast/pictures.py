"""Decode untrusted image files to uint8 RGB, as viewers show them.

Only the formats of cameras and editors are accepted; Pillow would start Ghostscript for a PostScript file of any name.

- The EXIF orientation is applied. An animation yields its first frame.
- A single channel of up to 8 bits is repeated three times. Depth maps stored this way cannot be recognized.
- A single channel of more than 8 bits, or of floats, is rejected as a depth map.
- 16-bit colors keep their upper 8 bits. CMYK and palettes become RGB; color profiles are ignored.
- Transparency is composited on white; a fully transparent picture is rejected.
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
"""Maximum number of pixels, checked before decoding: 64 Mi pixels are 192 MiB as RGB."""

_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "1", "L", "LA", "La", "RGBa")
_GRAY_PREFIXES = ("1", "L", "P")  # also match LA and PA
_DEPTH_MODES = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(source: Path | bytes, where: str | Path, *, alpha: bool = False) -> np.ndarray:
    """Decode one picture by the rules of this module.

    Args:
        source: path, or content of the file.
        where: name of the picture in error messages.
        alpha: return RGBA instead of RGB on white.

    Returns:
        uint8 [h w 3], or [h w 4] with `alpha`.

    Raises:
        InputError: the file is not a picture, damaged, fully transparent, has a format outside `FORMATS`, more than
            `MAX_PIXELS` pixels, or one channel of more than 8 bits.
    """
    if isinstance(source, Path):
        _check_file(source, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for large pictures; `_check` handles them
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                _check(image, where)
                image.load()  # rotates a TIFF and drops its orientation, which must not be applied twice
                upright = ImageOps.exif_transpose(image)
                mode = "RGBA" if alpha or upright.has_transparency_data else "RGB"
                pixels = np.array(upright.convert(mode))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        expected = ", ".join(FORMATS)
        if reason := mistaken(source[:512]) if isinstance(source, bytes) else mistaken_file(source):
            raise InputError(f"{where}: not a readable picture ({reason})") from error
        raise InputError(f"{where}: not a readable picture, expected {expected}; check the file") from error
    except Image.DecompressionBombError as error:  # raised before `_check` runs
        raise InputError(f"{where}: found too many pixels, expected at most {MAX_PIXELS:,}; scale it down") from error
    except Exception as error:  # Pillow's exceptions have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: not a readable picture ({reason}); copy it again") from error
    return on_white(pixels, where) if pixels.shape[-1] == 4 and not alpha else pixels


def on_white(rgba: np.ndarray, where: str | Path) -> np.ndarray:
    """Composite uint8 [h w 4] on white; raises InputError if it is fully transparent.

    >>> on_white(np.array([[[0, 0, 0, 255], [0, 0, 0, 51]]], np.uint8), "x.png").tolist()
    [[[0, 0, 0], [204, 204, 204]]]
    """
    if not rgba[..., 3].any():
        raise InputError(f"{where}: the picture is fully transparent; remove its alpha channel")
    rgb = np.ascontiguousarray(rgba[..., :3])
    if rgba[..., 3].min() == 255:
        return rgb
    for row, opacity in zip(rgb, rgba[..., 3:], strict=True):  # row by row, to save memory
        alpha = opacity.astype(np.uint16)
        row[:] = (row * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb


def _check_file(path: Path, where: str | Path) -> None:
    """Reject a pipe or device, which could block forever."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: found a null byte in the path; correct the path")
    if not path.is_file():
        found = "no regular file" if path.exists() else "no file"
        raise InputError(f"{where}: found {found}, expected a picture (.png, .jpg, ...); check the path")


def _check(image: Image.Image, where: str | Path) -> None:
    """Reject a picture by its header, before decoding."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: found {width} x {height} pixels, expected at most {MAX_PIXELS:,}; scale it down")
    raw = _raw_mode(image)
    is_gray = image.mode.startswith(_GRAY_PREFIXES) or raw.startswith(_GRAY_PREFIXES)
    if image.mode in _DEPTH_MODES or (is_gray and (";16" in raw or _bits(image) > 8)):
        raise InputError(
            f"{where}: found one channel of more than 8 bits (mode {image.mode}), as depth is stored, expected color "
            "or 8-bit gray; name another camera"
        )
    if image.mode not in _MODES:
        raise InputError(f"{where}: found mode {image.mode}, expected RGB; convert the picture")


def _raw_mode(image: Image.Image) -> str:
    """The file's pixel format.

    Pillow opens 16-bit gray with alpha ("LA;16B") as 8-bit RGBA.
    """
    tiles = getattr(image, "tile", None)
    mode = tiles[0].args if tiles else ""
    mode = mode[0] if isinstance(mode, tuple) and mode else mode
    return mode if isinstance(mode, str) else ""


def _bits(image: Image.Image) -> int:
    """Bits per channel from the tag of a TIFF file.

    8 for other formats.
    """
    bits = getattr(image, "tag_v2", {}).get(258, 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)
