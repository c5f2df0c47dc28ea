"""Readers of small external files: JSON and JSON lines, and filters for hidden files.

All readers of metadata use this module. It handles byte order marks, wrong file types, endless or deeply nested files,
and the `._NAME` files of macOS in one place.
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
"""Characters of a value in a message."""
_DIGITS = 4000
"""Largest number of digits of an integer; Python's limit is 4300."""


def parse_json(
    text: str | bytes,
    where: str | Path,
    hint: str = "copy the file again",
    *,
    unique: bool = False,
    endless: bool = False,
    line: int | None = None,
) -> Any:
    """Parse JSON from an external source.

    Args:
        text: the JSON; bytes are UTF-8, with or without a byte order mark.
        where: source in error messages, such as a file.
        hint: fix, at the end of error messages.
        unique: refuse objects with duplicate fields.
        endless: read integers with too many digits as infinity instead of refusing the text.
        line: number of the line that the text is, for error messages; by default it is a whole file.

    Raises:
        InputError: the text is not JSON, not UTF-8, or nested too deeply.

    >>> parse_json(b'\\xef\\xbb\\xbf{"fps": 10}', "info.json")
    {'fps': 10}
    """
    source = where if line is None else f"{where}: line {line}"
    try:
        pairs = _each_once if unique else None
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=pairs, parse_int=_integer if endless else None)
    except _DuplicateField as error:
        raise InputError(f"{source}: field {error}: found twice, expected once. Remove one") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: is not UTF-8 text ({error}); {hint}") from error
    except json.JSONDecodeError as error:
        number = line or min(error.lineno, 1 + error.doc.rstrip().count("\n"))  # a text may end too early
        raise InputError(f"{where}: line {number} is not JSON ({error.msg}); {hint}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with too many digits
        raise InputError(f"{source}: cannot be read as JSON ({error}); {hint}") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


class _DuplicateField(Exception):
    """A duplicate field of a JSON object."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _DuplicateField(short(name))
        fields[name] = value
    return fields


def read_json(path: Path, hint: str = "copy the file again") -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, larger than 256 MiB, or not JSON; the message ends with `hint`.
    """
    return parse_json(_content(path, hint), path, hint)


def read_json_object(path: Path, hint: str = "copy the file again") -> dict[str, Any]:
    """Read a JSON file that contains an object; raises InputError otherwise."""
    return json_object(read_json(path, hint), path, hint=hint)


def read_json_lines(path: Path, hint: str = "copy the file again") -> list[dict[str, Any]]:
    """Read one JSON object per line.

    Only a line feed ends a line: U+2028, U+2029 and U+0085 are valid inside JSON strings.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object; the message names the line.
    """
    content = _content(path, hint).removeprefix(b"\xef\xbb\xbf")
    return [
        json_object(parse_json(line, path, hint, line=number), path, f"line {number}", hint)
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    ]


def json_object(value: Any, where: str | Path, name: str = "", hint: str = "copy the file again") -> dict[str, Any]:
    """Return `value` if it is a JSON object.

    Otherwise raise InputError with the field `name`.
    """
    if not isinstance(value, dict):
        field = f"{where}: field '{name}'" if name else str(where)
        raise InputError(f"{field}: found {short(value)}, expected a JSON object; {hint}")
    return value


def short(value: Any) -> str:
    """Printable text of a JSON value for messages: one line of at most 60 characters.

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
    """Sort paths, without hidden files such as `._NAME` (macOS) and `.DS_Store`.

    >>> visible([Path("b.mp4"), Path("._a.mp4"), Path("a.mp4")])
    [PosixPath('a.mp4'), PosixPath('b.mp4')]
    """
    return sorted(path for path in paths if not path.name.startswith("."))


_SIGNATURES = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run git lfs pull"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"\x93NUMPY", "it is an array written by numpy.save"),
    (b"<!doctype html", "it is a web page: download the file itself"),
    (b"<html", "it is a web page: download the file itself"),
    (b"<head", "it is a web page: download the file itself"),
    (b"<?xml", "it is XML, often a server's error page: download the file itself"),
)
_HEAD = 512


def mistaken(head: bytes) -> str:
    """Actual type of a file, from its first bytes, and the fix.

    "" if unknown.

    >>> mistaken(b"<!DOCTYPE html><html>")
    'it is a web page: download the file itself'
    """
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((text for signature, text in _SIGNATURES if head.startswith(signature.lower())), "")


def mistaken_file(path: str | Path) -> str:
    """Actual type of the file at `path`, as by `mistaken`.

    Also recognizes empty files.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return ""
    return mistaken(head) if head else "it is empty: copy it again"


def _content(path: Path, hint: str) -> bytes:
    """Bytes of a file.

    Special files (pipes, devices) are refused because they may never end.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file; {hint}")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(
                f"{path}: holds {path.stat().st_size:,} bytes, expected at most {MAX_JSON_BYTES:,}; {hint}"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: found no such file; {hint}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); {hint}") from error
    if actual := mistaken(content[:64]):
        raise InputError(f"{path}: is not JSON ({actual})")
    return content
