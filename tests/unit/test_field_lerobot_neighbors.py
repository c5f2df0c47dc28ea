"""LeRobot datasets with removed episodes, whose frames are never used."""

from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_data import episode, mp4, v3, v21
from test_field_lerobot import array, clip, edit, errors, numbers, put, straight


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))


def keep(root, *kept):
    """Leaves the listed episodes in the metadata alone; rows and video stay."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).take(list(kept)), path)


@pytest.mark.parametrize("late", [np.full(12, 0.1), np.repeat([0, 0.1], [2, 10]), np.full(12, 0.06)])
def test_a_row_beyond_the_end_of_its_episode_gets_no_frame_of_the_next(tmp_path, late):
    v3(tmp_path / "set")
    edit(tmp_path / "set", lambda t: put(t, "timestamp", array(t, "timestamp").astype(float) + late))
    keep(tmp_path / "set", 0)
    assert "episode 0: row 4 is at" in (said := errors(tmp_path / "set")) or "of a step) before" in said


def test_an_end_time_that_is_slightly_off_is_harmless(tmp_path):
    v3(tmp_path / "set", ep_extra=lambda e: {"videos/observation.images.cam/to_timestamp": [0.47, 1.23][e]})
    assert numbers(tmp_path / "set") == straight(5, 7)


@pytest.mark.parametrize("length", [0.52, 0.48])
@pytest.mark.parametrize("kept", [(0, 1, 3), (0, 4), (3,)])
def test_start_times_that_drift_are_refused_where_neighbors_were_removed(tmp_path, length, kept):
    v3(tmp_path / "set", lens=(5,) * 6, from_ts=[e * length for e in range(6)])
    keep(tmp_path / "set", *kept)
    said = errors(tmp_path / "set")
    assert "field 'from_timestamp': found" in said or "of a step) " in said
    assert "The first frame is ambiguous" in said or "The pairing is ambiguous" in said


def test_rows_that_are_all_offset_from_their_frames_are_refused(tmp_path):
    late = np.where(np.arange(12) % 5 == 3, 0.03, 0.04)
    v21(tmp_path / "set", lens=(12,), video_len=(14,))
    edit(tmp_path / "set", lambda t: put(t, "timestamp", array(t, "timestamp").astype(float) + late))
    said = (
        "episode 0: rows from 0.04 s on are 0.04 s (0.40 of a step) after their nearest frames throughout (limit 0.25)"
    )
    assert said in errors(tmp_path / "set")


def test_single_rows_offset_from_their_frames_are_paired(tmp_path):
    v21(tmp_path / "set", lens=(12,), video_len=(14,))
    late = np.where(np.arange(12) == 5, 0.04, 0)
    edit(tmp_path / "set", lambda t: put(t, "timestamp", array(t, "timestamp").astype(float) + late))
    assert numbers(tmp_path / "set") == straight(12)


TREMBLING = [0, 0.107, 0.214, 0.300, 0.407, 0.514, 0.6, 0.707, 0.814, 0.9, 1.007, 1.114]


def test_a_video_with_jitter_is_read_by_the_times_of_its_rows(tmp_path):
    v21(tmp_path / "set", lens=(12,), videos=False)
    stamps = [round(time * 1000) for time in TREMBLING]
    mp4(clip(tmp_path / "set"), episode(0, 12), 10, pts=stamps, tb=Fraction(1, 1000))
    edit(tmp_path / "set", lambda t: put(t, "timestamp", np.array(TREMBLING, np.float32)))
    assert numbers(tmp_path / "set") == straight(12)
