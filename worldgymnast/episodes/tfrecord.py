"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is: length (uint64), masked CRC-32C of the length, the bytes, masked CRC-32C of the bytes, little endian
(tensorflow.org/tutorials/load_data/tfrecord). Only the part of protocol buffers that Example uses is parsed.
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
"""Bytes of one record: a protocol buffer cannot be larger."""

_HEADER = struct.Struct("<QI")


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, turned right by 15 bits, plus a constant."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Raises:
        InputError: the file is missing, compressed or cut short, or a checksum is wrong; names the record.
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
    what = f"{path}: record {index}"
    cut = f"the file is cut short after {index} good records, copy it again"
    if len(header) < _HEADER.size:
        raise InputError(f"{what}: found {len(header)} bytes of its header, expected {_HEADER.size}; {cut}")
    length, check = _HEADER.unpack(header)
    if masked_crc(header[:8]) != check:
        other = f" ({seen})" if index == 0 and (seen := mistaken(header + file.read(64))) else ""
        raise InputError(f"{what}: checksum of its length is wrong; this is no TFRecord file{other}, or a damaged one")
    if length > MAX_RECORD:
        raise InputError(f"{what}: found a length of {length:,} bytes, expected at most {MAX_RECORD:,}; is it damaged?")
    left = size - file.tell()  # compared before anything is read: the length may be anybody's invention
    body = file.read(length + 4) if length + 4 <= left else b""
    if len(body) < length + 4:
        raise InputError(f"{what}: found {max(left, 0)} bytes, expected {length + 4}; {cut}")
    data = body[:length]
    if masked_crc(data) != struct.unpack("<I", body[length:])[0]:
        raise InputError(f"{what}: checksum of its data is wrong; the file is damaged, copy it again")
    return data


def write_records(path: Path, payloads: list[bytes]) -> None:
    """Writes records (for tests and small exports)."""
    with open(path, "wb") as file:
        for payload in payloads:
            head = struct.pack("<Q", len(payload))
            file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError("a number of more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, value) of a message: an int for a varint, the bytes for everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("a field runs past the end")
        yield tag >> 3, data[at : at + size]
        at += size


def _bytes_of(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _packed(data: memoryview) -> np.ndarray:
    """int64 [n], the varints that lie one after another in `data`."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.zeros(0, np.int64)
    last = np.flatnonzero(raw < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else np.zeros(0, np.int64)
    width = last - first + 1
    if not len(last) or last[-1] != len(raw) - 1 or width.max() > 10 or (raw[last[width == 10]] > 1).any():
        raise ValueError("a number that is cut short or of more than 64 bits")
    total = np.zeros(len(last), np.uint64)
    for place in range(int(width.max())):
        has = width > place
        total[has] |= (raw[first[has] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return total.astype(np.int64)


def _feature(data: memoryview) -> Feature:
    for kind, body in _fields(data):
        values = [value for number, value in _fields(_bytes_of(body)) if number == 1]
        if kind == 1:
            return [bytes(_bytes_of(value)) for value in values]
        if kind == 2:
            return np.frombuffer(b"".join(bytes(_bytes_of(value)) for value in values), "<f4")
        if kind == 3:
            parts = [np.array([v], np.uint64).astype(np.int64) if isinstance(v, int) else _packed(v) for v in values]
            return np.concatenate([np.zeros(0, np.int64), *parts])
    return []


def parse_example(record: bytes, wanted: Callable[[str], bool] = bool) -> dict[str, Feature]:
    """The features of a serialised `tf.train.Example`: lists of bytes, float32 [n] or int64 [n].

    Args:
        record: the message.
        wanted: which features to parse, by name; the others are skipped.

    Raises:
        ValueError: the bytes are no such message.
    """
    found: dict[str, Feature] = {}
    try:
        for number, features in _fields(memoryview(record)):
            if number != 1:
                continue
            for _, entry in _fields(_bytes_of(features)):
                parts = dict(_fields(_bytes_of(entry)))
                name = bytes(_bytes_of(parts[1])).decode() if 1 in parts else ""
                if wanted(name):
                    found[name] = _feature(_bytes_of(parts.get(2, memoryview(b""))))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no tf.train.Example ({error})") from error
    return found
