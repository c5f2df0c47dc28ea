"""WorldGym folders of other programs, and after copying, renaming and damage."""

import io
import json
import re
import shutil
import struct
import warnings
import zipfile

import numpy as np
import pytest
from foreign_data import episode, frame, ident, mp4
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from worldgymnast import video
from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError


def actions(index, rows):
    found = np.random.default_rng(index).uniform(-1, 1, (rows, 10)).astype(np.float32)
    found[:, 7:] = 0
    return found


def add(root, name, index, rows=4, notes=None):
    """One episode; frame i of it carries (index, i)."""
    mp4(root / f"{name}.mp4", episode(index, rows), fps=20)
    np.savez(root / f"{name}.npz", actions(index, rows))
    if notes is not None:
        (root / f"{name}.json").write_text(json.dumps(notes))


def seed_worldgym(root):
    """A valid data set of two short episodes, one with notes."""
    root.mkdir(parents=True, exist_ok=True)
    add(root, "0", 0, 4, {"instruction": "open it", "task": "door", "fps": 5, "success": [False, False, True, 1]})
    add(root, "1", 1, 3)
    return root


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    return seed_worldgym(tmp_path_factory.mktemp("seed") / "gym")


@pytest.fixture
def root(seed, tmp_path):
    return shutil.copytree(seed, tmp_path / "gym")


def outcome(root, **options):
    """What `read` gives, or its error."""
    try:
        return formats.read(root, **options)
    except InputError as error:
        return error


def errors_of(root):
    return [str(one) for one in check(root) if one.severity == "error"]


def seen(root):
    """What `read` gives, which `check` has no errors about."""
    assert errors_of(root) == []
    return formats.read(root)


def refused(root, said):
    """The reader refuses the folder in one line, and the check has an error of the same words."""
    with pytest.raises(InputError) as error:
        formats.read(root)
    message = str(error.value)
    assert "\n" not in message
    assert re.search(said, message), message
    assert f"error: {message}" in errors_of(root)


def test_the_seed_is_valid(root):
    found = seen(root)
    assert found.instruction == ("open it", "")
    assert found.without_instruction == 1
    assert found.length.tolist() == [3, 2]
    assert [ident(one) for one in found.frames] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert np.array_equal(found.episode(1).actions, actions(1, 3)[:-1])
    assert found.success.tolist() == [False, False, True, True, False, False, False]
    assert found.labelled.tolist() == [True, False]
    assert any("1 of 2 episodes have no instruction" in str(one) for one in check(root))


# ---------------------------------------------------------------- notes

SUCCESS = [
    (None, None),
    (True, [0, 0, 0, 1]),
    (False, [0, 0, 0, 0]),
    ([0, 1, 1, 0], [0, 1, 1, 0]),
    ([False, True, True, True], [0, 1, 1, 1]),
    ([0.0, 1.0, 1.0, 1.0], [0, 1, 1, 1]),
]


@pytest.mark.parametrize(("value", "expected"), SUCCESS)
def test_valid_labels(root, value, expected):
    (root / "0.json").write_text(json.dumps({"success": value}))
    found = seen(root)
    assert found.labelled[0] == (expected is not None)
    assert found.success[:4].tolist() == (expected or [False] * 4)


NOTES = [
    *[
        ({"success": value}, "'success': found .*, expected true, false, or a list of them")
        for value in ("no", "false", "yes", 2, 1, 0, 0.5, float("nan"), {"0": True}, "")
    ],
    *[
        ({"success": [False, False, value, True]}, "'success': found .* at frame 2, expected true or false")
        for value in ("no", "false", 2, -1, None, 0.5, float("nan"), 1e999, [True], {}, 2**70)
    ],
    ({"success": [True] * 3}, "'success': found 3 labels, expected 4, one per action"),
    ({"success": []}, "'success': found 0 labels"),
    ({"success": [[True] * 4]}, "'success': found 1 labels"),
    *[
        ({"fps": value}, "'fps': found .*, expected more than 0, at most 10000")
        for value in (0, None, float("nan"), 1e999, -1e999, -5, "5", [5], True, 10**400, 1e9)
    ],
    *[
        ({"layout": value}, "'layout': found .*, expected null or 0")
        for value in (2**70, 2**63, -1, 3.0, "3", True, [])
    ],
    *[
        ({name: value}, f"'{name}': found .*, expected a string")
        for name in ("instruction", "task", "source")
        for value in (7, ["open it"], {"en": "open it"}, True, float("nan"))
    ],
]


@pytest.mark.parametrize(("notes", "said"), NOTES)
def test_invalid_notes(root, notes, said):
    (root / "0.json").write_text(json.dumps(notes))
    refused(root, rf"0\.json: field {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "0.json: cannot be read as JSON"),
        ("[]", r"0.json: found \[\], expected a JSON object"),
        ("null", "0.json: found null, expected a JSON object"),
        ('"open it"', "0.json: found .* expected a JSON object"),
        ("", "0.json: line 1 is not JSON"),
        ("{'instruction': 'open it'}", "0.json: line 1 is not JSON"),
        ('{"fps": ' + "9" * 5000 + "}", "0.json: cannot be read as JSON"),
        (b"\xff\xfe{\x00", "0.json: is not UTF-8"),
    ],
)
def test_notes_that_are_not_an_object(root, text, said):
    (root / "0.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(root, said)


def test_notes_that_are_a_dangling_link_are_an_error(root):
    (root / "0.json").unlink()
    (root / "0.json").symlink_to("moved.json")
    refused(root, r"0\.json: found no such file")


def test_notes_with_a_byte_order_mark_line_separators_and_nulls(root):
    notes = {"instruction": "open\u2028it\u0085", "task": None, "source": None, "layout": None, "success": None}
    content = json.dumps(notes, ensure_ascii=False).encode()
    (root / "0.json").write_bytes(b"\xef\xbb\xbf" + content)
    found = seen(root)
    assert found.instruction[0] == "open\u2028it\u0085"
    assert (found.task[0], found.source[0], found.layout[0], found.fps) == ("open it", "", -1, 5.0)


def test_notes_of_a_judge_are_ignored_by_the_reader(root):
    (root / "0.json").write_text(json.dumps({"instruction": "lift", "partial_credit_criteria": ["any"], "layout": 12}))
    found = seen(root)
    assert (found.instruction[0], found.layout[0]) == ("lift", 12)


def test_two_rates_of_the_robot(root):
    (root / "1.json").write_text('{"fps": 10}')
    refused(root, r"1\.json: field 'fps': found 10, expected 5 as in 0.mp4")
    (root / "1.json").unlink()
    mp4(root / "1.mp4", episode(1, 3), fps=10)
    refused(root, r"1\.mp4: found 10 frames per second, expected 20")


# ---------------------------------------------------------------- the files beside one another


def test_files_of_macos_are_ignored(root):
    for path in list(root.iterdir()):
        (root / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert len(seen(root)) == 2


def test_actions_without_a_video_are_refused_by_both(root):
    (root / "1.mp4").unlink()
    refused(root, r"1\.npz: video: found none, expected 1\.mp4")


def test_a_video_without_actions(root):
    (root / "1.npz").unlink()
    refused(root, r"1\.npz: no such file, expected the actions of 1\.mp4")


def test_videos_of_one_name(root):
    shutil.copy(root / "1.mp4", root / "1.MP4")
    refused(root, r"1\.MP4: found two videos of this name")
    (root / "1.mp4").unlink()
    assert len(seen(root)) == 2


def test_different_numbers_of_frames_and_rows(root):
    np.savez(root / "1.npz", actions(1, 5))
    with pytest.raises(InputError, match=r"1\.mp4: found 3 frames, expected 5, one per row of 1\.npz"):
        formats.read(root)
    assert any("1.mp4" in one and "found 3, expected 5" in one for one in errors_of(root))


def test_data_sets_of_two_formats_in_one_folder(root):
    (root / "my_set-train.tfrecord-00000-of-00001").write_bytes(b"")
    for function in (formats.read, check):
        with pytest.raises(InputError, match=r"found datasets of 2 formats \(RLDS, WorldGym\), expected one"):
            function(root)


def test_an_episode_of_one_frame_has_no_action(root):
    add(root, "2", 2, 1)
    found = seen(root)
    assert found.length.tolist() == [3, 2, 0]
    assert ident(found.frames[-1]) == (2, 0)
    assert any("one frame and no action in 1 episodes (2)" in str(one) for one in check(root))


def test_a_folder_whose_name_looks_like_a_protocol(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root.rename("2026-11-26T10:30:00")
    assert len(seen("2026-11-26T10:30:00")) == 2


def test_damage_in_a_video_is_detected_every_time(root):
    path = root / "1.mp4"
    mp4(path, episode(1, 2), fps=20)
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") - 4
    end = begin + struct.unpack(">I", content[begin : begin + 4])[0]
    content[end - 8 : end] = b"\x80" * 8
    path.write_bytes(bytes(content))
    np.savez(root / "1.npz", actions(1, 2))
    for _ in range(30):
        with pytest.raises(InputError, match=r"1\.mp4: the video is truncated or damaged: found 1 readable frames"):
            list(video.iterate_frames(path))
    refused(root, "truncated or damaged")


def test_a_video_turned_by_its_display_matrix_is_read_as_players_show_it(tmp_path):
    add(tmp_path, "0", 0, 4)
    upright = [frame(0, i) for i in range(4)]
    path = tmp_path / "0.mp4"
    mp4(path, np.stack([np.rot90(one) for one in upright]), fps=20)
    content = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(identity, content.index(b"tkhd"))
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + turned + content[at + len(identity) :])
    assert [ident(one) for one in seen(tmp_path).frames] == [(0, i) for i in range(4)]


# ---------------------------------------------------------------- npz


def header(shape, dtype="<f4", version=(1, 0)):
    file = io.BytesIO()
    said = {"descr": dtype, "fortran_order": False, "shape": shape}
    (npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0)(file, said)
    return file.getvalue()


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")  # one name twice
        for name, content in members:
            file.writestr(name, content)


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


ROWS = actions(1, 3)
GOOD = {
    "float64": ROWS.astype(np.float64),
    "big endian": ROWS.astype(">f4"),
    "columns first": np.asfortranarray(ROWS),
    "float16": ROWS.astype(np.float16),
    "whole numbers": np.round(ROWS).astype(np.int8),
    "a last row of NaN": np.concatenate([ROWS[:-1], np.full((1, 10), np.nan, np.float32)]),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_actions_of_any_type_of_number(root, name, save):
    save(root / "1.npz", GOOD[name])
    if "NaN" in name:
        assert outcome(root).length.tolist() == [3, 2]
    else:
        assert np.array_equal(seen(root).episode(1).actions, GOOD[name][:-1].astype(np.float32))


def test_other_arrays_are_ignored(root):
    np.savez(root / "1.npz", ROWS, np.zeros(3), names=np.array(["a", "b"]))
    assert np.array_equal(seen(root).episode(1).actions, ROWS[:-1])


BIG = (2**40, 10)
BAD = {
    "arr_0 without npy": ([("arr_0", ROWS.tobytes())], r"'arr_0' is missing, found \[\"arr_0\"\]"),
    "another name": ([("actions.npy", saved(ROWS))], r"'arr_0' is missing, found \[\"actions\"\]"),
    "none": ([], r"'arr_0' is missing, found \[\]"),
    "twice": ([("arr_0.npy", saved(ROWS))] * 2, "'arr_0' is missing, found .* once"),
    "pickled objects": ([("arr_0.npy", saved(np.array([[None] * 10] * 3), allow_pickle=True))], "numpy type object"),
    "strings": ([("arr_0.npy", saved(np.full((3, 10), "x")))], "numpy type <U1, expected float32"),
    "void": ([("arr_0.npy", saved(np.zeros((3, 10), "V4")))], r"numpy type \|V4"),
    "fields": ([("arr_0.npy", saved(np.zeros((3, 10), [("a", "f4")])))], "numpy type"),
    "bools": ([("arr_0.npy", saved(np.zeros((3, 10), bool)))], "numpy type bool"),
    "complex": ([("arr_0.npy", saved(np.zeros((3, 10), complex)))], "numpy type complex128"),
    "dates": ([("arr_0.npy", saved(np.zeros((3, 10), "M8[s]")))], "numpy type datetime64"),
    "seven wide": ([("arr_0.npy", saved(ROWS[:, :7]))], r"found shape \[3, 7\], expected \[T, 10\]"),
    "one axis": ([("arr_0.npy", saved(ROWS.ravel()))], r"found shape \[30\]"),
    "no axis": ([("arr_0.npy", saved(np.float32(1)))], r"found shape \[\]"),
    "no rows": ([("arr_0.npy", saved(ROWS[:0]))], r"found shape \[0, 10\]"),
    "terabytes by the header": ([("arr_0.npy", header(BIG) + bytes(100))], r"found shape \[1099511627776, 10\]"),
    "gigabytes of zeros": (
        [("arr_0.npy", header((990_000, 10), "<f8") + bytes(2000))],
        "found 2000 bytes, expected 79",
    ),
    "less than it says": ([("arr_0.npy", saved(ROWS)[:-4])], "found 116 bytes, expected 120"),
    "more than it says": ([("arr_0.npy", saved(ROWS) + bytes(9))], "found 129 bytes, expected 120"),
    "no npy": ([("arr_0.npy", b"x" * 500)], "cannot be read as npz"),
    "empty": ([("arr_0.npy", b"")], "cannot be read as npz"),
    "an endless header": (
        [("arr_0.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b" " * 10**6)],
        "cannot be read",
    ),
    "a header of another version": ([("arr_0.npy", b"\x93NUMPY\3\0" + header((3, 10))[8:])], r"npy version \(3, 0\)"),
    "infinity in float32": ([("arr_0.npy", saved(np.full((3, 10), 1e200)))], "found NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD)
def test_actions_that_cannot_be_read(root, name):
    members, said = BAD[name]
    archive(root / "1.npz", members)
    if "NaN" in said:
        assert re.search(said, str(outcome(root)))
        assert any("NaN" in one for one in errors_of(root))
    else:
        refused(root, rf"1\.npz: .*{said}")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_does_not_write_is_refused(root, method):
    archive(root / "1.npz", [("arr_0.npy", header((990_000, 10), "<f8") + bytes(10**6))], method)
    refused(root, f"found compression {method}, expected none or deflate")


def test_a_bomb_is_refused_by_its_shape_not_by_running_out_of_memory(root):
    archive(root / "1.npz", [("arr_0.npy", header((20_000_000, 10)) + bytes(50_000_000))])
    refused(root, r"found shape \[20000000, 10\]")


def patched(path, local, central, value):
    """Writes two bytes into the local header and the one of the directory of the only member."""
    content = bytearray(path.read_bytes())
    content[local : local + 2] = value
    at = content.index(b"PK\1\2") + central
    content[at : at + 2] = value
    path.write_bytes(bytes(content))


def test_encrypted_and_unknown_methods_and_damage(root):
    path = root / "1.npz"
    for local, central, value, said in ((6, 8, b"\1\0", "encrypted"), (8, 10, b"\x62\0", "found compression 98")):
        np.savez(path, ROWS)
        patched(path, local, central, value)
        refused(root, rf"1\.npz: .*{said}")
    np.savez(path, ROWS)
    content = bytearray(path.read_bytes())
    content[content.index(ROWS.tobytes()) + 5] ^= 1
    path.write_bytes(bytes(content))
    refused(root, "Bad CRC-32")


def test_other_files_instead_of_an_npz_are_named(root):
    path = root / "1.npz"
    cases = {
        saved(ROWS): "it is an array written by numpy.save",
        b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
        b"<html><body>404": "it is a web page",
        b"": "cannot be read as npz",
        b"nonsense": "cannot be read as npz .File is not a zip file.",
    }
    for content, said in cases.items():
        path.write_bytes(content)
        refused(root, said)
    path.unlink()
    path.mkdir()
    refused(root, "is not a regular file")


# ---------------------------------------------------------------- mutations

ODD = [None, "", "x", "7", [], {}, [None], -1, 0, 1e999, float("nan"), 2**70, True, "no", {"x": 1}, [[1]], 1.5, [2] * 4]
KEYS = ["instruction", "task", "source", "layout", "fps", "success", "other"]
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def survives(root):
    """Both end in a result or an InputError; and where the reader refuses, the check has an error."""
    assert errors_of(root) or not isinstance(outcome(root, size=8), InputError)


@QUICK
@given(notes=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD)))
def test_any_note_may_be_anything(root, notes):
    (root / "0.json").write_text(json.dumps(notes))
    survives(root)


@QUICK
@given(at=st.integers(0, 10**4), byte=st.integers(0, 255), keep=st.floats(0.3, 1.2))
def test_any_byte_of_an_npz_may_be_anything(seed, root, at, byte, keep):
    content = bytearray((seed / "1.npz").read_bytes())
    content[at % len(content)] = byte
    (root / "1.npz").write_bytes(bytes(content[: int(len(content) * keep)]))
    survives(root)


@QUICK
@given(place=st.integers(0, 90), letter=st.sampled_from("0123456789-,()[]{}'<>|OfVx \n"))
def test_any_letter_of_an_array_header_may_be_anything(root, place, letter):
    content = bytearray(saved(ROWS))
    content[10 + place] = ord(letter)
    archive(root / "1.npz", [("arr_0.npy", bytes(content))])
    survives(root)
