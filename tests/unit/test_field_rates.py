"""Frames per second: what a data set does not say is given by a flag, and what it says is not overruled."""

import numpy as np
import pytest
from foreign_data import episode, mp4, rlds, v3
from rlds_builders import SHARD, record, seed_rlds, step

from worldgymnast.cli.inputs import read
from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError


def bridge(root):
    rlds(root, [record(0, 5), record(1, 5)], step(), name="bridge_dataset")
    return root


def gym(root):
    root.mkdir()
    mp4(root / "0.mp4", episode(0, 6), 20)
    np.savez(root / "0.npz", np.zeros((6, 10), np.float32))
    return root


def lerobot(root):
    v3(root)
    return root


SETS = {"lerobot": (lerobot, 10), "bridge": (bridge, 5), "worldgym": (gym, 5)}


@pytest.mark.parametrize("kind", SETS)
def test_what_the_data_say_is_not_overruled(tmp_path, kind):
    make, said = SETS[kind]
    root = make(tmp_path / "set")
    assert formats.read(root).fps == formats.read(root, fps=said).fps == said
    with pytest.raises(InputError, match=f"found {said} frames per second by the data set, expected 30 as given"):
        formats.read(root, fps=30)
    assert any("expected 30 as given" in str(one) for one in check(root, fps=30) if one.severity == "error")
    assert not any("expected 30" in str(one) for one in check(root, fps=said))


def test_check_says_that_a_rate_has_to_be_given(tmp_path):
    root = seed_rlds(tmp_path / "set")
    (found,) = [one for one in check(root) if one.field == "fps"]
    assert found.severity == "warning"
    assert "--fps" in str(found)
    assert not [one for one in check(root, fps=10) if one.field == "fps"]


def test_bridge_is_subsampled_rather_than_called_slower(tmp_path):
    """`--fps 2.5` of data of 5 Hz leaves out every second frame; the frames are not called half as fast."""
    done = formats.convert(bridge(tmp_path / "set"), tmp_path / "new", fps=2.5)
    assert (done.fps, done.actions) == (2.5, 2 * 2)


def test_the_rate_of_the_world_model_is_taken_where_nobody_says_one(tmp_path, capsys):
    root = seed_rlds(tmp_path / "set")
    assert read([root], None, assumed_fps=7.0).fps == 7
    assert "taken is 7 frames per second" in capsys.readouterr().err
    assert read([root], None, fps=9.0, assumed_fps=7.0).fps == 9
    assert read([lerobot(tmp_path / "other")], None, assumed_fps=7.0).fps == 10


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_rates_that_no_robot_has(tmp_path, fps):
    for refuse in (formats.read, check):
        with pytest.raises(InputError, match="field 'fps'"):
            refuse(seed_rlds(tmp_path / str(refuse.__name__)), fps=fps)


@pytest.mark.parametrize(("name", "fix"), [(f"{SHARD}.gz", "unpack them"), ("my_set.tfrecord", "rename it")])
def test_shards_under_other_names(tmp_path, name, fix, capsys):
    root = seed_rlds(tmp_path / "set")
    content = (root / SHARD).read_bytes()
    (root / name).write_bytes(content)
    assert len(formats.read(root, fps=10)) == 2
    assert f"{name}: is left out" in capsys.readouterr().err
    (root / SHARD).unlink()
    with pytest.raises(InputError, match=f"found no shards .only {name}.*{fix}"):
        formats.read(root, fps=10)
