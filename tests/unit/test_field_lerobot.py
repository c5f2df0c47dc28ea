"""LeRobot datasets in the wild: pairing of rows and frames, and cameras."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episode_builders import episode as noise
from foreign_data import acts, episode, frame, ident, mp4, png, v3, v21
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worldgymnast.episodes import formats, lerobot, lerobot_pairing
from worldgymnast.episodes.check import check
from worldgymnast.episodes.lerobot_layout import Record, VideoSpan
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.errors import InputError
from worldgymnast.types import Episode

KEY = "observation.images.cam"
NTSC = Fraction(30000, 1001)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))


def edit(root, change):
    """Rewrites every data file by `change` of its table."""
    for path in sorted(root.glob("data/*/*.parquet")):
        pq.write_table(change(pq.read_table(path)), path)


def put(table, name, values):
    column = values if isinstance(values, pa.Array) else pa.array(values)
    index = table.schema.get_field_index(name)
    return table.append_column(name, column) if index < 0 else table.set_column(index, name, column)


def array(table, name):
    return table.column(name).to_numpy()


def clip(root, episode_index=0):
    return root / f"videos/chunk-000/{KEY}/episode_{episode_index:06d}.mp4"


def numbers(root, **options):
    """By episode, the numbers of its frames in what was recorded, and of its actions."""
    found = formats.read(root, **options)
    out = []
    for index in range(len(found)):
        one = found.episode(index)
        pairs = [ident(picture) for picture in one.frames]
        assert {e for e, _ in pairs} == {pairs[0][0]}
        rows = np.round((one.actions[:, 0] - pairs[0][0] * 0.001) / 1e-5).astype(int)
        out.append(([i for _, i in pairs], rows.tolist()))
    return out


def errors(root, **options):
    """The reader's error, which has to be among those of the check."""
    with pytest.raises(InputError) as refused:
        formats.read(root, **options)
    lines = [str(one) for one in check(root, options.get("image_key")) if one.severity == "error"]
    assert "\n" not in str(refused.value)
    assert f"error: {refused.value}" in lines
    return str(refused.value)


def warnings(root):
    found = check(root)
    assert not [one for one in found if one.severity == "error"]
    return "\n".join(map(str, found))


def straight(*lengths):
    return [(list(range(n)), list(range(n - 1))) for n in lengths]


# ---------------------------------------------------------------- order and time


def test_unsorted_rows_are_sorted(tmp_path):
    shuffled = lambda table: table.take(np.random.default_rng(0).permutation(len(table)))  # noqa: E731
    v3(tmp_path / "set", rows_fn=shuffled)
    assert numbers(tmp_path / "set") == straight(5, 7)


def test_pictures_in_rows_out_of_order_stay_with_their_rows(tmp_path):
    v3(
        tmp_path / "set",
        images=lambda e, n: pa.array([{"bytes": png(frame(e, i)), "path": None} for i in range(n)]),
        rows_fn=lambda table: table.take(np.random.default_rng(0).permutation(len(table))),
    )
    assert numbers(tmp_path / "set") == straight(5, 7)


DROPPED = [0, 1, 5, 6, 8, 9]


@pytest.mark.parametrize("renumbered", [False, True])
def test_dropped_rows_take_the_frames_at_their_times(tmp_path, renumbered, capsys):
    root = tmp_path / "set"
    v21(root, lens=(6, 6), video_len=(10, 10))

    def drop(table):
        table = put(table, "timestamp", np.array(DROPPED, np.float32) / 10)
        return table if renumbered else put(table, "frame_index", DROPPED)

    edit(root, drop)
    assert numbers(root) == [(DROPPED, list(range(5)))] * 2
    assert capsys.readouterr().err.count("time between rows: found 0.1 to 0.4 s in 2 of 2 episodes") == 1
    said = warnings(root)
    assert "time between rows: found 0.1 to 0.4 s in 2 of 2 episodes (0, 1), expected 0.1 s throughout" in said
    assert "4 frames that belong to no row" in said


@pytest.mark.parametrize(
    ("left_out", "change"),
    [
        (("timestamp",), lambda table: table),
        (("timestamp", "frame_index"), lambda table: table),
        (("timestamp",), lambda table: table.take(np.arange(len(table))[::-1])),
        (("frame_index",), lambda table: table.take(np.arange(len(table))[::-1])),
        ((), lambda table: put(table, "frame_index", array(table, "frame_index") + 100)),
        ((), lambda table: put(table, "timestamp", array(table, "timestamp") - 1e-6)),
        ((), lambda table: put(table, "timestamp", pa.array([[float(t)] for t in array(table, "timestamp")]))),
    ],
)
def test_remaining_columns_of_time_and_order_suffice(tmp_path, left_out, change):
    v21(tmp_path / "set")
    edit(tmp_path / "set", lambda table: change(table).drop_columns(list(left_out)))
    assert numbers(tmp_path / "set") == straight(5, 7)
    assert ("timestamp: found none in 2 episodes" in warnings(tmp_path / "set")) == ("timestamp" in left_out)


def times(change):
    return lambda table: put(table, "timestamp", change(array(table, "timestamp").astype(float)))


REFUSED = [
    (lambda t: put(t, "frame_index", [0, 0, *range(2, len(t))]), "episode 0: field 'frame_index': found 0 in rows 0"),
    (
        lambda t: put(t, "frame_index", [0, 1, *range(5, len(t) + 3)]),
        "episode 0: rows 1 and 2: frame_index jumps from 1 to 5 but timestamp from 0.1 to 0.2 s",
    ),
    (times(lambda t: t * 1000), "field 'fps': found 10, but the median time between rows is 100 s"),
    (times(lambda t: t * 10), "field 'fps': found 10, but the median time between rows is 1 s"),
    (times(lambda t: t + 1.7e9), "episode 0: row 0 is at 1.7e[+]09 s .* subtract the time of each episode's first"),
    (times(lambda t: t * 0), "episode 0: field 'timestamp': found 0 s in row 0 and 0 s in row 1"),
    (times(lambda t: t[::-1]), "found 0.4 s in row 0 and 0.3 s in row 1, which is later by frame_index"),
    (times(lambda t: np.where(t > 0.15, np.nan, t)), "'timestamp': row 2: found nan, expected seconds"),
    (times(lambda t: t - 0.2), "'timestamp': row 0: found -0.2, expected seconds since the start"),
    (times(lambda t: t + 0.05), "row 0 is at 0.05 s .* between frames at 0 and 0.1 s"),
    (lambda t: put(t, "timestamp", [str(x) for x in array(t, "timestamp")]), "found string per row, expected a number"),
    (lambda t: put(t, "timestamp", pa.array([None] * len(t), pa.float32())), "row 0 is empty, expected a number"),
    (
        lambda t: put(t, "frame_index", array(t, "frame_index") + 3).drop_columns(["timestamp"]),
        "found 3 in the first row and no column timestamp",
    ),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_ambiguous_times_are_an_error_with_its_location(tmp_path, change, said):
    v21(tmp_path / "set", lens=(5, 5))
    edit(tmp_path / "set", change)
    assert re.search(said, errors(tmp_path / "set"))


# ---------------------------------------------------------------- videos


def test_a_2997_video_declared_as_30_pairs_every_episode(tmp_path):
    v3(tmp_path / "set", lens=[90] * 7, fps=30, video_fps=NTSC)
    assert numbers(tmp_path / "set") == straight(*[90] * 7)


@pytest.mark.parametrize("rate", [NTSC, Fraction(301, 10)])
def test_rows_and_frames_that_drift_apart_evenly_are_paired_one_by_one(tmp_path, rate):
    root = tmp_path / "set"
    v21(root, lens=(600,), fps=30, videos=False)
    pictures = episode(0, 200, h=16, w=16)
    mp4(clip(root), np.concatenate([pictures] * 3), rate)
    found = [ident(picture)[1] for picture in formats.read(root).episode(0).frames]
    assert found == [i % 200 for i in range(600)]


def test_drifting_video_with_a_frame_less_is_an_error(tmp_path):
    root = tmp_path / "set"
    v21(root, lens=(600,), fps=30, videos=False)
    mp4(clip(root), np.zeros((599, 16, 16, 3), np.uint8), NTSC)
    assert "episode 0: row 450 is at 15 s" in errors(root)


def test_start_times_counted_at_the_nominal_rate_are_an_error(tmp_path):
    v3(tmp_path / "set", lens=[90] * 14, fps=30, video_fps=NTSC, from_ts=[3.0 * i for i in range(14)])
    assert "'from_timestamp'" in errors(tmp_path / "set") or "between frames" in errors(tmp_path / "set")


@pytest.mark.parametrize(("rate", "count"), [(15, 20), (60, 40)])
def test_a_video_of_another_rate_is_refused(tmp_path, rate, count):
    v21(tmp_path / "set", lens=(20,), fps=30, videos=False)
    mp4(clip(tmp_path / "set"), episode(0, count), rate)
    assert f"found {rate} frames per second, expected 30 as in" in errors(tmp_path / "set")


GAPS = [0, 1, 2, 5, 6, 7]


def test_lost_frames_are_an_error_unless_the_rows_match(tmp_path):
    root = tmp_path / "set"
    v21(root, lens=(6, 6), pts=GAPS)
    line = "episode_000000.mp4: episode 0: row 3 is at 0.3 s (0 + 0.3), between frames at 0.2 and 0.5 s"
    assert line in errors(root)
    edit(root, lambda table: put(table, "timestamp", np.array(GAPS) / 10))
    assert numbers(root) == straight(6, 6)


def test_a_video_shorter_than_its_rows_is_an_error(tmp_path):
    v21(tmp_path / "set", video_len=(4, 7))
    assert "episode 0: row 4 is at 0.4 s (0 + 0.4), after the video's last frame, 3" in errors(tmp_path / "set")


def test_a_video_with_offset_timestamps_is_read_and_one_without_its_first_frame_is_not(tmp_path):
    v21(tmp_path / "late", lens=(6,), pts=[2, 3, 4, 5, 6, 7])
    assert numbers(tmp_path / "late") == straight(6)
    v3(tmp_path / "whole", pts=list(range(1, 13)))
    assert numbers(tmp_path / "whole") == straight(5, 7)
    v21(tmp_path / "lost", lens=(6,), video_len=(5,), pts=[1, 2, 3, 4, 5])
    assert "row 0 is at 0 s (0 + 0), before the video's first frame at 0.1 s" in errors(tmp_path / "lost")


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ([0.0, 0.0], "episodes 0 and 1 share frame 0"),
        ([0.0, 0.4], "episodes 0 and 1 share frame 4"),
        ([0.0, 500.0], "episode 1: row 0 is at 500 s"),
        ([0.0, 1e300], "'from_timestamp': found 1e+300, expected seconds"),
        ([0.0, float("nan")], "'from_timestamp': found NaN, expected seconds"),
        ([0.0, -1.0], "'from_timestamp': found -1.0, expected seconds"),
    ],
)
def test_impossible_start_times_are_refused_at_once(tmp_path, starts, said):
    v3(tmp_path / "set", from_ts=starts)
    assert said in errors(tmp_path / "set")


def test_timestamps_that_were_corrected_are_not_answered_from_the_cache(tmp_path):
    root = tmp_path / "set"
    v21(root, lens=(6,), video_len=(10,))
    assert numbers(root) == straight(6)
    edit(root, lambda t: put(put(t, "timestamp", np.array(DROPPED) / 10), "frame_index", DROPPED))
    assert numbers(root) == [(DROPPED, list(range(5)))]


def test_hidden_files_of_macos_are_ignored(tmp_path):
    for build in (v3, v21):
        root = tmp_path / build.__name__
        build(root)
        for path in [path for path in root.rglob("*") if path.is_file()]:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        assert numbers(root) == straight(5, 7)
        assert "._" not in warnings(root)


@settings(max_examples=100)
@given(st.data())
def test_every_row_gets_the_frame_of_its_time_or_an_error(data):
    """Rows and frames are lost independently, and both clocks tremble by less than they may."""
    fps, count = data.draw(st.sampled_from([5.0, 10.0, 30.0])), data.draw(st.integers(2, 40))
    keep = st.lists(st.booleans(), min_size=count, max_size=count)
    rows, frames = (np.flatnonzero(np.array(data.draw(keep)) | (np.arange(count) == 0)) for _ in range(2))
    gaps = np.diff(frames[frames <= rows[-1]])
    assume(not len(gaps) or np.ptp(gaps) or gaps[0] == 1)  # else an even video of another rate, which is refused
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    late = random.uniform(0, 0.2, count) * (np.arange(count) > 0)
    start = data.draw(st.sampled_from([0.0, 7.0]))
    times = np.arange(count) / fps + late / fps
    place = VideoSpan(Path("x.mp4"), start)
    record = Record(0, len(rows), Path("x"), {KEY: place}, Path("x"), (), "", "", -1, None)
    blank = np.zeros((len(rows), 1), np.float32)
    one = Rows(record, np.arange(len(rows)), times[rows], True, blank, None, "", False, True)
    stamps = start + (frames + random.uniform(0, 0.2, len(frames)) * (frames > 0)) / fps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lerobot_pairing, "frame_times", lambda *_, **__: stamps)
        patch.setattr(lerobot_pairing, "_check_rate", lambda *_: None)
        found = lerobot_pairing.pair(place.file, [(one, place)], fps, Path("x"))
    if set(rows) <= set(frames):
        assert [frames[i] for i in found.frames[0]] == rows.tolist()
        assert found.unused == len(frames) - len(rows)
    else:
        assert not found.frames
        assert "episode 0: row" in str(found.errors[0])


# ---------------------------------------------------------------- cameras and whole episodes

WRIST = "observation.images.wrist"


@pytest.fixture
def two_cameras(tmp_path):
    """Cameras of two sizes, one in one file and one in a file an episode; a state."""
    root, lens = tmp_path / "two", (5, 7)

    def place(e):
        at = f"videos/{WRIST}"
        return {f"{at}/chunk_index": 0, f"{at}/file_index": e, f"{at}/from_timestamp": 0.0}

    features = {
        WRIST: {"dtype": "video", "shape": [32, 96, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
    }
    state = lambda e, n: {"observation.state": pa.array([[e, i] for i in range(n)], pa.list_(pa.float32()))}  # noqa: E731
    v3(root, lens=lens, extra=state, feats=features, ep_extra=place)
    for e, n in enumerate(lens):
        mp4(root / f"videos/{WRIST}/chunk-000/file-{e:03d}.mp4", episode(e, n, h=32, w=96))
    return root


def test_several_cameras_are_named_in_the_error_with_the_flag(two_cameras):
    line = errors(two_cameras)
    assert f"found cameras ['{KEY}', '{WRIST}'], expected one camera; name one or several with --image-key" in line
    assert "expected camera 'top'" in errors(two_cameras, image_key="top")


@pytest.mark.parametrize(
    ("image_key", "size"),
    [
        ("wrist", (32, 96)),
        (KEY, (64, 64)),
        ([KEY, WRIST], (64, 64 + 192)),
        (["wrist", "cam"], (32, 96 + 32)),
        ("all", (64, 256)),
        (("all",), (64, 256)),
        ("cam,wrist", (64, 256)),
    ],
)
def test_one_camera_or_several_side_by_side(two_cameras, image_key, size):
    found = formats.read(two_cameras, image_key=image_key)
    assert found.size == size
    left = found.episode(1).frames[:, :, : 96 if size[0] == 32 else 64]
    assert [ident(picture) for picture in left] == [(1, i) for i in range(7)]
    if size == (64, 256):
        right = found.episode(1).frames[:, :, 64:]
        assert [ident(picture) for picture in right] == [(1, i) for i in range(7)]


def test_whole_episodes_have_every_camera_the_state_and_the_last_action(two_cameras):
    found = list(lerobot.episodes(two_cameras))
    assert len(found) == 2
    for e, one in enumerate(found):
        assert (one.camera, list(one.cameras), one.robot) == (KEY, [WRIST], "x")
        assert one.cameras[WRIST].shape == (len(one.frames), 32, 96, 3)
        assert [ident(p) for p in one.frames] == [ident(p) for p in one.cameras[WRIST]]
        assert one.state is not None
        assert one.state.tolist() == [[e, i] for i in range(len(one.frames))]
        assert one.state_names == ("x", "y")
        recorded = acts(e, len(one.frames))
        assert np.array_equal(one.actions, recorded[:-1])
        assert np.array_equal(one.last_action, recorded[-1])
    (named, _) = lerobot.episodes(two_cameras, image_key="wrist", size=16)
    assert (named.camera, dict(named.cameras), named.frames.shape[1:]) == (WRIST, {}, (16, 16, 3))


def test_depth_maps_are_read_only_if_named(two_cameras):
    path = two_cameras / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][WRIST]["info"] = {"video.is_depth_map": True}
    path.write_text(json.dumps(info))
    assert formats.read(two_cameras).size == (64, 64)
    assert formats.read(two_cameras, image_key="wrist").size == (32, 96)


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"cameras": {"wrist": np.zeros((5, 8, 8, 3), np.uint8)}}, r"cameras\['wrist'\]' has 5 rows, expected 6"),
        ({"state": np.zeros((7, 2), np.float32)}, "'state' has 7 rows, expected 6"),
        ({"last_action": np.zeros(3, np.float32)}, r"'last_action' has shape \[3\], expected \[4\]"),
    ],
)
def test_extras_of_an_episode_have_to_fit_it(extras, said):
    one = noise(1)
    with pytest.raises(InputError, match=said):
        Episode(one.frames, one.actions, "", "", one.fps, one.spec, **extras)
