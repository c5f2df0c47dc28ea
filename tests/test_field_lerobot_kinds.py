"""LeRobot data sets as they are in the field: depth, statistics, states, sentences in the rows, splits."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_data import v3, v21
from test_field_lerobot import KEY, errors, numbers, straight, warnings

from worldgymnast.episodes import formats, lerobot
from worldgymnast.types import InputError

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
    assert f"cameras: found {name}, expected color; depth maps are left out" in warnings(tmp_path / "set")
    formats.convert(tmp_path / "set", tmp_path / "new")
    assert f"depth maps ['{name}'] are left out" in capsys.readouterr().err
    assert (KEY in features(tmp_path / "new"), name in features(tmp_path / "new")) == (True, False)
    assert formats.read(tmp_path / "set", image_key=name).size == (64, 64)


def test_eight_bits_of_gray_are_no_depth(tmp_path):
    two(tmp_path / "set", DEPTH, info={"video.pix_fmt": "gray", "is_depth_map": False})
    assert "found cameras" in errors(tmp_path / "set")


def test_depth_alone_is_no_camera_unless_named(tmp_path):
    v3(tmp_path / "set", key="observation.images.depth")
    assert "which hold depth, expected a color camera" in errors(tmp_path / "set")
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
    v21(tmp_path / "old")
    path = tmp_path / "old/meta/episodes_stats.jsonl"
    first, second = path.read_text().splitlines()
    second = json.loads(second)
    second["stats"]["action"]["max"] = [-1.0] * 7
    path.write_text(f"{first}\n{json.dumps(second)}\n")
    assert "episodes_stats.jsonl: line 2: field 'action': found min" in errors(tmp_path / "old")


@pytest.mark.parametrize("bounds", [(100.0, 200.0), (0.0, 0.0), (-0.01, 0.01)])
def test_statistics_that_do_not_hold_the_rows_give_way_to_them(tmp_path, bounds, capsys):
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
