"""Columns of parquet files that other people wrote, checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file, short

MAX_ROWS, MAX_VALUES, MAX_BYTES = 2**25, 2**28, 2**34
"""Files with more rows, and columns with more values or bytes, are refused before they are decoded: a few kilobytes can
stand for terabytes."""

MAX_TABLE_ROWS = 2_000_000
"""Most rows of a table of metadata, such as one an episode: they become Python objects."""

_MAX_TABLE_VALUES = 4 * MAX_TABLE_ROWS
_MAX_TABLE_BYTES = 2**29
_BATCH_BYTES = 2**27
_BATCH_ROWS = 2**16

Table = dict[str, Any]
"""Arrow columns by name."""


def column_names(path: Path) -> list[str]:
    """Names of the columns; raises InputError where the file is no parquet file."""
    return _opened(path, lambda file: list(file.schema_arrow.names))


def pandas_metadata(path: Path) -> bytes:
    """What pandas noted about its index, as JSON; empty where another program wrote the file."""
    return _opened(path, lambda file: (file.schema_arrow.metadata or {}).get(b"pandas", b""))


def read_table(path: Path, columns: Sequence[str] | None = None, combine: bool = True, most: int = MAX_ROWS) -> Table:
    """Read columns as arrow arrays by name.

    Args:
        path: the file.
        columns: which; those it does not have are left out. All by default.
        combine: one array a column, rather than chunks (pictures can be more than one array holds).
        most: rows that the file may hold, by its own account, before any is read.

    Raises:
        InputError: it cannot be read, or holds more than `most` rows, or `MAX_VALUES` values in a column.
    """

    def read(file: Any) -> Table:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        _bound(file.metadata, names, path, min(most, MAX_ROWS), MAX_VALUES)
        table = file.read(names)
        return {name: table.column(name).combine_chunks() if combine else table.column(name) for name in names}

    return _opened(path, read)


def read_lists(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Read columns of a table of metadata as lists of Python values by name.

    Raises:
        InputError: it cannot be read, has text that is none, or more than `MAX_TABLE_ROWS` rows.
    """
    import pyarrow as pa

    def read(file: Any) -> Any:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        longest = _bound(file.metadata, names, path, MAX_TABLE_ROWS, _MAX_TABLE_VALUES)
        size, batches = 0, []
        step = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(longest, 1)))  # one text may be as long as its column
        for batch in file.iter_batches(step, columns=names):
            columns_read = [_decoded(column) for column in batch.columns]
            batches.append(pa.RecordBatch.from_arrays(columns_read, batch.schema.names))
            size += batches[-1].nbytes
            if size > _MAX_TABLE_BYTES:
                raise InputError(
                    f"{path}: holds more than {_MAX_TABLE_BYTES:,} bytes, expected fewer in a table of metadata; copy "
                    "it again"
                )
        found = pa.Table.from_batches(batches) if batches else file.read(names)
        return {name: found.column(name) for name in names}

    table = _opened(path, read)
    return {name: python_values(column, f"{path}: field '{name}'") for name, column in table.items()}


def _decoded(column: Any) -> Any:
    """The column with its values in place of numbers in a dictionary, so that their bytes can be counted."""
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def python_values(column: Any, where: str) -> list[Any]:
    """An arrow column as Python values; raises InputError for text that is no UTF-8."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:  # ValueError: no UTF-8
        raise InputError(f"{where}: cannot be read ({error}); copy the file again") from error


def _opened(path: Path, work: Callable[[Any], Any]) -> Any:
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected it by the metadata; copy the folder again")
        with open(path, "rb") as source, pq.ParquetFile(source) as file:  # pyarrow takes `out:1` for an address
            return work(file)
    except InputError:
        raise
    except Exception as error:
        if said := mistaken_file(path):
            raise InputError(f"{path}: cannot be read as parquet ({said})") from error
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as parquet ({message}); copy the file again") from error


def _bound(metadata: Any, names: Sequence[str], path: Path, most: int, values: int) -> int:
    """The bytes of the largest part of a column of `names`, unpacked, by the file's own account.

    Raises:
        InputError: there are more rows than `most`, or a column holds too much.
    """
    if metadata.num_rows > most:
        raise InputError(
            f"{path}: found {metadata.num_rows:,} rows, expected at most {most:,} by the metadata or in any such file; "
            "copy it again, or split it"
        )
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    largest = 0
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        for column in (part.column(index) for index in range(part.num_columns)):
            name = column.path_in_schema
            if not any(name == one or name.startswith(f"{one}.") for one in names):
                continue
            counts[name] = counts.get(name, 0) + column.num_values
            sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
            largest = max(largest, column.total_uncompressed_size)
    for found, limit, what in ((counts, values, "values"), (sizes, MAX_BYTES, "bytes")):
        for name, count in found.items():
            if count > limit:
                raise InputError(
                    f"{path}: field '{name}': found {count:,} {what}, expected at most {limit:,} in a file; split it"
                )
    return largest


def field_of(record: dict[str, Any], name: str, path: Path) -> Any:
    """`record[name]`, or an InputError that names the file."""
    if name not in record:
        raise InputError(f"{path}: field '{name}' is missing, found {sorted(record)[:8]}; is this a LeRobotDataset?")
    return record[name]


def numbers(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of numbers or flags, [n]; lists of one number count as that number.

    Raises:
        InputError: the column is missing, holds nulls, or anything but numbers.
    """
    import pyarrow as pa

    column = field_of(table, name, path)
    if not _is_number(column.type) and _is_list(column.type):
        column = _flat(column, name, path, 1)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_number(column.type) or pa.types.is_boolean(column.type)):
        raise InputError(f"{path}: field '{name}': found {column.type} a row, expected a number; convert the column")
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise InputError(f"{path}: field '{name}': row {row} is empty, expected a number; remove the episode")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def integers(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of whole numbers, int64 [n]; raises InputError for others."""
    found = numbers(table, name, path)
    if found.dtype.kind == "u":
        found = found.astype(np.float64) if found.dtype.itemsize == 8 else found.astype(np.int64)
    if found.dtype.kind in "bi":
        return found.astype(np.int64)
    bad = np.flatnonzero(~(np.isfinite(found) & (found == np.floor(found)) & (np.abs(found) < 2.0**62)))
    if len(bad):
        raise InputError(
            f"{path}: field '{name}': row {bad[0]}: found {found[bad[0]]}, expected a whole number; correct it"
        )
    return found.astype(np.int64)


def labels(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of success labels, bool [n].

    Raises:
        InputError: it holds anything but flags or numbers: every word would count as a success.
    """
    column = field_of(table, name, path)
    try:
        found = numbers(table, name, path)
    except InputError as error:
        values = python_values(column, f"{path}: field '{name}'")
        shown = next((short(value) for value in values if not isinstance(value, bool)), str(column.type))
        raise _no_label(path, name, shown) from error
    bad = np.flatnonzero(~np.isin(found, (0, 1)))
    if len(bad):
        raise _no_label(path, name, repr(found[bad[0]].item()))
    return found.astype(bool)


def texts(table: Table, name: str, path: Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A column of text: int64 [n] numbers of the texts (-1 for none), and the texts; None for other columns."""
    import pyarrow as pa

    column = field_of(table, name, path)
    is_coded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if is_coded else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    coded = column if is_coded else column.dictionary_encode()
    codes = np.asarray(coded.indices.fill_null(-1)).astype(np.int64)
    words = python_values(coded.dictionary, f"{path}: field '{name}'")
    return codes, tuple(word or "" for word in words)


def _no_label(path: Path, name: str, shown: str) -> InputError:
    return InputError(f"{path}: field '{name}': found {shown}, expected true or false a frame; convert the column")


def vectors(table: Table, name: str, path: Path, width: int | None = None) -> np.ndarray:
    """A column of lists of numbers, float32 [n a]; numbers beyond float32 become infinite, nulls NaN.

    Args:
        table: the columns.
        name: which.
        path: the file, for messages.
        width: how many numbers a row; by default as many as the first row has.

    Raises:
        InputError: the column is missing, holds no lists of numbers, or rows of another width.
    """
    column = field_of(table, name, path)
    if _is_number(column.type):
        flat, a = column, 1
        if width not in (None, 1):
            raise _wrong_width(path, name, 1, width)
    else:
        if not _is_list(column.type):
            raise InputError(
                f"{path}: field '{name}': found {column.type} a row, expected a list of numbers; convert it"
            )
        a = width or _first_width(column)
        flat = _flat(column, name, path, a)
    if not _is_number(flat.type):
        raise InputError(f"{path}: field '{name}': found {flat.type} a row, expected numbers; convert the column")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(flat.to_numpy(zero_copy_only=False)).astype(np.float32).reshape(-1, a)


def _first_width(column: Any) -> int:
    """How many entries the first list of a column has."""
    import pyarrow.compute as pc

    first = pc.call_function("list_value_length", [column.slice(0, 1)]).to_pylist()
    return (first[0] if first else None) or 1


def _flat(column: Any, name: str, path: Path, width: int) -> Any:
    """The numbers of a column of lists; raises InputError unless every list has `width`."""
    import pyarrow.compute as pc

    found = np.asarray(pc.call_function("list_value_length", [column]).fill_null(0)).astype(np.int64)
    bad = np.flatnonzero(found != width)
    if len(bad):
        raise _wrong_width(path, name, int(found[bad[0]]), width, f"row {bad[0]}: ")
    return column.flatten()


def _wrong_width(path: Path, name: str, found: int, width: int | None, where: str = "") -> InputError:
    return InputError(
        f"{path}: field '{name}': {where}found {found} numbers a row, expected {width}; correct the shape in "
        "meta/info.json or the rows"
    )


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
