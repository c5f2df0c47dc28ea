"""RLDS folders of other programs, and after copying, renaming and damage."""

import gzip
import json
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from foreign_data import FD, IMG, TXT, T, acts, example, frame, ident, png, rlds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rlds_builders import SENTENCE, SHARD, record, seed_rlds, step

from worldgymnast.episodes import formats, tfrecord
from worldgymnast.episodes import rlds as reader
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError


def outcome(root, **options):
    """What `read` gives, or its error."""
    try:
        return formats.read(root, fps=10.0, **options)
    except InputError as error:
        return error


def seen(root, **options):
    """What `read` gives, an EpisodeSet or its error as a string; `check` has to agree."""
    errors = [str(one) for one in check(root, options.get("image_key"), 10.0) if one.severity == "error"]
    found = outcome(root, **options)
    if isinstance(found, InputError):
        assert "\n" not in str(found)
        assert f"error: {found}" in errors
        return str(found)
    assert errors == []
    return found


def refused(root, said, **options):
    """The reader and the check refuse the folder, in the same words."""
    message = seen(root, **options)
    assert isinstance(message, str)
    assert re.search(said, message), message


def warnings(root):
    return "\n".join(str(one) for one in check(root, fps=10.0) if one.severity == "warning")


def rewrite(path, change):
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(json.dumps(data if changed is None else changed))


def steps_of(data):
    return data["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def test_the_seed_is_valid(tmp_path):
    found = seen(seed_rlds(tmp_path))
    assert found.instruction == ("do thing 0", "do thing 1")
    assert found.length.tolist() == [3, 2]
    assert [ident(one) for one in found.frames] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert np.array_equal(found.episode(1).actions, acts(1, 3)[:-1])
    assert warnings(tmp_path).count("warning") == 1  # that it is unlabelled


# ---------------------------------------------------------------- sentences

OBSERVED, META = "steps/observation/natural_language_instruction", "episode_metadata/language_instruction"
SAID = [
    ({SENTENCE: [b"open it"] * 3}, "open it"),
    ({OBSERVED: [b"open it"] * 3}, "open it"),
    ({"steps/natural_language_instruction": [b"open it"] * 3}, "open it"),
    ({"steps/observation/language_instruction": [b"open it"] * 3}, "open it"),
    ({"steps/observation/instruction": [b"open it"] * 3}, "open it"),
    ({META: [b"open it"]}, "open it"),
    ({"episode_metadata/natural_language_instruction": [b"open it"]}, "open it"),
    ({"language_instruction": [b"open it"]}, "open it"),
    ({SENTENCE: [b""] * 3, f"{SENTENCE}_2": [b""] * 3, f"{SENTENCE}_3": [b"third"] * 3}, "third"),
    ({SENTENCE: [b"first"] * 3, f"{SENTENCE}_2": [b"second"] * 3}, "first"),
    ({f"{SENTENCE}_2": [b"second"] * 3, META: [b"plain"]}, "plain"),
    ({SENTENCE: [b""] * 3, OBSERVED: [b"open it"] * 3}, "open it"),
    ({SENTENCE: [b"  "] * 3, META: [b"open it"]}, "open it"),
    ({SENTENCE: [b"", b"open it", b"open it"]}, "open it"),
    ({SENTENCE: [b"open it", b"", b""]}, "open it"),
    ({SENTENCE: [b"\xef\xbb\xbfopen it\n"] * 3}, "open it"),
    ({SENTENCE: [b"open it\0\0\0"] * 3}, "open it"),
    ({SENTENCE: ["öffne\u2028sie\u0085".encode()] * 3}, "öffne\u2028sie\u0085"),
    ({META: [b"", b"open it", b"pull it open"]}, "open it"),
    ({SENTENCE: [b""] * 3}, ""),
    ({SENTENCE: []}, ""),
    ({SENTENCE: np.array([3, 3, 3])}, ""),
    ({SENTENCE: np.array([0.5, 0.5, 0.5], np.float32), META: [b"open it"]}, "open it"),
    (
        {"steps/observation/instruction": np.tile(np.frombuffer("öffne sie\0\0".encode(), np.uint8), 3).astype(int)},
        "öffne sie",
    ),
    ({"steps/instruction": np.array([0, 0, 1] * 3)}, ""),
    ({"steps/instruction": np.array([101, 2054, 102] * 3)}, ""),
    ({"steps/language_embedding": np.zeros(6, np.float32)}, ""),
]


@pytest.mark.parametrize(("features", "expected"), SAID)
def test_the_sentence_is_found_under_every_name(tmp_path, features, expected):
    one = record(0, 3)
    del one[SENTENCE]
    rlds(tmp_path, [one | features], step())
    found = seen(tmp_path)
    assert found.instruction == (expected,)
    assert found.without_instruction == (expected == "")
    assert ("1 of 1 episodes have no instruction" in warnings(tmp_path)) == (expected == "")


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (
            {SENTENCE: [b"open", b"open", b"close"]},
            r'record 0: field \'steps/language_instruction\': found "close" at step 2',
        ),
        ({SENTENCE: [b"", b"open", b"close"]}, 'found "close" at step 2 and "open" before, expected one sentence'),
        ({SENTENCE: [b"open"]}, "found 1 sentences, expected 3, one per step"),
        ({SENTENCE: [b"\xff\xfe"] * 3}, "is not UTF-8 text"),
        ({SENTENCE: [b"x" * 20_000] * 3}, "found 20,000 bytes, expected at most 10,000"),
    ],
)
def test_invalid_sentences_are_refused(tmp_path, features, said):
    rlds(tmp_path, [record(0, 3) | features], step())
    refused(tmp_path, said)


def test_how_many_episodes_have_no_sentence_is_counted(tmp_path):
    rlds(tmp_path, [record(0), record(1, sentences=[b""] * 4), record(2, sentences=[b""] * 4)], step())
    assert seen(tmp_path).without_instruction == 2
    assert "2 of 3 episodes have no instruction" in warnings(tmp_path)


def test_text_under_a_name_that_is_not_read_is_pointed_out(tmp_path):
    one = record(0) | {"steps/observation/what_to_do": [b"open it"] * 4}
    del one[SENTENCE]
    rlds(tmp_path, [one], step(what_to_do=TXT))
    assert seen(tmp_path).without_instruction == 1
    assert "found text under ['steps/observation/what_to_do'], expected language_instruction; rename" in warnings(
        tmp_path
    )


# ---------------------------------------------------------------- several data sets, splits and versions in one folder


def test_two_data_sets_in_one_folder_are_refused(tmp_path):
    seed_rlds(tmp_path)
    rlds(tmp_path, [record(2)], step(), name="other")
    refused(tmp_path, r"found shards of 2 datasets \(my_set, other\), expected one; .* separate folder")


def test_of_several_splits_train_is_read_and_both_report_it(tmp_path, capsys):
    rlds(tmp_path, [record(5)], step(), split="val")
    rlds(tmp_path, [record(6)], step(), split="test")
    refused(tmp_path, r"found splits \['test', 'val'\], expected 'train'")
    seed_rlds(tmp_path)
    assert seen(tmp_path).instruction == ("do thing 0", "do thing 1")
    said = "has splits test, train, val; only 'train' is read"
    assert capsys.readouterr().err == f"{tmp_path}: {said}\n"
    assert said in warnings(tmp_path)
    formats.convert(tmp_path, tmp_path / "new", fps=10)
    assert said in capsys.readouterr().err
    assert reader.read(tmp_path, split="val", fps=10).instruction == ("do thing 5",)
    with pytest.raises(InputError, match="expected 'dev'"):
        reader.read(tmp_path, split="dev", fps=10)


def test_the_only_split_is_read_whatever_its_name(tmp_path):
    rlds(tmp_path, [record(5)], step(), split="val")
    assert seen(tmp_path).instruction == ("do thing 5",)


def three_shards(root):
    rlds(root, [record(index) for index in range(3)], step(), shards=3)
    return [root / f"my_set-train.tfrecord-{index:05d}-of-00003" for index in range(3)]


def test_shards_are_read_in_order(tmp_path):
    three_shards(tmp_path)
    assert seen(tmp_path).instruction == ("do thing 0", "do thing 1", "do thing 2")


def test_a_missing_shard(tmp_path):
    three_shards(tmp_path)[1].unlink()
    refused(tmp_path, r"shards \[1\] of 3 are missing; copy the folder again")


def test_a_shard_twice(tmp_path):
    shards = three_shards(tmp_path)
    shutil.copy(shards[0], shards[1])
    refused(tmp_path, "00001-of-00003: is a copy of my_set-train.tfrecord-00000-of-00003")
    shutil.copy(shards[0], tmp_path / "my_set-train.tfrecord-0-of-3")
    refused(tmp_path, "shard 0 already exists as my_set-train.tfrecord-0")


def test_a_shard_beyond_the_number_of_shards(tmp_path):
    shards = three_shards(tmp_path)
    shards[2].rename(tmp_path / "my_set-train.tfrecord-00007-of-00003")
    refused(tmp_path, "found shard 7, expected at most 2")


def test_two_versions_in_one_folder(tmp_path):
    three_shards(tmp_path)
    rlds(tmp_path, [record(index) for index in range(2)], step(), shards=2)
    refused(tmp_path, "found shards of 2 and of 3 in one folder, expected one version")


def test_a_folder_of_versions_names_them(tmp_path):
    seed_rlds(tmp_path / "1.0.0")
    seed_rlds(tmp_path / "2.0.0")
    with pytest.raises(InputError, match=r"found versions \['1.0.0', '2.0.0'\] of an RLDS dataset, expected one"):
        formats.read(tmp_path)
    assert len(seen(tmp_path / "2.0.0")) == 2


def test_billions_of_shards_by_a_file_name(tmp_path):
    seed_rlds(tmp_path)
    (tmp_path / SHARD).rename(tmp_path / "my_set-train.tfrecord-00000-of-999999999")
    refused(tmp_path, r"shards \[1, 2, 3, 4, 5\] of 999999999 are missing")


def test_metadata_of_another_data_set(tmp_path):
    seed_rlds(tmp_path)
    rewrite(tmp_path / "dataset_info.json", lambda info: info | {"name": "berkeley"})
    refused(tmp_path, 'field \'name\': found "berkeley", expected "my_set"')
    (tmp_path / "dataset_info.json").unlink()
    rewrite(
        tmp_path / "features.json",
        lambda data: steps_of(data)["observation"]["featuresDict"].update(features={"wrist": IMG()}),
    )
    refused(tmp_path, "record 0: found features .* expected 'steps/observation/wrist' by features.json")
    rewrite(tmp_path / "features.json", lambda data: steps_of(data).update(action=T([6])))
    rewrite(
        tmp_path / "features.json",
        lambda data: steps_of(data)["observation"]["featuresDict"].update(features={"image_0": IMG()}),
    )
    refused(tmp_path, "found 28 numbers for 4 steps, expected 6 per step")


def test_a_number_of_shards_or_records_that_contradicts_the_info(tmp_path):
    seed_rlds(tmp_path)
    info = tmp_path / "dataset_info.json"
    rewrite(info, lambda data: data["splits"][0].update(shardLengths=["2", "4"]))
    refused(tmp_path, "found 1 shards, expected 2 by dataset_info.json")
    rewrite(info, lambda data: data["splits"][0].update(shardLengths=["3"]))
    refused(tmp_path, "found 2 records, expected 3 by dataset_info.json")


def test_files_named_like_shards_are_skipped_with_a_warning(tmp_path):
    seed_rlds(tmp_path)
    for name in (f"{SHARD}.crdownload", f"{SHARD} (1)", "my_set-train.tfrecord"):
        (tmp_path / name).write_bytes(b"x")
    assert len(seen(tmp_path)) == 2
    assert warnings(tmp_path).count("its episodes are skipped") == 3


def test_other_formats_of_tensorflow_datasets_are_named(tmp_path):
    seed_rlds(tmp_path)
    (tmp_path / SHARD).rename(tmp_path / "my_set-train.array_record-00000-of-00001")
    refused(tmp_path, "found no shards .*array_record.* a different format")


def test_files_of_macos_are_ignored(tmp_path):
    seed_rlds(tmp_path)
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert len(seen(tmp_path)) == 2


# ---------------------------------------------------------------- pictures


def image(dtype="uint8", channels=3):
    return IMG(channels, dtype)


def depth(steps=4):
    return [png(np.full((64, 64), 560 + i, np.uint16)) for i in range(steps)]


NO_COLOR = {
    "16-bit by features.json": (image("uint16", 1), depth(), r"found no color camera .*uint16 \[64, 64, 1\]"),
    "16-bit of 3 channels": (image("uint16"), depth(), r"found no color camera .*uint16"),
    "float32, stored as RGBA": (
        image("float32", 1),
        [png(np.zeros((64, 64, 4), np.uint8))] * 4,
        "no color camera .*float32",
    ),
    "16-bit by the record": (
        IMG(),
        depth(),
        "step 0: field 'steps/observation/image_0': found one channel of more than 8 bits",
    ),
    "no picture": (IMG(), [b"nothing"] * 4, "step 0: .* not a readable picture"),
    "empty": (IMG(), [b""] * 4, "step 0: .* not a readable picture"),
    "numbers": (IMG(), np.zeros(4, np.float32), "found numbers, expected pictures"),
    "no step": (IMG(), [], "found 0 of 'steps/observation/image_0' pictures, expected one per step"),
    "one too few": (IMG(), [png(frame(0, 0))] * 3, "found 28 numbers for 3 steps, expected 7 per step"),
    "one cut short": (
        IMG(),
        [png(frame(0, 0)), png(frame(0, 1))[:60], *[png(frame(0, 2))] * 2],
        "step 1: .* not a readable picture",
    ),
    "two sizes": (IMG(), [png(frame(0, i, 64 + 8 * i)) for i in range(4)], None),
}


@pytest.mark.parametrize("name", NO_COLOR)
def test_pictures_no_color_camera_took_are_refused(tmp_path, name):
    feature, pictures, said = NO_COLOR[name]
    rlds(tmp_path, [record(0) | {"steps/observation/image_0": pictures}], step(image_0=feature))
    if said is not None:
        refused(tmp_path, said)
        return
    with pytest.raises(InputError, match="frame of 72x64 pixels, expected 64x64"):
        formats.read(tmp_path, fps=10)
    assert any("frame size" in str(one) for one in check(tmp_path) if one.severity == "error")
    assert formats.read(tmp_path, fps=10, size=32).size == (32, 32)


@pytest.mark.parametrize("side", [13_000, 30_000])
def test_a_picture_of_gigabytes_is_refused_by_its_header(tmp_path, side):
    rows = zlib.compress(bytes(3 * side + 1) * 10)  # the header is looked at before the pixels

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    rlds(tmp_path, [record(0) | {"steps/observation/image_0": [bomb] * 4}], step())
    refused(tmp_path, rf"step 0: .*found ({side} x {side}|too many) pixels, expected at most")


def test_damage_inside_one_png_is_one_line(tmp_path):
    pictures = [bytearray(png(frame(0, i))) for i in range(4)]
    at = pictures[2].index(b"IDAT") - 4
    pictures[2][at : at + 4] = struct.pack(">I", struct.unpack(">I", pictures[2][at : at + 4])[0] - 16)
    rlds(tmp_path, [record(0) | {"steps/observation/image_0": [bytes(one) for one in pictures]}], step())
    refused(tmp_path, "record 0: step 2: field 'steps/observation/image_0': not a readable picture")


def test_a_depth_camera_is_never_chosen_and_only_color_ones_count(tmp_path):
    one = record(0) | {"steps/observation/depth": depth()}
    rlds(tmp_path, [one], step(depth=image("uint16", 1)))
    assert [ident(one) for one in seen(tmp_path).frames] == [(0, i) for i in range(4)]
    refused(tmp_path, r"field 'depth': found uint16 \[64, 64, 1\], expected a color picture", image_key="depth")
    refused(tmp_path, r"field 'depth': found uint16", image_key="image_0,depth")
    assert seen(tmp_path, image_key="all").size == (64, 64)


def test_gray_pictures_are_read_if_they_are_the_only_ones_or_named(tmp_path):
    gray = [png(frame(7, i)[..., 0]) for i in range(4)]
    rlds(tmp_path / "only", [record(0) | {"steps/observation/image_0": gray}], step(image_0=image(channels=1)))
    assert ident(seen(tmp_path / "only").frames[2]) == (7, 2)
    rlds(tmp_path / "two", [record(0) | {"steps/observation/ir": gray}], step(ir=image(channels=1)))
    assert ident(seen(tmp_path / "two").frames[2]) == (0, 2)
    assert ident(seen(tmp_path / "two", image_key="ir").frames[2]) == (7, 2)
    one = record(0) | {"steps/observation/depth": gray}
    del one["steps/observation/image_0"]
    rlds(tmp_path / "depth", [one], step() | {"observation": FD({"depth": image()})})
    refused(tmp_path / "depth", "found no color camera among the pictures")


def two_cameras(root, names=("image", "wrist_image"), **options):
    one = record(0)
    del one["steps/observation/image_0"]
    for place, name in enumerate(names):
        pictures = [png(frame(place + 3, i, **(options if place else {}))) for i in range(4)]
        one[f"steps/observation/{name}"] = pictures
    steps = step() | {"observation": FD({name: IMG() for name in names})}
    rlds(root, [one], steps)
    return root


def test_one_of_several_cameras_must_be_named(tmp_path):
    two_cameras(tmp_path)
    refused(tmp_path, r"found cameras \['image', 'wrist_image'\], expected one; name it with --image-key")
    refused(tmp_path, "expected 'left'", image_key="left")
    assert ident(seen(tmp_path, image_key="wrist_image").frames[2]) == (4, 2)
    assert ident(seen(tmp_path, image_key="steps/observation/image").frames[2]) == (3, 2)


@pytest.mark.parametrize("key", ["all", "image,wrist_image", " image , wrist_image "])
def test_several_cameras_are_placed_side_by_side(tmp_path, key):
    found = seen(two_cameras(tmp_path), image_key=key)
    assert found.size == (64, 128)
    assert [ident(found.frames[2][:, :64]), ident(found.frames[2][:, 64:])] == [(3, 2), (4, 2)]


def test_cameras_are_scaled_to_the_height_of_the_first_and_resized_together(tmp_path):
    found = seen(two_cameras(tmp_path, h=32, w=48), image_key="all")
    assert found.size == (64, 64 + 96)
    assert ident(found.frames[2][:, 64:]) == (4, 2)
    assert formats.read(tmp_path, fps=10, image_key=("image", "wrist_image"), size=64).size == (64, 64)


def test_image_0_is_the_main_camera(tmp_path):
    assert ident(seen(two_cameras(tmp_path, ("image_1", "image_0"))).frames[1]) == (4, 1)


def test_a_camera_may_be_nested_or_in_the_step(tmp_path):
    one = record(0)
    blobs = one.pop("steps/observation/image_0")
    rlds(
        tmp_path / "a",
        [one | {"steps/observation/images/top": blobs}],
        step() | {"observation": FD({"images": FD({"top": IMG()})})},
    )
    assert ident(seen(tmp_path / "a").frames[3]) == (0, 3)
    assert ident(seen(tmp_path / "a", image_key="images/top").frames[3]) == (0, 3)
    rlds(tmp_path / "b", [one | {"steps/image": blobs}], step() | {"image": IMG(), "observation": FD({})})
    assert ident(seen(tmp_path / "b").frames[3]) == (0, 3)


def jpeg(picture):
    return png(picture, fmt="JPEG")


RAW = np.stack([frame(0, i) for i in range(4)])
STORED = {
    "jpeg": (IMG(), [jpeg(one) for one in RAW]),
    "rgba": (IMG(4), [png(np.concatenate([one, one[..., :1] * 0 + 255], -1)) for one in RAW]),
    "size not said": ({"image": {"shape": {"dimensions": ["-1", "-1", "3"]}}}, [png(one) for one in RAW]),
    "no shape": ({"image": {}}, [png(one) for one in RAW]),
    "raw numbers": (T([64, 64, 3], "uint8"), RAW.astype(np.int64).ravel()),
    "raw bytes": (
        {"tensor": T([64, 64, 3], "uint8")["tensor"] | {"encoding": "bytes"}},
        [one.tobytes() for one in RAW],
    ),
    "raw zlib": (
        {"tensor": T([64, 64, 3], "uint8")["tensor"] | {"encoding": "zlib"}},
        [zlib.compress(one.tobytes()) for one in RAW],
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_pictures_are_read_however_they_are_stored(tmp_path, name):
    feature, blobs = STORED[name]
    rlds(tmp_path, [record(0) | {"steps/observation/image_0": blobs}], step(image_0=feature))
    found = seen(tmp_path)
    assert [ident(one) for one in found.frames] == [(0, i) for i in range(4)]
    assert found.frames.shape == (4, 64, 64, 3)


RAW_WRONG = {
    "too few numbers": ("none", RAW.astype(np.int64).ravel()[:-1], "found 49151 numbers, expected 12288 per step"),
    "beyond a byte": ("none", RAW.astype(np.int64).ravel() * 3, "not a picture of 64 x 64 x 3 bytes"),
    "too few bytes": ("bytes", [b"abc"] * 4, "not a picture of 64 x 64 x 3 bytes"),
    "bytes for numbers": ("none", [b"abc"] * 4, "found bytes, expected pictures"),
    "a zlib bomb": ("zlib", [zlib.compress(bytes(50_000_000))] * 4, "not a picture of 64 x 64 x 3 bytes"),
    "no zlib": ("zlib", [b"abc"] * 4, "cannot be decompressed"),
}


@pytest.mark.parametrize("name", RAW_WRONG)
def test_invalid_raw_pictures(tmp_path, name):
    encoding, blobs, said = RAW_WRONG[name]
    feature = {"tensor": T([64, 64, 3], "uint8")["tensor"] | {"encoding": encoding}}
    rlds(tmp_path, [record(0) | {"steps/observation/image_0": blobs}], step(image_0=feature))
    refused(tmp_path, said)


# ---------------------------------------------------------------- metadata

DEEP = "[" * 100_000
INFO = [
    (None, None),
    ({"splits": [{"name": "train"}]}, None),
    ({"splits": [{"name": "train", "shardLengths": None}]}, None),
    ({"splits": [{"name": "train", "shardLengths": []}]}, None),
    ({"splits": [{"name": "train", "shard_lengths": [2]}]}, None),
    ({"splits": [{"name": "train", "shardLengths": [2]}]}, None),
    ({"splits": {"train": {"shardLengths": ["2"]}}}, None),
    ({"splits": {"train": {"num_examples": 2}}}, None),
    ({"splits": []}, None),
    ({"splits": None}, None),
    ({"name": None}, None),
    ({}, None),
    ({"splits": {"train": {"shardLengths": ["3"]}}}, "found 2 records, expected 3"),
    ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, r"'splits', shardLengths of 'train': found \[\"x\"\]"),
    ({"splits": [{"name": "train", "shardLengths": [-2]}]}, r"found \[-2\], expected a list of numbers"),
    ({"splits": [{"name": "train", "shardLengths": [2.5]}]}, r"found \[2.5\]"),
    ({"splits": [{"name": "train", "shardLengths": [None]}]}, r"found \[null\]"),
    ({"splits": [{"name": "train", "shardLengths": [10**400]}]}, "expected a list of numbers"),
    ({"splits": [{"name": "train", "shardLengths": 2}]}, "found 2, expected a list"),
    ({"splits": [{"name": "train", "shardLengths": {"0": 2}}]}, "expected a list"),
    ({"splits": "train"}, "'splits': found \"train\", expected a list"),
    ({"splits": ["train"]}, r"'splits\[0\]': found \"train\", expected a JSON object"),
    ({"splits": {"train": 2}}, "'splits.train': found 2, expected a JSON object"),
    ({"splits": 7}, "'splits': found 7"),
    ([], r"dataset_info.json: found \[\], expected a JSON object"),
    ("deep", "dataset_info.json: cannot be read as JSON"),
    ("junk", "dataset_info.json: line 1 is not JSON"),
]


@pytest.mark.parametrize(("info", "said"), INFO)
def test_the_info_only_counts_and_may_be_absent(tmp_path, info, said):
    path = seed_rlds(tmp_path) / "dataset_info.json"
    path.unlink()
    if info is not None:
        path.write_text({"deep": DEEP, "junk": "{nope"}[info] if isinstance(info, str) else json.dumps(info))
    if said is None:
        assert len(seen(tmp_path)) == 2
    else:
        refused(tmp_path, said)


def put(data, value, *path):
    for name in path[:-1]:
        data = data[name]
    data[path[-1]] = value


DIMS = ("action", "tensor", "shape", "dimensions")
OBSERVATION = ("observation", "featuresDict", "features")
FEATURES = [
    ((*DIMS,), None, "'action': found shape {\"dimensions\": null}, expected one axis"),
    ((*DIMS,), "7", "'action': found shape"),
    ((*DIMS,), ["x"], r"'action': found shape .*\[\"x\"\]"),
    ((*DIMS,), [], "'action': found shape"),
    ((*DIMS,), ["-1"], "'action': found shape"),
    ((*DIMS,), ["0"], "'action': found shape"),
    ((*DIMS,), [7.0], "'action': found shape"),
    ((*DIMS,), ["99999999999"], "'action': found shape"),
    ((*DIMS,), ["1", "7"], "'action': found shape .* only flat actions"),
    ((*DIMS,), [10**30], "'action': found shape"),
    (("action", "tensor", "shape"), None, "'action': found shape null"),
    (("action", "tensor", "shape"), {}, "'action': found shape {}"),
    (("action", "tensor"), None, "'action.tensor': found null, expected a JSON object"),
    (("action",), None, "'action': found .* expected one tensor"),
    (
        ("action",),
        FD({"xyz": T([3]), "grip": T([1])}),
        r"'action': found a dictionary \(steps/action/grip, steps/action/xyz\)",
    ),
    (("action",), {"sequence": {"feature": T([7])}}, "'action.tensor': found null"),
    (("observation",), None, "found no color camera"),
    ((*OBSERVATION,), None, "found no color camera"),
    ((*OBSERVATION, "image_0"), None, "found no color camera"),
    ((*OBSERVATION, "image_0", "image"), None, "found no color camera"),
    ((*OBSERVATION, "image_0", "image", "dtype"), 7, "found no color camera"),
]


@pytest.mark.parametrize(("path", "value", "said"), FEATURES)
def test_features_that_cannot_be_read(tmp_path, path, value, said):
    seed_rlds(tmp_path)
    rewrite(tmp_path / "features.json", lambda data: put(steps_of(data), value, *path))
    refused(tmp_path, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "features.json: cannot be read as JSON"),
        ("{nope", "features.json: line 1 is not JSON"),
        ("[]", r"features.json: found \[\], expected a JSON object"),
        ("null", "features.json: found null"),
        ("{}", "field 'steps' is missing"),
        (json.dumps(FD({"steps": None})), "field 'steps' is missing"),
        (json.dumps(FD({"steps": {"sequence": {"feature": None}}})), "field 'steps' is missing"),
        (json.dumps({"featuresDict": None}), "field 'steps' is missing"),
        (None, "features.json: found no such file"),
        ("version https://git-lfs.github.com/spec/v1\n", "features.json: is not JSON .*git lfs pull"),
        ("<!DOCTYPE html>\n<html>", "features.json: is not JSON .it is a web page"),
    ],
)
def test_an_invalid_features_file(tmp_path, text, said):
    path = seed_rlds(tmp_path) / "features.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    refused(tmp_path, said)


def test_features_nested_too_deeply(tmp_path):
    seed_rlds(tmp_path)
    nested = IMG()
    for _ in range(150):
        nested = FD({"x": nested})
    rewrite(tmp_path / "features.json", lambda data: steps_of(data).update(observation=nested))
    refused(tmp_path, "features are nested more than 20 levels deep")


def test_a_byte_order_mark_and_actions_for_action(tmp_path):
    one = record(0)
    one["steps/actions"] = one.pop("steps/action")
    rlds(tmp_path, [one], {("actions" if name == "action" else name): said for name, said in step().items()})
    for name in ("features.json", "dataset_info.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    found = seen(tmp_path)
    assert np.array_equal(found.episode(0).actions, acts(0, 4)[:-1])


# ---------------------------------------------------------------- actions


def test_actions_that_are_not_finite_numbers(tmp_path):
    for number, (values, said) in enumerate(
        {
            "bytes": ([b"x"] * 28, "field 'action': found bytes, expected numbers"),
            "short": (np.zeros(27, np.float32), "found 27 numbers for 4 steps"),
            "none": ([], "field 'action': found bytes"),
            "nan": (np.full(28, np.nan, np.float32), "found NaN or infinity"),
        }.values()
    ):
        rlds(tmp_path / str(number), [record(0) | {"steps/action": values}], step())
        refused(tmp_path / str(number), said)


def test_integer_actions_are_read_and_the_last_one_is_not_validated(tmp_path):
    values = np.arange(28).reshape(4, 7)
    rlds(tmp_path / "a", [record(0) | {"steps/action": values}], step())
    assert np.array_equal(seen(tmp_path / "a").episode(0).actions, values[:-1])
    last = acts(0, 4)
    last[-1] = np.nan
    rlds(tmp_path / "b", [record(0) | {"steps/action": last.ravel()}], step())
    found = seen(tmp_path / "b")
    assert np.array_equal(found.episode(0).actions, last[:-1])
    assert np.isfinite(found.actions).all()


def test_episodes_of_one_step_have_a_frame_and_no_action(tmp_path):
    rlds(tmp_path, [record(0, 1), record(1, 3), record(2, 1)], step())
    found = seen(tmp_path)
    assert found.length.tolist() == [0, 2, 0]
    assert [ident(one) for one in found.frames] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert "one frame and no action in 2 episodes (episode 0, episode 2)" in warnings(tmp_path)
    rlds(tmp_path / "only", [record(0, 1)], step())
    assert seen(tmp_path / "only").length.tolist() == [0]


# ---------------------------------------------------------------- shards


def test_other_files_instead_of_a_shard_are_named(tmp_path):
    shard = seed_rlds(tmp_path) / SHARD
    good = shard.read_bytes()
    cases = {
        gzip.compress(good): "not a TFRecord file .it is compressed with gzip: unpack it",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "Git LFS pointer.*git lfs pull",
        b"<!DOCTYPE html><html>": "it is a web page",
        bytes(4000): "record 0: the checksum of its length is wrong",
        b"short": "record 0: found 5 bytes of its header",
        b"": "found 0 records, expected 2",
    }
    for content, said in cases.items():
        shard.write_bytes(content)
        refused(tmp_path, said)
    (tmp_path / "dataset_info.json").unlink()
    refused(tmp_path, "found 0 records, expected at least 1")
    shard.unlink()
    shard.mkdir()
    refused(tmp_path, "is not a regular file")


def test_a_truncated_shard_reports_the_complete_records(tmp_path):
    shard = seed_rlds(tmp_path) / SHARD
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(tmp_path, f"{SHARD}: record 1: found .* the file is truncated after 1 complete records")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31 + 1, 2**30])
def test_a_record_of_an_impossible_length(tmp_path, length):
    head = struct.pack("<Q", length)
    shard = seed_rlds(tmp_path) / SHARD
    shard.write_bytes(head + struct.pack("<I", tfrecord.masked_crc(head)) + b"x" * 50)
    refused(tmp_path, "record 0: found (a length of|50 bytes, expected)")


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(name, feature):
    return field(1, field(1, field(1, name) + field(2, feature)))


NO_EXAMPLE = [
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0a" + b"\xff" * 12,
    b"\x0b\x0c",
    b"\x08\x01",
    field(1, b"\x08\x01"),
    entry(b"\xff\xfe", b""),
    entry(b"steps/action", field(3, field(1, b"\xff" * 11))),
    entry(b"steps/action", field(3, field(1, b"\xff"))),
    entry(b"steps/action", field(3, b"\x08" + b"\xff" * 9 + b"\x7f")),
    entry(b"steps/action", field(2, field(1, b"abc"))),
    entry(b"steps/action", field(1, b"\x08\x01")),
    entry(b"steps/action", b"\x08\x01"),
]


@pytest.mark.parametrize("content", NO_EXAMPLE)
def test_records_that_are_not_examples(tmp_path, content):
    tfrecord.write_records(seed_rlds(tmp_path) / SHARD, [content, example(record(1))])
    refused(tmp_path, "record 0: ")
    errors = [str(one) for one in check(tmp_path) if one.severity == "error"]
    assert len(errors) == 1  # the next record is looked at as well, and is sound


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_packed_integers_of_any_width(numbers):
    blob = example({"a": np.array(numbers, np.int64)})
    assert tfrecord.parse_example(blob)["a"].tolist() == numbers


# ---------------------------------------------------------------- mutations


def swapped(data, place, value):
    """`data` with the `place`-th value anywhere in it replaced."""
    at = [-1]

    def walk(node):
        at[0] += 1
        if at[0] == place:
            return value
        if isinstance(node, dict):
            return {key: walk(child) for key, child in node.items()}
        return [walk(child) for child in node] if isinstance(node, list) else node

    return walk(data)


ODD = [None, "", "x", "7", [], {}, [None], -1, 0, 1e999, float("nan"), 2**70, True, "-1", {"x": 1}, [[1]], 1.5, "\0"]
JSON_FILES = ("features.json", "dataset_info.json")


def survives(root):
    """Both end in a result or an InputError; and where the reader refuses, the check has an error."""
    errors = [one for one in check(root) if one.severity == "error"]
    assert errors or not isinstance(outcome(root, size=8), InputError)


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    return seed_rlds(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def copied(seed, tmp_path):
    return shutil.copytree(seed, tmp_path / "copy")


QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(name=st.sampled_from(JSON_FILES), place=st.integers(0, 90), value=st.sampled_from(ODD))
def test_any_value_of_the_metadata_may_be_anything(seed, copied, name, place, value):
    original = json.loads((seed / name).read_text())
    (copied / name).write_text(json.dumps(swapped(original, place, value)))
    survives(copied)
    (copied / name).write_text(json.dumps(original))


@QUICK
@given(
    flips=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=3), cut=st.integers(0, 99)
)
def test_any_byte_of_a_record_may_be_anything(seed, copied, flips, cut):
    first, second = (bytearray(blob) for blob in tfrecord.records(seed / SHARD))
    for at, byte in flips:
        first[at % len(first)] = byte
    tfrecord.write_records(copied / SHARD, [bytes(first), bytes(second[: len(second) - cut])])
    survives(copied)


@QUICK
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), keep=st.floats(0, 1))
def test_any_byte_of_a_shard_may_be_anything(seed, copied, at, byte, keep):
    blob = bytearray((seed / SHARD).read_bytes())
    blob[at % len(blob)] = byte
    (copied / SHARD).write_bytes(bytes(blob[: max(1, int(len(blob) * max(keep, 0.5)))]))
    survives(copied)
