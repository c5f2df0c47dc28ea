"""LeRobot datasets in the wild: depth, statistics, states, sentences in rows, splits."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_data import v3, v21
from test_field_lerobot import KEY, errors, numbers, straight, warnings

from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError

DEPTH = "observation.images.second"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))


def info(root, change):
    path = root / "meta/info.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def features(root):
    return json.loads((root / "meta/info.json").read_text())["features"]


# ---------------------------------------------------------------- depth


def two(root, name, **notes):
    """A data set with a second camera."""
    v3(root)
    shutil.copytree(root / f"videos/{KEY}", root / f"videos/{name}")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for column in [column for column in table.column_names if column.startswith("videos/")]:
        table = table.append_column(column.replace(KEY, name), table[column])
    pq.write_table(table, path)
    info(root, lambda found: found["features"].update({name: found["features"][KEY] | notes}))


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        (DEPTH, {"info": {"is_depth_map": True}}),
        (DEPTH, {"is_depth_map": True}),
        (DEPTH, {"video_info": {"video.is_depth_map": True}}),
        (DEPTH, {"info": {"video.pix_fmt": "gray16le"}}),
        (DEPTH, {"info": {"pix_fmt": "gray12le"}}),
        ("observation.images.wrist_depth", {"info": {"video.is_depth_map": False}}),
        ("observation.images.Depth", {}),
    ],
)
def test_depth_is_never_read_unasked_nor_converted(tmp_path, name, notes, capsys):
    two(tmp_path / "set", name, **notes)
    assert numbers(tmp_path / "set") == straight(5, 7)
    assert f"cameras: found {name}, expected color; depth maps are skipped" in warnings(tmp_path / "set")
    formats.convert(tmp_path / "set", tmp_path / "new")
    assert f"depth maps ['{name}'] are skipped" in capsys.readouterr().err
    assert (KEY in features(tmp_path / "new"), name in features(tmp_path / "new")) == (True, False)
    assert formats.read(tmp_path / "set", image_key=name).size == (64, 64)


def test_eight_bit_gray_is_not_depth(tmp_path):
    two(tmp_path / "set", DEPTH, info={"video.pix_fmt": "gray", "is_depth_map": False})
    assert "found cameras" in errors(tmp_path / "set")


def test_depth_alone_is_read_only_if_named(tmp_path):
    v3(tmp_path / "set", key="observation.images.depth")
    assert "which are depth maps, expected a color camera" in errors(tmp_path / "set")
    with pytest.raises(InputError, match=r"--image-key observation\.images\.depth"):
        formats.convert(tmp_path / "set", tmp_path / "new")
    assert len(formats.read(tmp_path / "set", image_key="depth")) == 2


# ---------------------------------------------------------------- statistics


def statistics(root, **fields):
    path = root / "meta/stats.json"
    found = json.loads(path.read_text())
    found["action"] |= fields
    path.write_text(json.dumps(found))


def test_a_minimum_above_the_maximum_is_an_error_with_its_axis(tmp_path):
    v3(tmp_path / "set")
    statistics(tmp_path / "set", min=[0.0] * 6 + [2.0])
    said = errors(tmp_path / "set")
    assert re.search(r"meta/stats.json: field 'action': found min 2 above max 1 on axis 'a6'", said)
    assert said.count("stats.json") == 1
    v21(tmp_path / "old")
    path = tmp_path / "old/meta/episodes_stats.jsonl"
    first, second = path.read_text().splitlines()
    second = json.loads(second)
    second["stats"]["action"]["max"] = [-1.0] * 7
    path.write_text(f"{first}\n{json.dumps(second)}\n")
    assert "episodes_stats.jsonl: line 2: field 'action': found min" in errors(tmp_path / "old")


@pytest.mark.parametrize("bounds", [(100.0, 200.0), (0.0, 0.0), (-0.01, 0.01)])
def test_statistics_that_exclude_rows_are_replaced(tmp_path, bounds, capsys):
    actions = np.concatenate(list(v3(tmp_path / "set", lens=(20, 20)).values()))
    statistics(tmp_path / "set", min=[bounds[0]] * 7, max=[bounds[1]] * 7)
    found = formats.read(tmp_path / "set")
    assert found.spec.low[1:] == pytest.approx(actions.min(0)[1:])
    assert found.spec.high[1:] == pytest.approx(actions.max(0)[1:])
    line = "of the actions outside {:.4g} to {:.4g} on axis".format(*bounds)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert line in said
    assert line in warnings(tmp_path / "set")
    (one, _) = lerobot.episodes(tmp_path / "set")
    assert one.spec == found.spec
    formats.convert(tmp_path / "set", tmp_path / "new")
    again = formats.read(tmp_path / "new").spec
    assert (again.low, again.motion) == (pytest.approx(actions.min(0)), found.spec.motion)


def test_statistics_that_are_off_by_a_few_rows_stay(tmp_path, capsys):
    actions = np.concatenate(list(v3(tmp_path / "set", lens=(150, 150)).values()))
    high = np.sort(actions, axis=0)[-3]
    statistics(tmp_path / "set", max=high.tolist())
    assert formats.read(tmp_path / "set").spec.high == pytest.approx(high)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- states


def with_state(root, values, name="observation.state", **feature):
    feature = {"dtype": "float32", "shape": [3], "names": None} | feature
    v3(root, extra=lambda e, n: {name: values(n)}, feats={name: feature})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda n: [[1.0, 2, 3]] * (n - 1) + [[1.0, 2]], "row 4: found 2 numbers per row, expected 3"),
        (lambda n: [[1.0, 2, 3]] * (n - 1) + [None], "row 4: found 0 numbers per row, expected 3"),
        (lambda n: [["a", "b", "c"]] * n, "found string per row, expected numbers"),
        (lambda n: [[1.0, float("nan"), 3]] * n, "row 0: found NaN"),
        (lambda n: [[1.0, 2, 3]] * (n - 1) + [[1.0, None, 3]], "row 4: found NaN, infinity or nothing"),
        (lambda n: [[1.0, 2]] * n, "row 0: found 2 numbers per row, expected 3"),
    ],
)
def test_conversion_and_check_refuse_the_same_states(tmp_path, values, said):
    with_state(tmp_path / "set", values)
    with pytest.raises(InputError) as refused:
        formats.convert(tmp_path / "set", tmp_path / "new")
    assert "data/chunk-000/file-000.parquet: " in str(refused.value)
    assert f"field 'observation.state': {said}" in str(refused.value)
    assert f"error: {refused.value}" in map(str, check(tmp_path / "set"))
    assert len(formats.read(tmp_path / "set")) == 2


def test_a_state_that_is_declared_and_missing_is_an_error(tmp_path):
    v3(tmp_path / "set", feats={"observation.state": {"dtype": "float32", "shape": [3], "names": None}})
    with pytest.raises(InputError, match=r"file-000\.parquet: field 'observation\.state' is missing"):
        formats.convert(tmp_path / "set", tmp_path / "new")


def test_the_state_by_the_name_that_openpi_gives_it_is_converted(tmp_path):
    with_state(tmp_path / "set", lambda n: [[1.0, 2, i] for i in range(n)], "state", names=["state"])
    assert not [one for one in check(tmp_path / "set") if one.severity == "error"]
    formats.convert(tmp_path / "set", tmp_path / "new")
    (one, _) = lerobot.episodes(tmp_path / "new")
    assert one.state is not None
    assert one.state[:, 2].tolist() == list(range(5))


# ---------------------------------------------------------------- sentences in the rows


def with_text(root, sentences, tasks, name="language_instruction"):
    column = lambda e, n: {name: pa.array([sentences[e]] * (n - 1) + [sentences[-1] if e else sentences[0]])}  # noqa: E731
    v3(root, tasks=tasks, extra=column)


@pytest.mark.parametrize("name", ["language_instruction", "instruction", "task"])
@pytest.mark.parametrize("tasks", [["", ""], ["0", "<task>"], ["open it", "Close  it."]])
def test_sentences_of_the_rows_count_where_the_table_has_none(tmp_path, name, tasks):
    with_text(tmp_path / "set", ["open it", "close it"], tasks, name)
    said = formats.read(tmp_path / "set").instruction
    assert [text.casefold().replace("  ", " ").strip(".") for text in said] == ["open it", "close it"]
    assert "no instruction" not in warnings(tmp_path / "set")


def test_sentences_of_the_rows_that_the_table_contradicts_are_an_error(tmp_path):
    with_text(tmp_path / "set", ["open it", "close it"], ["open it", "push it"])
    said = errors(tmp_path / "set")
    assert 'episode 1: field \'language_instruction\': found "close it", expected "push it" by its task_index' in said


def test_sentences_that_change_within_an_episode_are_an_error(tmp_path):
    with_text(tmp_path / "set", ["open it", "close it", "push it"], ["", ""])
    said = errors(tmp_path / "set")
    assert 'found "close it" in row 5 and "push it" in row 11, expected one sentence per episode' in said


def test_columns_without_text_are_ignored(tmp_path):
    v3(tmp_path / "set", extra=lambda e, n: {"task": [7] * n, "instruction": [None] * n})
    assert formats.read(tmp_path / "set").instruction == ("do thing 0", "do thing 1")


# ---------------------------------------------------------------- splits, folders


def split(root, splits):
    info(root, lambda found: found.update(splits=splits))


@pytest.mark.parametrize("splits", [{"train": "0:2", "test": "2:3"}, {"train": ":2", "val": "2:"}])
def test_of_several_splits_train_is_read_and_reported(tmp_path, splits, capsys):
    v21(tmp_path / "set", lens=(5, 6, 7))
    split(tmp_path / "set", splits)
    assert numbers(tmp_path / "set") == straight(5, 6)
    assert "only 'train' is read: 2 of 3 episodes" in capsys.readouterr().err
    assert f"splits: found {', '.join(sorted(splits))}, expected only train" in warnings(tmp_path / "set")
    assert "total_episodes" not in warnings(tmp_path / "set")
    assert formats.convert(tmp_path / "set", tmp_path / "new").episodes == 2


@pytest.mark.parametrize("splits", [{"train": "0:3"}, {"train": "0:2"}, {"train": "0:3", "test": "3:3"}, {}, None])
def test_a_single_split_is_the_whole_dataset(tmp_path, splits, capsys):
    v21(tmp_path / "set", lens=(5, 6, 7))
    split(tmp_path / "set", splits)
    assert numbers(tmp_path / "set") == straight(5, 6, 7)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("splits", ["0:3", ["train"], {"train": [0, 2], "test": "2:3"}, {"train": "0-2"}, 7])
def test_invalid_splits_are_ignored_with_a_note(tmp_path, splits, capsys):
    v21(tmp_path / "set", lens=(5, 6, 7))
    split(tmp_path / "set", splits)
    assert numbers(tmp_path / "set") == straight(5, 6, 7)
    assert "ignored: every episode is read" in capsys.readouterr().err


def test_splits_without_train_are_an_error(tmp_path):
    v21(tmp_path / "set", lens=(5, 6, 7))
    split(tmp_path / "set", {"test": "0:1", "val": "1:3"})
    assert "field 'splits': found ['test', 'val'], expected 'train' among them" in errors(tmp_path / "set")


def test_data_sets_in_subfolders_are_named_one_by_one(tmp_path):
    for name in ("a", "b"):
        v3(tmp_path / "set" / name)
    said = r"found 2 datasets in its subfolders \(a, b\), expected one dataset; give the subfolders .*a$"
    with pytest.raises(InputError, match=said):
        formats.read(tmp_path / "set")


def test_a_folder_inside_a_data_set_names_the_whole(tmp_path):
    v3(tmp_path / "set")
    for part in ("meta", "data/chunk-000"):
        with pytest.raises(InputError, match=f"is a part of the data set {tmp_path / 'set'}; give that$"):
            formats.read(tmp_path / "set" / part)
    (tmp_path / "set" / "other").mkdir()
    with pytest.raises(InputError, match="is a part of"):
        formats.read(tmp_path / "set" / "other")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=r"check the path$"):
        formats.read(tmp_path / "elsewhere")
