"""Videos and pictures as cameras, editors and strangers write them: what is read is what a person sees."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.foreign_data import episode, ident, mp4
from worldgymnast import video
from worldgymnast.types import InputError
from worldgymnast.video_reader import frame_times

CUT = {"bf": "2", "g": "20"}
TURNS = {  # the display matrix's a, b, c, d with what a player shows
    "quarter turn clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "quarter turn counterclockwise": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "half turn": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "mirror": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transpose": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    "transverse": ((0, -1, -1, 0), lambda x: np.rot90(x.swapaxes(0, 1), 2)),
    "all zeros: none": ((0, 0, 0, 0), lambda x: x),
}


def remux(source, target, start=0.0, matrix=None, fmt="mp4", edit=lambda packet: packet):
    """A copy without encoding, as `ffmpeg -ss START -i SOURCE -c copy TARGET` makes it."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=fmt) as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        if matrix:
            a, b, c, d = (x << 16 for x in matrix)
            copied.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        first = int(start / (stream.time_base or 1))
        old.seek(first, stream=stream)
        for packet in old.demux(stream):
            if packet.dts is not None and (packet := edit(packet)):
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copied
                new.mux(packet)


def shown(path):
    return [(round(time, 3), ident(frame)) for time, frame in video.iterate_timed(path)]


@pytest.mark.parametrize(("start", "first"), [(0.7, 7), (2.5, 25)])
def test_a_lossless_cut_shows_what_a_player_shows(tmp_path, start, first):
    mp4(tmp_path / "whole.mp4", episode(3, 40), 10, opts=CUT)
    remux(tmp_path / "whole.mp4", tmp_path / "cut.mp4", start)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert container.streams.video[0].frames > 40 - first  # the frames before the cut are still in the file
    expected = [(round(i / 10, 3), (3, first + i)) for i in range(40 - first)]
    assert shown(tmp_path / "cut.mp4") == expected
    assert np.allclose(frame_times(tmp_path / "cut.mp4"), [time for time, _ in expected])
    assert video.rate(tmp_path / "cut.mp4") == pytest.approx(10)


@pytest.mark.parametrize("kind", TURNS)
def test_the_display_matrix_is_obeyed(tmp_path, kind):
    matrix, turned = TURNS[kind]
    mp4(tmp_path / "a.mp4", episode(5, 3, w=96), 10)
    remux(tmp_path / "a.mp4", tmp_path / "b.mp4", matrix=matrix)
    assert np.array_equal(video.decode(tmp_path / "b.mp4"), [turned(x) for x in video.decode(tmp_path / "a.mp4")])


def test_another_angle_is_refused(tmp_path):
    mp4(tmp_path / "a.mp4", episode(5, 3), 10)
    remux(tmp_path / "a.mp4", tmp_path / "b.mp4", matrix=(1, 1, -1, 1))
    with pytest.raises(InputError, match=r"b\.mp4: found frames to be turned by -45 degrees, expected a multiple"):
        video.decode(tmp_path / "b.mp4")


FORMATS = [
    ("a.mp4", "libx265", "yuv420p10le", "mp4", {}),
    ("a.mp4", "libsvtav1", "yuv420p", "mp4", {}),
    ("a.mp4", "libx264", "gray", "mp4", {}),
    ("a.webm", "libvpx-vp9", "yuva420p", "webm", {}),
    ("a.webm", "libvpx", "yuv420p", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("a.avi", "libx264", "yuv420p", "avi", {"bf": "2"}),
    ("a.avi", "mjpeg", "yuvj420p", "avi", {}),
    ("a.mkv", "ffv1", "bgra", "matroska", {}),
    ("a.mov", "png", "rgb48be", "mov", {}),
    ("a.ts", "libx264", "yuv420p", "mpegts", {"bf": "2"}),
    ("a.gif", "gif", "rgb8", "gif", {}),
]


@pytest.mark.parametrize(("name", "codec", "pixels", "fmt", "options"), FORMATS)
def test_other_codecs_and_containers_are_read_with_their_times(tmp_path, name, codec, pixels, fmt, options):
    mp4(tmp_path / name, episode(3, 12), 10, codec=codec, pix=pixels, fmt=fmt, opts=options)
    assert shown(tmp_path / name) == [(round(i / 10, 3), (3, i)) for i in range(12)]
    assert np.allclose(frame_times(tmp_path / name), np.arange(12) / 10)


@pytest.mark.parametrize("name", ["gray12le", "gray16le"])
def test_depth_in_a_video_is_no_picture(tmp_path, name):
    mp4(tmp_path / "a.mkv", episode(3, 2), 10, codec="ffv1", pix=name, fmt="matroska")
    with pytest.raises(InputError, match=rf"a\.mkv: found frames of format {name}, .*name another camera"):
        video.decode(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    "name", ["2026-11-26T10:30:00", "out:1", "100%d", "a?b", "-y", "π 視頻", "concat:a|b", "http:"]
)
def test_a_name_is_a_file_and_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    frames = episode(3, 4)
    for path in (f"{name}.mp4", f"{name}/0.mp4"):
        Path(path).parent.mkdir(exist_ok=True)
        video.encode(path, frames, 10)
        assert np.array_equal(video.decode(path), frames)
        assert Path(path).is_file()
    with pytest.raises(InputError, match="null byte"):
        video.decode(f"{name}\0.mp4")
    with pytest.raises(InputError, match="null byte"):
        video.VideoWriter(f"{name}\0.mp4", (64, 64), 10)


@pytest.mark.parametrize("stamps", [(0, 1, 1, 2), (0, 5, 3, 7)])
def test_time_stamps_that_do_not_increase_are_an_error_that_says_where(tmp_path, stamps):
    mp4(tmp_path / "a.mp4", episode(3, 4), 10, opts={"bf": "0", "g": "1"})
    given = iter(enumerate(stamps))

    def edit(packet):
        packet.dts, time = next(given)
        packet.pts = 1024 * time + 10
        return packet

    remux(tmp_path / "a.mp4", tmp_path / "b.mkv", fmt="matroska", edit=edit)
    with pytest.raises(InputError, match=r"b\.mkv: frame 2 is stamped .* s, expected later than frame 1 at"):
        video.decode(tmp_path / "b.mkv")
