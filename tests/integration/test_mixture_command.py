"""Commands on several datasets: trained together, or refused in one line without output."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episode_builders import SPEC, episodes

from worldgymnast import video
from worldgymnast.actions import BRIDGE, WORLDGYM
from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot, worldgym

TINY = [
    *["--world.autoencoder.channels", "4", "--world.autoencoder.widths", "8", "8", "8"],
    *["--world.autoencoder.blocks", "1", "1", "1", "--world.transformer.channels", "4"],
    *["--world.transformer.width", "32", "--world.transformer.layers", "1", "--world.transformer.heads", "2"],
    *["--world.transformer.grid", "4", "4", "--frames", "4", "--clips", "2", "--length", "3"],
    *["--autoencoder.steps", "2", "--fit.steps", "2", "--threads", "1"],
]


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, str]:
    lerobot.write(tmp_path / "cm", episodes(3))
    lerobot.write(tmp_path / "bridge", episodes(3, spec=BRIDGE, fps=5.0))
    lerobot.write(tmp_path / "fast", episodes(2, spec=BRIDGE, fps=10.0))
    lerobot.write(tmp_path / "small", episodes(2, spec=BRIDGE, fps=5.0, size=16))
    worldgym.write(tmp_path / "gym", episodes(3, spec=WORLDGYM, fps=5.0))
    return {name: str(tmp_path / name) for name in ("cm", "bridge", "fast", "small", "gym")}


def test_train_world_mixes_sets_and_remembers_their_shares(sets, tmp_path, capsys) -> None:
    command = ["train-world", sets["bridge"], sets["gym"], *TINY, "--world.transformer.action-dim", "7"]
    assert main([*command, "--shares", "3", "1", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["inputs"]["shares"] == [[3.0, 3], [1.0, 3]]
    assert main([*command, "--shares", "3", "2", "--out", str(tmp_path / "out")]) == 2
    assert "was started with [[3.0, 3], [1.0, 3]]; this command has [[3.0, 3], [2.0, 3]]" in capsys.readouterr().err


def test_sets_that_cannot_be_mixed_are_refused(sets, tmp_path, capsys) -> None:
    def said(*words: str) -> str:
        assert main(["train-world", *words, *TINY, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return line

    bridge = sets["bridge"]
    line = said(bridge, sets["cm"])
    assert line.startswith(f"worldgymnast: error: {sets['cm']}: no conversion between action specs: found [x y z")
    assert "3cm" in line
    assert "m+rad" in line
    line = said(sets["cm"], "--actions", "worldgym")
    assert "no conversion" in line
    assert f"{sets['fast']}: found 10 frames per second, expected 5 as in {bridge}" in said(bridge, sets["fast"])
    line = said(bridge, sets["small"])
    assert f"{sets['small']}: found frames of 16x16 pixels, expected 32x32 as in {bridge}. Resize all" in line
    assert "--shares: found 1 for 2 datasets, expected one positive number" in said(bridge, bridge, "--shares", "1")
    words = ("--actions", "worldgym", "--world.transformer.action-dim", "7")
    assert "--world.transformer.action-dim: found 7, but the data's actions have" in said(bridge, sets["gym"], *words)


def refused(path: Path, capsys, out: Path) -> str:
    """The one line that `sft` says of a data set; nothing is written."""
    assert main(["sft", str(path), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not out.exists()
    return line


def test_nan_actions_are_refused_with_file_and_episode(sets, tmp_path, capsys) -> None:
    file = tmp_path / "cm/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    rows = table.column("action").to_pylist()
    rows[7][1] = float("nan")
    at = table.schema.get_field_index("action")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type)), file)
    line = refused(tmp_path / "cm", capsys, tmp_path / "out")
    assert f"{file}: episode 1: field 'action': found NaN or infinity, expected finite numbers" in line
    with np.load(tmp_path / "gym/000000001.npz") as archive:
        values = archive["arr_0"].copy()
    values[0, 0] = np.inf
    np.savez(tmp_path / "gym/000000001.npz", values)
    line = refused(tmp_path / "gym", capsys, tmp_path / "out")
    assert "000000001.npz: field 'arr_0': found NaN or infinity" in line


def test_videos_of_mixed_size_or_rate_are_refused_by_name(sets, tmp_path, capsys) -> None:
    file = tmp_path / "gym/000000002.mp4"
    frames = video.decode(file)
    video.encode(file, np.ascontiguousarray(frames[:, :16]), 20.0)
    line = refused(tmp_path / "gym", capsys, tmp_path / "out")
    assert f"{file}: found a frame of 16x32 pixels, expected 32x32 as in" in line
    assert "--size" in line
    video.encode(file, frames, 10.0)
    line = refused(tmp_path / "gym", capsys, tmp_path / "out")
    assert f"{file}: found 10 frames per second, expected 20 as 000000000.mp4 has" in line
    file = next((tmp_path / "cm").glob("videos/*/*/*.mp4"))
    video.encode(file, video.decode(file), 5.0)
    line = refused(tmp_path / "cm", capsys, tmp_path / "out")
    assert f"{file}: found 5 frames per second, expected 27 as in" in line


def test_a_set_without_statistics_is_read_where_it_says_what_its_actions_are(sets, tmp_path, capsys) -> None:
    (tmp_path / "cm/meta/stats.json").unlink()
    assert lerobot.read(tmp_path / "cm").spec == SPEC
    info = json.loads((tmp_path / "cm/meta/info.json").read_text())
    del info["features"]["action"]["worldgymnast"]
    (tmp_path / "cm/meta/info.json").write_text(json.dumps(info))
    found = lerobot.read(tmp_path / "cm")
    rows = np.concatenate([found.episode(index).actions for index in range(len(found))])
    assert found.spec.low == pytest.approx(np.minimum(rows.min(0), 0))  # its last rows are zeros
    (tmp_path / "cm/meta/stats.json").write_text('{"action": {"min": [NaN, 0, 0, 0], "max": [1, 1, 1, 1]}}')
    assert "stats.json: field 'action': min or max is NaN or infinite" in refused(
        tmp_path / "cm", capsys, tmp_path / "out"
    )
