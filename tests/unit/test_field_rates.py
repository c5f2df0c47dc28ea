"""Frame rates: a flag supplies a missing rate but never overrides a declared one."""

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
def test_a_declared_rate_is_not_overridden(tmp_path, kind):
    make, said = SETS[kind]
    root = make(tmp_path / "set")
    assert formats.read(root).fps == formats.read(root, fps=said).fps == said
    with pytest.raises(InputError, match=f"found {said} frames per second in the dataset, expected 30 .--fps"):
        formats.read(root, fps=30)
    assert any("expected 30 (--fps)" in str(one) for one in check(root, fps=30) if one.severity == "error")
    assert not any("expected 30" in str(one) for one in check(root, fps=said))


def test_check_reports_a_missing_rate(tmp_path):
    root = seed_rlds(tmp_path / "set")
    (found,) = [one for one in check(root) if one.field == "fps"]
    assert found.severity == "warning"
    assert "--fps" in str(found)
    assert not [one for one in check(root, fps=10) if one.field == "fps"]


def test_bridge_is_subsampled_rather_than_called_slower(tmp_path):
    """`--fps 2.5` of data of 5 Hz leaves out every second frame; the frames are not called half as fast."""
    done = formats.convert(bridge(tmp_path / "set"), tmp_path / "new", fps=2.5)
    assert (done.fps, done.actions) == (2.5, 2 * 2)


def test_the_world_model_s_rate_is_the_default(tmp_path, capsys):
    root = seed_rlds(tmp_path / "set")
    assert read([root], None, assumed_fps=7.0).fps == 7
    assert "assuming 7 frames per second" in capsys.readouterr().err
    assert read([root], None, fps=9.0, assumed_fps=7.0).fps == 9
    assert read([lerobot(tmp_path / "other")], None, assumed_fps=7.0).fps == 10


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_impossible_rates(tmp_path, fps):
    for refuse in (formats.read, check):
        with pytest.raises(InputError, match="field 'fps'"):
            refuse(seed_rlds(tmp_path / str(refuse.__name__)), fps=fps)


@pytest.mark.parametrize(("name", "fix"), [(f"{SHARD}.gz", "decompress them"), ("my_set.tfrecord", "rename it")])
def test_shards_under_other_names(tmp_path, name, fix, capsys):
    root = seed_rlds(tmp_path / "set")
    content = (root / SHARD).read_bytes()
    (root / name).write_bytes(content)
    assert len(formats.read(root, fps=10)) == 2
    assert f"{name}: skipped, not the name of a shard" in capsys.readouterr().err
    (root / SHARD).unlink()
    with pytest.raises(InputError, match=f"found no shards .only {name}.*{fix}"):
        formats.read(root, fps=10)
