"""Small files that expand to gigabytes, and other files instead of data, videos, pictures and checkpoints."""

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_data import v3, v21

from worldgymnast.episodes import parquet
from worldgymnast.episodes.check import check
from worldgymnast.episodes.lerobot import read
from worldgymnast.episodes.starts import read_starts
from worldgymnast.errors import InputError
from worldgymnast.registry import load_policy
from worldgymnast.worldmodel.published import read_checkpoint

EPISODES = "meta/episodes/chunk-000/file-000.parquet"
ROWS = "data/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"


def repeat(path: Path, columns: dict[str, pa.Array], count: int) -> None:
    """Write one row `count` times, in a few kilobytes."""
    schema = pa.schema({name: value.type for name, value in columns.items()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, count, 2**22):
            index = pa.array(np.zeros(min(2**22, count - begin), np.int32))
            writer.write_table(pa.table({name: value.take(index) for name, value in columns.items()}, schema=schema))


def bomb(root: Path, name: str, count: int) -> Path:
    v3(root, d=1)
    table = pq.read_table(root / name)
    table = table.select([one for one in table.column_names if not pa.types.is_nested(table.schema.field(one).type)])
    columns = {one: table[one].combine_chunks().slice(0, 1) for one in table.column_names}
    if name == ROWS:
        columns |= {"action": pa.array([0.0], pa.float32()), "episode_index": pa.array([5])}
    repeat(root / name, columns, count)
    assert (root / name).stat().st_size < 500_000
    return root


@pytest.mark.parametrize(("name", "count"), [(EPISODES, 4_000_000), (TASKS, 8_000_000), (ROWS, 8_000_000)])
def test_more_rows_than_the_metadata_say_are_refused_before_they_are_read(tmp_path, name, count):
    root = bomb(tmp_path / "set", name, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=f"{name}: found {count:,} rows, expected at most") as caught:
        read(root)
    assert "\n" not in str(caught.value)
    assert any(f"found {count:,} rows" in str(one) for one in check(root))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_rows_are_bounded_if_they_replace_the_statistics(tmp_path):
    root = bomb(tmp_path / "set", ROWS, 8_000_000)
    (root / "meta/stats.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="found 8,000,000 rows"):
        read(root)


def test_episodes_of_many_files_are_counted_together(tmp_path, monkeypatch):
    v3(tmp_path / "set")
    monkeypatch.setattr("worldgymnast.episodes.lerobot_layout.MAX_TABLE_ROWS", 1)
    with pytest.raises(InputError, match="found 2 episodes up to this file, expected at most 1"):
        read(tmp_path / "set")


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_long_text_that_many_rows_share(tmp_path, is_stored):
    """A megabyte of text once in the file, in the dictionary, is a terabyte in two million rows."""
    path = tmp_path / "tasks.parquet"
    task = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), ["x" * 1_000_000])
    pq.write_table(pa.table({"task_index": np.arange(100_000), "task": task}), path, store_schema=is_stored)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="found more than 536,870,912 bytes"):
        parquet.read_lists(path)


def test_lists_under_names_with_dots_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"observation.state": [[1.0, 2.0, 3.0]] * 5}), path)
    monkeypatch.setattr(parquet, "MAX_VALUES", 14)
    with pytest.raises(InputError, match="found 15 values"):
        parquet.read_table(path, ["observation.state"])


# ---------------------------------------------------------------- other files

OTHERS = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "run git lfs pull"),
    "a web page": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>sign in</html>", "it is a web page: download the file itself"),
    "an error in XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is XML"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "it is compressed with gzip: unpack it"),
    "nothing": (b"", "it is empty"),
}


def first_error(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(root)
    assert any(str(caught.value) in str(one) for one in check(root) if one.severity == "error")
    return str(caught.value)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", ["*.mp4", "data/*/*.parquet", "meta/*.parquet"])
def test_other_files_in_a_data_set_are_named(tmp_path, kind, suffix):
    content, said = OTHERS[kind]
    root = tmp_path / "set"
    v3(root)
    file = min(root.rglob(suffix))
    file.write_bytes(content)
    assert f"{file}: " in (message := first_error(root))
    assert said in message or (content == b"" and "found 0 readable frames" in message)


@pytest.mark.parametrize("kind", [one for one in OTHERS if one != "nothing"])
def test_other_files_instead_of_pictures_and_components(tmp_path, kind):
    content, said = OTHERS[kind]
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "a.json").write_text('{"instruction": "open the drawer"}')
    for name, load in (("a.png", lambda path: read_starts(path.parent, 64)), ("b.pt", read_checkpoint),
                       ("c.safetensors", load_policy)):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            load(tmp_path / name)
        assert said in str(caught.value)


def test_a_pointer_instead_of_an_older_dataset(tmp_path):
    v21(tmp_path / "set")
    for file in (tmp_path / "set").rglob("*.mp4"):
        file.write_bytes(OTHERS["a pointer"][0])
    assert first_error(tmp_path / "set").endswith("(it is a Git LFS pointer: run git lfs pull)")
