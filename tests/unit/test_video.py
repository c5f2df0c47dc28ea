import base64
import io
import os

import av
import numpy as np
import pytest

from worldgymnast import video
from worldgymnast.errors import InputError


def noise(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_lossless_video_is_read_back_bit_for_bit(tmp_path, size):
    frames = noise(25, *size)
    video.encode(tmp_path / "a.mp4", frames, 80 / 3)
    assert np.array_equal(video.decode(tmp_path / "a.mp4"), frames)
    assert np.array_equal(video.decode(tmp_path / "a.mp4", first=7, count=4), frames[7:11])
    assert video.frame_count(tmp_path / "a.mp4") == 25
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_viewable_video_is_yuv420p_and_close(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 33, dtype=np.uint8)[:, None], (6, 33, 33))
    frames = np.ascontiguousarray(np.repeat(ramp[..., None], 3, -1))
    video.encode(tmp_path / "a.mp4", frames, 20, lossless=False)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    found = video.decode(tmp_path / "a.mp4")
    assert found.shape == (6, 34, 34, 3)  # an odd size is padded: yuv420p has none
    assert np.abs(found[:, :33, :33].astype(int) - frames).mean() < 6


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_video_is_an_error_naming_the_file(tmp_path, keep):
    path = tmp_path / "a.mp4"
    video.encode(path, noise(20), 20)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"a\.mp4.*found \d+ readable frames"):
        video.decode(path)


def test_damaged_video_is_an_error_that_counts_the_good_frames(tmp_path):
    path = tmp_path / "a.mp4"
    video.encode(path, noise(40), 20)
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2 : len(blob) // 2 + 300] = bytes(300)
    path.write_bytes(blob)
    with pytest.raises(InputError, match=r"found \d+ readable frames, expected 40"):
        video.decode(path)


def test_missing_file_and_too_few_frames(tmp_path):
    with pytest.raises(InputError, match="no such video file"):
        video.decode(tmp_path / "none.mp4")
    video.encode(tmp_path / "a.mp4", noise(5), 20)
    with pytest.raises(InputError, match="found 5 frames, expected 6"):
        video.decode(tmp_path / "a.mp4", first=3, count=3)


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.VideoWriter, "add", full)
    with pytest.raises(InputError, match="no space left"):
        video.encode(tmp_path / "a.mp4", noise(2), 20)
    assert os.listdir(tmp_path) == []


def test_resize_keeps_what_fits_and_averages_the_rest():
    frames = noise(3)
    assert video.resize(frames, 32) is frames
    assert video.resize(frames, (8, 16)).shape == (3, 8, 16, 3)
    flat = np.full((1, 32, 32, 3), 77, np.uint8)
    assert (video.resize(flat, 8) == 77).all()
    assert video.resize(frames[0], 8).shape == (8, 8, 3)


def test_sheets_and_pairs_have_the_size_of_their_parts():
    assert video.contact_sheet([noise(3), noise(5)], gap=1).shape == (65, 164, 3)
    assert video.side_by_side([noise(3), noise(5)], gap=2).shape == (5, 32, 66, 3)


def test_data_url_is_an_mp4_of_enlarged_frames():
    url = video.data_url(noise(4), 20, width=100)
    head, body = url.split(",", 1)
    assert head == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(body))) as container:
        assert container.streams.video[0].width == 128
        assert sum(1 for _ in container.decode(video=0)) == 4
