"""Read TFRecord files and their `tf.train.Example` messages without TensorFlow.

A record is: length (uint64), masked CRC-32C of the length, the bytes, masked CRC-32C of the bytes, in little endian
(tensorflow.org/tutorials/load_data/tfrecord). The parser supports the part of protocol buffers that Example uses.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken

Feature = np.ndarray | list[bytes]
MAX_RECORD = 2**31
"""Maximum size of a record in bytes, that of a protocol buffer."""

_HEADER = struct.Struct("<QI")


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord, a rotated CRC-32C plus a constant."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file.

    Raises:
        InputError: the file is missing, compressed or truncated, or a checksum is wrong; names the record.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file, expected a TFRecord file; check the path")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            index = 0
            while header := file.read(_HEADER.size):
                yield _record(file, header, size, path, index)
                index += 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _record(file: io.BufferedReader, header: bytes, size: int, path: Path, index: int) -> bytes:
    where = f"{path}: record {index}"
    truncated = f"the file is truncated after {index} complete records, copy it again"
    if len(header) < _HEADER.size:
        raise InputError(f"{where}: found {len(header)} bytes of its header, expected {_HEADER.size}; {truncated}")
    length, checksum = _HEADER.unpack(header)
    if masked_crc(header[:8]) != checksum:
        kind = f" ({hint})" if index == 0 and (hint := mistaken(header + file.read(64))) else ""
        raise InputError(f"{where}: the checksum of its length is wrong; not a TFRecord file{kind}, or damaged")
    if length > MAX_RECORD:
        raise InputError(
            f"{where}: found a length of {length:,} bytes, expected at most {MAX_RECORD:,}; the file is damaged, copy "
            "it again"
        )
    remaining = size - file.tell()  # checked before reading, since the length may be invalid
    body = file.read(length + 4) if length + 4 <= remaining else b""
    if len(body) < length + 4:
        raise InputError(f"{where}: found {max(remaining, 0)} bytes, expected {length + 4}; {truncated}")
    data = body[:length]
    if masked_crc(data) != struct.unpack("<I", body[length:])[0]:
        raise InputError(f"{where}: the checksum of its data is wrong; the file is damaged, copy it again")
    return data


def write_records(path: Path, payloads: list[bytes]) -> None:
    """Write records (for tests and small exports)."""
    with open(path, "wb") as file:
        for payload in payloads:
            head = struct.pack("<Q", len(payload))
            file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The integer at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise ValueError("an integer of more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field numbers and values of a message, as int or bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(data):
            raise ValueError("a field runs past the end")
        yield tag >> 3, data[position : position + size]
        position += size


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("an integer instead of a message")
    return value


def _unpack_varints(data: memoryview) -> np.ndarray:
    """The consecutive varints in `data`, int64 [n]."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.zeros(0, np.int64)
    last = np.flatnonzero(raw < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else np.zeros(0, np.int64)
    width = last - first + 1
    if not len(last) or last[-1] != len(raw) - 1 or width.max() > 10 or (raw[last[width == 10]] > 1).any():
        raise ValueError("an integer that is truncated or has more than 64 bits")
    values = np.zeros(len(last), np.uint64)
    for index in range(int(width.max())):
        is_longer = width > index
        values[is_longer] |= (raw[first[is_longer] + index] & 0x7F).astype(np.uint64) << np.uint64(7 * index)
    return values.astype(np.int64)


def _feature(data: memoryview) -> Feature:
    for kind, body in _fields(data):
        values = [value for number, value in _fields(_as_bytes(body)) if number == 1]
        if kind == 1:
            return [bytes(_as_bytes(value)) for value in values]
        if kind == 2:
            return np.frombuffer(b"".join(bytes(_as_bytes(value)) for value in values), "<f4")
        if kind == 3:
            return np.concatenate([np.zeros(0, np.int64), *map(_integers, values)])
    return []


def _integers(value: int | memoryview) -> np.ndarray:
    if isinstance(value, int):
        return np.array([value], np.uint64).astype(np.int64)
    return _unpack_varints(value)


def parse_example(record: bytes, is_needed: Callable[[str], bool] = bool) -> dict[str, Feature]:
    """The features of a serialized `tf.train.Example`, by name.

    Args:
        record: the message.
        is_needed: selects features by name; the others are skipped.

    Raises:
        ValueError: the bytes are not such a message.
    """
    result: dict[str, Feature] = {}
    try:
        for number, features in _fields(memoryview(record)):
            if number != 1:
                continue
            for _, entry in _fields(_as_bytes(features)):
                parts = dict(_fields(_as_bytes(entry)))
                name = bytes(_as_bytes(parts[1])).decode() if 1 in parts else ""
                if is_needed(name):
                    result[name] = _feature(_as_bytes(parts.get(2, memoryview(b""))))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a tf.train.Example ({error})") from error
    return result
