"""Datasets with pictures and videos of cameras and editors."""

import numpy as np
import pyarrow as pa
import pytest
from foreign_data import episode, frame, ident, mp4, v3, v21
from PIL import Image
from test_field_pixels import TURNS, png_16, remux, saved

from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError

VIDEO = "videos/observation.images.cam/chunk-000/file-000.mp4"
SECOND = [(1, i) for i in range(7)]


def turned_jpeg(pixels):
    exif = Image.Exif()
    exif[274] = 6
    return saved(np.rot90(pixels, 1).copy(), "JPEG", exif=exif, quality=95)


def with_pictures(folder, encode):
    v3(folder, images=lambda e, n: pa.array([{"bytes": encode(frame(e, i)), "path": None} for i in range(n)]))
    return folder


def second_episode(folder):
    return [ident(one) for one in formats.read(folder).episode(1).frames]


@pytest.mark.parametrize(
    "encode",
    [
        turned_jpeg,
        lambda pixels: saved(pixels[..., 0]),
        lambda pixels: saved(np.dstack([pixels, np.full((64, 64), 255, np.uint8)])),
        lambda pixels: saved(pixels, "WEBP"),
    ],
    ids=["turned by EXIF", "gray", "with alpha", "webp"],
)
def test_pictures_of_a_dataset_are_read_as_viewers_show_them(tmp_path, encode):
    assert second_episode(with_pictures(tmp_path, encode)) == SECOND


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (lambda _: png_16(1), "row 0: found one channel of more than 8 bits"),
        (lambda pixels: saved(pixels[..., 0].astype(np.float32), "TIFF"), "row 0: found one channel of more than 8"),
        (lambda pixels: saved(pixels).replace(b"IDAT", b"\xfa\x1a=j"), "row 0: not a readable picture"),
        (lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n", "row 0: not a readable picture"),
    ],
    ids=["16 bits", "floats", "damaged", "PostScript"],
)
def test_an_invalid_picture_is_an_error_of_the_check_and_the_reader(tmp_path, encode, said):
    with_pictures(tmp_path, encode)
    with pytest.raises(InputError, match=said):
        formats.read(tmp_path)
    assert any(said in str(finding) for finding in check(tmp_path) if finding.severity == "error")


@pytest.mark.parametrize("kind", ["quarter turn clockwise", "half turn", "mirror"])
def test_a_video_of_a_data_set_is_turned_as_a_player_turns_it(tmp_path, kind):
    matrix, turned = TURNS[kind]
    v3(tmp_path)
    (tmp_path / VIDEO).rename(tmp_path / "straight.mp4")
    remux(tmp_path / "straight.mp4", tmp_path / VIDEO, matrix=matrix)
    assert second_episode(tmp_path) == [ident(turned(one)) for one in episode(1, 7)]


def cut(path, frames):
    """A lossless cut that leaves eight frames of something else in the file, hidden by its edit list."""
    whole = path.with_name("whole.mp4")
    mp4(whole, np.concatenate([episode(9, 8), frames]), 10, opts={"g": "20", "bf": "2"})
    remux(whole, path, start=0.8)
    whole.unlink()


def test_lossless_cuts_pair_the_frames_a_player_shows(tmp_path):
    v21(tmp_path / "lerobot")
    (tmp_path / "worldgym").mkdir()
    for e, n in enumerate((5, 7)):
        cut(tmp_path / f"lerobot/videos/chunk-000/observation.images.cam/episode_{e:06d}.mp4", episode(e, n))
        cut(tmp_path / f"worldgym/{e}.mp4", episode(e, n))
        np.savez(tmp_path / f"worldgym/{e}.npz", np.zeros((n, 10), np.float32))
    assert second_episode(tmp_path / "lerobot") == second_episode(tmp_path / "worldgym") == SECOND
    assert not [finding for finding in check(tmp_path / "lerobot") if finding.severity == "error"]
