"""Read and validate columns of parquet files from untrusted sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file, short

MAX_ROWS, MAX_VALUES, MAX_BYTES = 2**25, 2**28, 2**34
"""Limits of rows per file, and of values and bytes per column, checked before decoding: kilobytes can encode
terabytes."""

MAX_TABLE_ROWS = 2_000_000
"""Maximum rows of a metadata table, such as one row per episode, which become Python objects."""

_MAX_TABLE_VALUES = 4 * MAX_TABLE_ROWS
_MAX_TABLE_BYTES = 2**29
_BATCH_BYTES = 2**27
_BATCH_ROWS = 2**16

Table = dict[str, Any]
"""Arrow columns by name."""


def column_names(path: Path) -> list[str]:
    """Names of the columns.

    Raises InputError if the file is not a parquet file.
    """
    return _with_file(path, lambda file: list(file.schema_arrow.names))


def pandas_metadata(path: Path) -> bytes:
    """Metadata of pandas as JSON; empty for files of other programs."""
    return _with_file(path, lambda file: (file.schema_arrow.metadata or {}).get(b"pandas", b""))


def read_table(
    path: Path, columns: Sequence[str] | None = None, combine: bool = True, max_rows: int = MAX_ROWS
) -> Table:
    """Read columns as arrow arrays by name.

    Args:
        path: the file.
        columns: names of the columns, all by default; missing ones are omitted.
        combine: combine the chunks of a column into one array, which is too small for many pictures.
        max_rows: maximum number of rows, checked in the header.

    Raises:
        InputError: the file cannot be read, or has more than `max_rows` rows or `MAX_VALUES` values in a column.
    """

    def read(file: Any) -> Table:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        _check_limits(file.metadata, names, path, min(max_rows, MAX_ROWS), MAX_VALUES)
        table = file.read(names)
        return {name: table.column(name).combine_chunks() if combine else table.column(name) for name in names}

    return _with_file(path, read)


def read_lists(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Read columns of a metadata table as lists by name.

    Raises:
        InputError: the file cannot be read, has invalid text, or more than `MAX_TABLE_ROWS` rows.
    """
    import pyarrow as pa

    def read(file: Any) -> Any:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        largest = _check_limits(file.metadata, names, path, MAX_TABLE_ROWS, _MAX_TABLE_VALUES)
        size, batches = 0, []
        step = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(largest, 1)))  # one text may be as long as its column
        for batch in file.iter_batches(step, columns=names):
            decoded = [_decode_dictionary(column) for column in batch.columns]
            batches.append(pa.RecordBatch.from_arrays(decoded, batch.schema.names))
            size += batches[-1].nbytes
            if size > _MAX_TABLE_BYTES:
                raise InputError(
                    f"{path}: found more than {_MAX_TABLE_BYTES:,} bytes, expected fewer in a metadata table; copy it "
                    "again"
                )
        table = pa.Table.from_batches(batches) if batches else file.read(names)
        return {name: table.column(name) for name in names}

    table = _with_file(path, read)
    return {name: python_values(column, f"{path}: field '{name}'") for name, column in table.items()}


def _decode_dictionary(column: Any) -> Any:
    """Replace dictionary codes by their values, whose size can then be measured."""
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def python_values(column: Any, where: str) -> list[Any]:
    """An arrow column as Python values.

    Raises InputError for text that is not UTF-8.
    """
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:  # ValueError: not UTF-8
        raise InputError(f"{where}: cannot be read ({error}); copy the file again") from error


def _with_file(path: Path, function: Callable[[Any], Any]) -> Any:
    """Open a parquet file and call a function with it."""
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected it by the metadata; copy the folder again")
        with open(path, "rb") as source, pq.ParquetFile(source) as file:  # pyarrow parses `out:1` as a URL
            return function(file)
    except InputError:
        raise
    except Exception as error:
        if reason := mistaken_file(path):
            raise InputError(f"{path}: cannot be read as parquet ({reason})") from error
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as parquet ({message}); copy the file again") from error


def _check_limits(metadata: Any, names: Sequence[str], path: Path, max_rows: int, max_values: int) -> int:
    """Check the sizes declared in the header.

    Returns:
        Decompressed bytes of the largest row group of a column in `names`.

    Raises:
        InputError: there are more than `max_rows` rows, or a column is too large.
    """
    if metadata.num_rows > max_rows:
        raise InputError(
            f"{path}: found {metadata.num_rows:,} rows, expected at most {max_rows:,} by the metadata or in any such "
            "file; copy it again, or split it"
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
    for totals, limit, what in ((counts, max_values, "values"), (sizes, MAX_BYTES, "bytes")):
        for name, count in totals.items():
            if count > limit:
                raise InputError(
                    f"{path}: field '{name}': found {count:,} {what}, expected at most {limit:,} per file; split it"
                )
    return largest


def field_of(record: dict[str, Any], name: str, path: Path) -> Any:
    """The value `record[name]`.

    Raises an InputError that names the file if it is missing.
    """
    if name not in record:
        raise InputError(
            f"{path}: field '{name}' is missing, found {sorted(record)[:8]}; check that this is a LeRobotDataset"
        )
    return record[name]


def numbers(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of numbers or flags, [n].

    Lists of one number are accepted.

    Raises:
        InputError: the column is missing, has nulls, or is not numeric.
    """
    import pyarrow as pa

    column = field_of(table, name, path)
    if not _is_number(column.type) and _is_list(column.type):
        column = _flatten(column, name, path, 1)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_number(column.type) or pa.types.is_boolean(column.type)):
        raise InputError(f"{path}: field '{name}': found {column.type} per row, expected a number; convert the column")
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise InputError(f"{path}: field '{name}': row {row} is empty, expected a number; remove the episode")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def integers(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of integers, int64 [n]; raises InputError for other values."""
    values = numbers(table, name, path)
    if values.dtype.kind == "u":
        values = values.astype(np.float64) if values.dtype.itemsize == 8 else values.astype(np.int64)
    if values.dtype.kind in "bi":
        return values.astype(np.int64)
    bad = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2.0**62)))
    if len(bad):
        raise InputError(
            f"{path}: field '{name}': row {bad[0]}: found {values[bad[0]]}, expected an integer; correct it"
        )
    return values.astype(np.int64)


def labels(table: Table, name: str, path: Path) -> np.ndarray:
    """A column of success labels, bool [n].

    Raises:
        InputError: the values are not flags or the numbers 0 and 1; other values would be truthy.
    """
    column = field_of(table, name, path)
    try:
        values = numbers(table, name, path)
    except InputError as error:
        items = python_values(column, f"{path}: field '{name}'")
        shown = next((short(item) for item in items if not isinstance(item, bool)), str(column.type))
        raise _label_error(path, name, shown) from error
    bad = np.flatnonzero(~np.isin(values, (0, 1)))
    if len(bad):
        raise _label_error(path, name, repr(values[bad[0]].item()))
    return values.astype(bool)


def texts(table: Table, name: str, path: Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A text column as codes and distinct texts; None for other columns.

    Returns:
        int64 [n], index of each row's text (-1 for null), and the texts.
    """
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


def _label_error(path: Path, name: str, shown: str) -> InputError:
    return InputError(f"{path}: field '{name}': found {shown}, expected true or false per frame; convert the column")


def vectors(table: Table, name: str, path: Path, width: int | None = None) -> np.ndarray:
    """A column of lists of numbers, float32 [n a].

    Overflows become infinite, nulls NaN.

    Args:
        table: the columns.
        name: name of the column.
        path: the file, for messages.
        width: numbers per row; by default that of the first row.

    Raises:
        InputError: the column is missing, is not numeric, or has rows of another width.
    """
    column = field_of(table, name, path)
    if _is_number(column.type):
        flat, row_width = column, 1
        if width not in (None, 1):
            raise _width_error(path, name, 1, width)
    else:
        if not _is_list(column.type):
            raise InputError(
                f"{path}: field '{name}': found {column.type} per row, expected a list of numbers; convert it"
            )
        row_width = width or _first_width(column)
        flat = _flatten(column, name, path, row_width)
    if not _is_number(flat.type):
        raise InputError(f"{path}: field '{name}': found {flat.type} per row, expected numbers; convert the column")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(flat.to_numpy(zero_copy_only=False)).astype(np.float32).reshape(-1, row_width)


def _first_width(column: Any) -> int:
    """Length of the first list of a column."""
    import pyarrow.compute as pc

    first = pc.call_function("list_value_length", [column.slice(0, 1)]).to_pylist()
    return (first[0] if first else None) or 1


def _flatten(column: Any, name: str, path: Path, width: int) -> Any:
    """Flatten a column of lists.

    Raises InputError unless all lists have length `width`.
    """
    import pyarrow.compute as pc

    lengths = np.asarray(pc.call_function("list_value_length", [column]).fill_null(0)).astype(np.int64)
    bad = np.flatnonzero(lengths != width)
    if len(bad):
        raise _width_error(path, name, int(lengths[bad[0]]), width, f"row {bad[0]}: ")
    return column.flatten()


def _width_error(path: Path, name: str, actual: int, width: int | None, where: str = "") -> InputError:
    return InputError(
        f"{path}: field '{name}': {where}found {actual} numbers per row, expected {width}; correct the shape in "
        "meta/info.json or the rows"
    )


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
