"""Small files that other people wrote: JSON, JSON lines, and which files of a folder count.

Every reader of metadata goes through here, so that a byte order mark, a file of the wrong kind, an endless or deeply
nested file, and the `._NAME` files that macOS leaves behind are handled once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError

MAX_JSON_BYTES = 256 * 2**20
_SHOWN = 60
_DIGITS = 4000
"""Of an integer; Python reads 4300."""


def parse_json(
    text: str | bytes,
    where: str | Path,
    hint: str = "copy the file again",
    *,
    unique: bool = False,
    endless: bool = False,
) -> Any:
    """Parse JSON from a stranger.

    Args:
        text: the JSON; bytes are UTF-8, with or without a byte order mark.
        where: what the error message names, a file for example.
        hint: what to do about it, the end of the error message.
        unique: refuse an object that names a field twice, of which JSON keeps the last.
        endless: read an integer of more digits than Python reads as infinity rather than refuse all of it.

    Raises:
        InputError: it is not JSON, not UTF-8, or nested too deeply.

    >>> parse_json(b'\\xef\\xbb\\xbf{"fps": 10}', "info.json")
    {'fps': 10}
    """
    try:
        pairs = _each_once if unique else None
        whole = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(whole, object_pairs_hook=pairs, parse_int=_integer if endless else None)
    except _Twice as error:
        raise InputError(f"{where}: field {error}: found twice, expected once; remove one") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text ({error}); {hint}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: line {error.lineno} is not JSON ({error.msg}); {hint}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of more digits than Python reads
        raise InputError(f"{where}: cannot be read as JSON ({error}); {hint}") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


class _Twice(Exception):
    """A field that a JSON object has more than once."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(short(name))
        found[name] = value
    return found


def read_json(path: Path, hint: str = "copy the file again") -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, larger than 256 MiB, or not JSON; the message ends in `hint`.
    """
    return parse_json(_content(path, hint), path, hint)


def read_json_object(path: Path, hint: str = "copy the file again") -> dict[str, Any]:
    """Read a JSON file that must hold an object; raises InputError otherwise."""
    return json_object(read_json(path, hint), path, hint=hint)


def read_json_lines(path: Path, hint: str = "copy the file again") -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Only a line feed ends a line: U+2028, U+2029 and U+0085 may stand unescaped inside a JSON string.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object; the message names the line.
    """
    content = _content(path, hint).removeprefix(b"\xef\xbb\xbf")
    return [
        json_object(parse_json(line, f"{path}: line {number}", hint), path, f"line {number}", hint)
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    ]


def json_object(value: Any, where: str | Path, name: str = "", hint: str = "copy the file again") -> dict[str, Any]:
    """Return `value`, which must be a JSON object; raises InputError that names the field `name`."""
    if not isinstance(value, dict):
        field = f"{where}: field '{name}'" if name else str(where)
        raise InputError(f"{field}: found {short(value)}, expected a JSON object; {hint}")
    return value


def short(value: Any) -> str:
    """A JSON value as it appears in a message: one line of at most 60 characters that can be printed.

    >>> short("half a pair: \\ud800")
    '"half a pair: \\\\ud800"'
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value).__name__)
    text = text[: 2 * _SHOWN]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths, sorted, without hidden files such as `._NAME` (macOS) and `.DS_Store`.

    >>> visible([Path("b.mp4"), Path("._a.mp4"), Path("a.mp4")])
    [PosixPath('a.mp4'), PosixPath('b.mp4')]
    """
    return sorted(path for path in paths if not path.name.startswith("."))


_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer stands in its place: run git lfs pull"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"\x93NUMPY", "it is one array as numpy.save writes it"),
    (b"<!doctype html", "it is a web page: download the file itself"),
    (b"<html", "it is a web page: download the file itself"),
    (b"<head", "it is a web page: download the file itself"),
    (b"<?xml", "it is XML, often the error of a server: download the file itself"),
)
_HEAD = 512


def mistaken(head: bytes) -> str:
    """Name what a file really is by its first bytes, and what to do; "" where that is not known.

    >>> mistaken(b"<!DOCTYPE html><html>")
    'it is a web page: download the file itself'
    """
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((said for magic, said in _SIGNATURES if head.startswith(magic.lower())), "")


def mistaken_file(path: str | Path) -> str:
    """Name what the file at `path` really is, as `mistaken` does; an empty file counts, too."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return ""
    return mistaken(head) if head else "it is empty: copy it again"


def _content(path: Path, hint: str) -> bytes:
    """The file's bytes; a special file (a pipe, a device) is refused, it may never end."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file; {hint}")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(
                f"{path}: holds {path.stat().st_size:,} bytes, expected at most {MAX_JSON_BYTES:,}; {hint}"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); {hint}") from error
    if said := mistaken(content[:64]):
        raise InputError(f"{path}: is not JSON ({said})")
    return content
