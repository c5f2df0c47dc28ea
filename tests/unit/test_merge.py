"""Data sets that are merged: another day of one robot, other rates, other names of cameras, duplicates."""

from dataclasses import replace
from pathlib import Path

import foreign_data
import numpy as np
import pyarrow as pa
import pytest
from episode_builders import SPEC, episode, episodes
from foreign_data import v3

from worldgymnast.actions import BRIDGE, WORLDGYM
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.merge import merge
from worldgymnast.errors import InputError
from worldgymnast.types import Episode

NAMES = [f"joint_{i}.pos" for i in range(7)]


def eval_recording(path: Path, monkeypatch: pytest.MonkeyPatch, scale: float = 1.5, **options) -> None:
    """A recording as lerobot-eval leaves it: other bounds, `next.success`, a state."""
    original = foreign_data.acts
    monkeypatch.setattr(foreign_data, "acts", lambda ep, n, d=7, seed=0: original(ep + 10, n, d, seed) * scale)

    def extra(number: int, count: int) -> dict[str, pa.Array]:
        success = np.zeros(count, bool)
        success[-1] = number % 2 == 1
        return {"next.success": pa.array(success)}

    v3(path, lens=(6, 8), names=NAMES, extra=extra, **options)
    monkeypatch.setattr(foreign_data, "acts", original)


def test_another_day_of_the_same_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v3(tmp_path / "monday", lens=(5, 7), names=NAMES, fps=30)
    eval_recording(tmp_path / "eval_act", monkeypatch, fps=30)
    first, second = merge([tmp_path / "monday", tmp_path / "eval_act"], tmp_path / "all", source="policy@act")
    assert (first.episodes, first.labelled) == (2, 0)
    assert (second.episodes, second.labelled, second.succeeded) == (2, 2, 1)
    found, parts = formats.read(tmp_path / "all"), [formats.read(tmp_path / n) for n in ("monday", "eval_act")]
    assert found.source == ("monday", "monday", "policy@act", "policy@act")
    assert found.labelled.tolist() == [False, False, True, True]
    assert found.succeeded.tolist() == [False, False, False, True]
    assert found.spec.low == tuple(np.minimum(parts[0].spec.low, parts[1].spec.low))
    assert found.spec.high == tuple(np.maximum(parts[0].spec.high, parts[1].spec.high))
    assert np.array_equal(found.episode(2).actions, parts[1].episode(0).actions)
    assert found.instruction == parts[0].instruction + parts[1].instruction


def at_rate(index: int, fps: float, steps: int = 5) -> Episode:
    return episode(index, steps=steps, fps=fps, spec=replace(SPEC, rate=fps))


def test_jitter_and_multiples_of_the_rate(tmp_path: Path) -> None:
    base = [at_rate(i, 10.0) for i in range(2)]
    lerobot.write(tmp_path / "base", base)
    lerobot.write(tmp_path / "jitter", [at_rate(5, 10.05)])
    lerobot.write(tmp_path / "twice", [at_rate(6, 20.0, steps=8)])
    lerobot.write(tmp_path / "other", [at_rate(7, 13.0)])
    merge([tmp_path / "base", tmp_path / "jitter", tmp_path / "twice"], tmp_path / "all", lossless=True)
    found = formats.read(tmp_path / "all")
    assert found.fps == 10.0
    assert found.length.tolist() == [len(one.actions) for one in base] + [5, 4]
    assert found.task[:2] == tuple(one.task for one in base)
    with pytest.raises(InputError, match=r"other: found 13 frames per second, expected 10 as in .*base"):
        merge([tmp_path / "base", tmp_path / "other"], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    known = episodes(4, fps=10.0)
    lerobot.write(tmp_path / "a", known[:3])
    lerobot.write(tmp_path / "b", [known[3], known[1]])
    with pytest.raises(InputError, match=r"b: episode 1 is also episode 1 of .*a\."):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    formats.convert(tmp_path / "a", tmp_path / "small")  # encoded again, with loss
    with pytest.raises(InputError, match=r"small: episode 0 is also episode 0 of .*a\."):
        merge([tmp_path / "a", tmp_path / "small"], tmp_path / "all")
    with pytest.raises(InputError, match="given twice"):
        merge([tmp_path / "a", tmp_path / "b" / ".." / "a"], tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "small"]


def test_equal_actions_on_another_scene_are_no_duplicate(tmp_path: Path) -> None:
    one = episode(1, fps=10.0)
    dark = replace(one, frames=one.frames // 8)
    lerobot.write(tmp_path / "a", [one])
    lerobot.write(tmp_path / "b", [dark])
    assert [part.episodes for part in merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")] == [1, 1]


def rich(index: int, camera: str, other: str) -> Episode:
    made = episode(index, fps=10.0)
    count = len(made.frames)
    extra = np.random.default_rng(index).integers(0, 256, (count, 16, 24, 3), np.uint8)
    state = np.random.default_rng(index).random((count, 3)).astype(np.float32)
    names = ("x", "y", "z")
    return replace(made, camera=camera, cameras={other: extra}, state=state, state_names=names, robot="so101")


def test_cameras_match_by_the_last_part_of_their_names(tmp_path: Path) -> None:
    lerobot.write(tmp_path / "a", [rich(0, "observation.images.top", "observation.images.wrist")])
    lerobot.write(tmp_path / "b", [rich(1, "observation.images.cam.wrist", "observation.images.cam.top")])
    with pytest.raises(InputError, match="field 'cameras'"):  # their sizes differ
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", size=16)
    first, second = lerobot.episodes(tmp_path / "all")
    assert (first.camera, list(first.cameras)) == (second.camera, list(second.cameras))
    assert second.state_names == ("x", "y", "z")
    assert second.robot == "so101"


def test_pictures_of_another_shape_follow_the_rule(tmp_path: Path) -> None:
    for index, name in enumerate("ab"):
        made = episode(index)
        wide = np.zeros((len(made.frames), 16, 32, 3), np.uint8)
        wide[:, :, :8] = 255  # outside the center
        lerobot.write(tmp_path / name, [replace(made, frames=wide)])
    for rule, brightness in ("squash", 64), ("crop", 0):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / rule, size=16, resize=rule, lossless=True)
        assert formats.read(tmp_path / rule).frames.mean() == pytest.approx(brightness, abs=2)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    top, wrist = "observation.images.top", "observation.images.wrist"
    lerobot.write(tmp_path / "a", [rich(0, top, wrist)])
    lerobot.write(tmp_path / "plain", [episode(1, fps=10.0)])
    lerobot.write(tmp_path / "robot", [replace(rich(2, top, wrist), robot="koch")])
    lerobot.write(tmp_path / "bridge", [episode(3, spec=BRIDGE, fps=10.0)])
    for name, message in {
        "plain": "plain: episode 0: found cameras observation.images.camera, expected .*--image-key",
        "robot": "robot: episode 0: field 'robot': found koch, expected so101",
        "bridge": "bridge: no conversion between action specs",
    }.items():
        with pytest.raises(InputError, match=message):
            merge([tmp_path / "a", tmp_path / name], tmp_path / "all")
    lerobot.write(tmp_path / "stateless", [replace(rich(4, top, wrist), state=None, state_names=())])
    with pytest.raises(InputError, match="found no state"):
        merge([tmp_path / "a", tmp_path / "stateless"], tmp_path / "all")
    merge([tmp_path / "stateless", tmp_path / "a"], tmp_path / "all")
    assert all(one.state is None for one in lerobot.episodes(tmp_path / "all"))


def test_actions_are_converted_to_the_first_data_set_s(tmp_path: Path) -> None:
    lerobot.write(tmp_path / "a", [episode(0, spec=WORLDGYM, fps=5.0)])
    lerobot.write(tmp_path / "b", [episode(1, spec=BRIDGE, fps=5.0)])
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    found = formats.read(tmp_path / "all")
    assert found.spec.is_same_kind(WORLDGYM)
    assert found.actions.shape[1] == WORLDGYM.dim


def test_rates_that_differ_by_jitter_are_read_together(tmp_path: Path) -> None:
    from worldgymnast.cli.inputs import read

    lerobot.write(tmp_path / "a", [episode(0, fps=30.0)])
    lerobot.write(tmp_path / "b", [episode(1, fps=29.97)])
    found = read([tmp_path / "a", tmp_path / "b"], None)
    assert (len(found), found.fps, found.spec) == (2, 30.0, SPEC)
