"""Videos and pictures of cameras, editors and strangers are read as viewers show them."""

import io
import os
import struct
import subprocess
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from foreign_data import episode, ident, mp4, png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worldgymnast import video, video_reader
from worldgymnast.episodes.starts import read_starts
from worldgymnast.errors import InputError
from worldgymnast.pictures import FORMATS, open_picture
from worldgymnast.scenes.cutouts import load_cutouts
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


def remux(source, target, start=0.0, matrix=None, fmt="mp4", edit=lambda packet: packet, movflags=""):
    """A copy without encoding, as `ffmpeg -ss START -i SOURCE -c copy TARGET` makes it."""
    flags = {"movflags": movflags} if movflags else {}
    with av.open(str(source)) as old, av.open(str(target), "w", format=fmt, options=flags) as new:
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


@pytest.mark.parametrize(("start", "first"), [(0.7, 7), (2.5, 25), (0.75, 8)])
@pytest.mark.parametrize("flags", ["", "faststart", "frag_keyframe+delay_moov"])
def test_a_lossless_cut_shows_what_a_player_shows(tmp_path, start, first, flags):
    mp4(tmp_path / "whole.mp4", episode(3, 40), 10, opts=CUT)
    remux(tmp_path / "whole.mp4", tmp_path / "cut.mp4", start, movflags=flags)
    with av.open(str(tmp_path / "cut.mp4")) as container:  # the frames before the cut are still in the file
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > 40 - first
    expected = [(round(i / 10, 3), (3, first + i)) for i in range(40 - first)]
    assert shown(tmp_path / "cut.mp4") == expected
    assert np.allclose(frame_times(tmp_path / "cut.mp4"), [time for time, _ in expected])
    assert video.rate(tmp_path / "cut.mp4") == pytest.approx(10)


def test_a_cut_whose_first_frames_cannot_be_decoded_is_refused(tmp_path):
    """They refer to frames before the cut; what a decoder gives instead begins one frame later."""
    options = {"g": "20", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}
    mp4(tmp_path / "a.mp4", episode(3, 60), 10, opts=options)
    for flags in ("", "frag_keyframe+delay_moov"):
        remux(tmp_path / "a.mp4", tmp_path / "b.mp4", start=3.9, movflags=flags)
        with pytest.raises(InputError, match=r"b\.mp4: the first frames cannot be decoded, as after damage or a cut"):
            video.decode(tmp_path / "b.mp4")


@pytest.mark.parametrize("kind", TURNS)
def test_the_display_matrix_is_applied(tmp_path, kind):
    matrix, turned = TURNS[kind]
    mp4(tmp_path / "a.mp4", episode(5, 3, w=96), 10)
    remux(tmp_path / "a.mp4", tmp_path / "b.mp4", matrix=matrix)
    assert np.array_equal(video.decode(tmp_path / "b.mp4"), [turned(x) for x in video.decode(tmp_path / "a.mp4")])


def test_another_angle_is_refused(tmp_path):
    mp4(tmp_path / "a.mp4", episode(5, 3), 10)
    remux(tmp_path / "a.mp4", tmp_path / "b.mp4", matrix=(1, 1, -1, 1))
    with pytest.raises(InputError, match=r"b\.mp4: found a rotation of -45 degrees, expected a multiple"):
        video.decode(tmp_path / "b.mp4")


CONTAINERS = [
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


@pytest.mark.parametrize(("name", "codec", "pixels", "fmt", "options"), CONTAINERS)
def test_other_codecs_and_containers_are_read_with_their_times(tmp_path, name, codec, pixels, fmt, options):
    mp4(tmp_path / name, episode(3, 12), 10, codec=codec, pix=pixels, fmt=fmt, opts=options)
    assert shown(tmp_path / name) == [(round(i / 10, 3), (3, i)) for i in range(12)]
    assert np.allclose(frame_times(tmp_path / name), np.arange(12) / 10)


@pytest.mark.parametrize("name", ["gray12le", "gray16le"])
def test_depth_in_a_video_is_refused(tmp_path, name):
    mp4(tmp_path / "a.mkv", episode(3, 2), 10, codec="ffv1", pix=name, fmt="matroska")
    with pytest.raises(InputError, match=rf"a\.mkv: found frames of format {name}, .*name another camera"):
        video.decode(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    "name", ["2026-11-26T10:30:00", "out:1", "100%d", "a?b", "-y", "π 視頻", "concat:a|b", "http:"]
)
def test_a_name_is_a_file_not_a_protocol(tmp_path, monkeypatch, name):
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
        video.encode(f"{name}\0.mp4", frames, 10)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e9])
def test_an_invalid_rate_is_refused(tmp_path, fps):
    with pytest.raises(InputError, match=r"frames per second, expected 0.001 to 1000"):
        video.encode(tmp_path / "a.mp4", episode(1, 2), fps)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stamps", [(0, 1, 1, 2), (0, 5, 3, 7)])
def test_non_increasing_timestamps_are_an_error_with_its_location(tmp_path, stamps):
    mp4(tmp_path / "a.mp4", episode(3, 4), 10, opts={"bf": "0", "g": "1"})
    given = iter(enumerate(stamps))

    def edit(packet):
        packet.dts, time = next(given)
        packet.pts = 1024 * time + 10
        return packet

    remux(tmp_path / "a.mp4", tmp_path / "b.mkv", fmt="matroska", edit=edit)
    with pytest.raises(InputError, match=r"b\.mkv: frame 2 has timestamp .* s, expected later than frame 1 at"):
        video.decode(tmp_path / "b.mkv")


def voice(container):
    return container.add_stream("aac", rate=48000, layout="mono")


def sound(container, stream, count=20):
    for i in range(count):
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        part.sample_rate, part.pts = 48000, 1024 * i
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def track(container, frames, codec="libx264", pixels="yuv420p", cover=False):
    stream = container.add_stream(codec, rate=10)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
    if cover:
        stream.disposition = Disposition.attached_pic
    return stream, frames


def fill(container, *tracks):
    for stream, frames in tracks:
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_the_first_stream_need_not_be_the_video(tmp_path):
    """Sound before the video, and a cover picture (JPEG) before it."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        first, second = voice(container), track(container, episode(2, 5))
        sound(container, first)
        fill(container, second)
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        first = track(container, episode(9, 1), "mjpeg", "yuvj420p", cover=True)
        fill(container, first, track(container, episode(2, 5)))
    for name in ("a.mp4", "b.mp4"):
        assert shown(tmp_path / name) == [(i / 10, (2, i)) for i in range(5)]


def test_files_without_one_video_stream_are_refused(tmp_path):
    with av.open(str(tmp_path / "cover.mp4"), "w") as container:
        first, second = voice(container), track(container, episode(9, 1), "mjpeg", "yuvj420p", cover=True)
        sound(container, first)
        fill(container, second)
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        fill(container, track(container, episode(2, 3)), track(container, episode(3, 3)))
    with pytest.raises(InputError, match=r"cover\.mp4: found no video stream"):
        video.decode(tmp_path / "cover.mp4")
    with pytest.raises(InputError, match=r"two\.mp4: found 2 video streams, expected 1; keep one"):
        video.decode(tmp_path / "two.mp4")


def jpegs(path, sizes):
    """An AVI file of JPEG pictures, one of each size."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for i, (height, width) in enumerate(sizes):
            packet = av.Packet(png(episode(1, 1, h=height, w=width)[0], fmt="JPEG"))
            packet.pts = packet.dts = i
            packet.time_base, packet.stream = Fraction(1, 10), stream
            container.mux(packet)


def test_a_size_that_changes_or_is_absurd_is_refused(tmp_path, monkeypatch):
    jpegs(tmp_path / "a.avi", [(64, 64), (64, 64), (32, 64)])
    with pytest.raises(InputError, match=r"a\.avi: frame 2 is 64x32 pixels, expected 64x64 like the frames before it"):
        video.decode(tmp_path / "a.avi")
    with av.open(str(tmp_path / "b.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        packet = av.Packet(png_of(30000, 30000, 8, 2, bytes(1000)))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, 10), stream
        container.mux(packet)
    with pytest.raises(
        InputError, match=r"b\.mov: the video is truncated or damaged: found 0 readable frames, expected 1"
    ):
        video.decode(tmp_path / "b.mov")
    mp4(tmp_path / "c.mp4", episode(1, 2), 10)
    monkeypatch.setattr(video_reader, "MAX_FRAME_PIXELS", 4095)
    with pytest.raises(InputError, match=r"c\.mp4: found frames of 64x64 pixels, expected at most 4,095"):
        video.decode(tmp_path / "c.mp4")


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("text", ["", "hello", PLAYLIST, "ffconcat version 1.0\nfile '{}'\n"])
def test_a_file_that_is_not_a_video_is_refused_and_opens_no_other_file(tmp_path, text):
    mp4(tmp_path / "good.mp4", episode(1, 2), 10)
    (tmp_path / "a.mp4").write_text(text.format(tmp_path / "good.mp4"))
    with pytest.raises(InputError, match=r"a\.mp4: the video is truncated or damaged: found 0 readable frames"):
        video.decode(tmp_path / "a.mp4")
    assert video.rate(tmp_path / "a.mp4") is None


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        video.decode(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        video.decode(tmp_path)


# ---------------------------------------------------------------- pictures


PIXELS = np.random.default_rng(0).integers(0, 65536, (4, 6, 4)).astype(np.uint16)
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, bits, kind, rows, *extra):
    """A PNG file of any bit depth and color type; Pillow writes few of them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_16(channels):
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png_of(6, 4, 16, kind, b"".join(b"\0" + row[:, :channels].astype(">u2").tobytes() for row in PIXELS))


def saved(pixels, fmt="PNG", mode=None, **options):
    made = io.BytesIO()
    Image.fromarray(pixels, mode).save(made, fmt, **options)
    return made.getvalue()


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_exif_orientation_is_applied_once(fmt, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    eight = (PIXELS[..., :3] >> 8).astype(np.uint8)
    exact = {"lossless": True} if fmt == "WEBP" else {}
    found = open_picture(saved(eight, fmt, exif=exif, **exact), "a")
    expected = TURNED[orientation](open_picture(saved(eight, fmt, **exact), "a"))
    assert np.array_equal(found, expected)


def test_colors_of_16_bits_keep_the_upper_8_and_one_channel_of_16_is_refused():
    assert np.array_equal(open_picture(png_16(3), "a"), PIXELS[..., :3] >> 8)
    assert np.array_equal(open_picture(png_16(4), "a", alpha=True), PIXELS >> 8)
    for channels in (1, 2):
        with pytest.raises(InputError, match=r"row 3: found one channel of more than 8 bits .*, as depth is stored"):
            open_picture(png_16(channels), "row 3")
    for kind in (np.float32, np.int32, np.uint16):
        with pytest.raises(InputError, match="as depth is stored"):
            open_picture(saved(PIXELS[..., 0].astype(kind), "TIFF"), "a")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_8_bits_or_fewer_becomes_three_equal_channels(bits):
    found = open_picture(png_of(8, 1, bits, 0, b"\0" + bytes([0b11000000] * bits)), "a")
    first = {1: 255, 2: 255, 4: 204, 8: 192}[bits]
    assert found.shape == (1, 8, 3)
    assert found[0, 0].tolist() == [first] * 3
    wide = np.arange(64, dtype=np.uint8).reshape(4, 16)  # 16 pixels a row: no 16 bits a pixel
    assert np.array_equal(open_picture(saved(wide, "BMP"), "a")[..., 1], wide)


TRANSPARENT = np.array([[[10, 20, 30, 255], [10, 20, 30, 128], [10, 20, 30, 0]]], np.uint8)
PALETTE = (chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])), chunk(b"tRNS", bytes([0, 255])))
KEY = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))


def test_transparency_is_composited_on_white():
    for fmt, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        found = open_picture(saved(TRANSPARENT, fmt, **options), "a")
        assert found.tolist() == [[[10, 20, 30], [132, 137, 142], [255, 255, 255]]]
    by_palette = open_picture(png_of(2, 1, 8, 3, b"\0" + bytes([0, 1]), *PALETTE), "a")
    by_color = open_picture(png_of(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]), KEY), "a")
    assert by_palette.tolist() == by_color.tolist() == [[[255] * 3, [4, 5, 6]]]
    assert open_picture(saved(TRANSPARENT), "a", alpha=True).tolist() == TRANSPARENT.tolist()
    with pytest.raises(InputError, match="fully transparent"):
        open_picture(saved(TRANSPARENT * 0), "a")


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_counts(fmt):
    pages = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (40, 200)]
    made = io.BytesIO()
    pages[0].save(made, fmt, save_all=True, append_images=pages[1:], **({"lossless": True} if fmt == "WEBP" else {}))
    assert (open_picture(made.getvalue(), "a") == 40).all()


def test_cmyk_is_shown_and_other_color_spaces_are_refused():
    assert (open_picture(saved(np.zeros((4, 4, 4), np.uint8), "JPEG", "CMYK"), "a") == 255).all()
    made = io.BytesIO()
    Image.new("LAB", (4, 4)).save(made, "TIFF")
    with pytest.raises(InputError, match="found mode LAB, expected RGB"):
        open_picture(made.getvalue(), "a")


@pytest.mark.parametrize("side", [9000, 13000, 30000])
def test_a_large_picture_is_refused_before_it_is_decoded(side):
    with pytest.raises(InputError, match=r"a: found .* pixels, expected at most 67,108,864; scale it down"):
        open_picture(png_of(side, side, 8, 2, b""), "a")


def test_postscript_under_a_pictures_name_starts_no_interpreter(tmp_path, monkeypatch):
    def started(*_args, **_options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    (tmp_path / "a.json").write_text('{"instruction": "open it"}')
    for read in (video.read_picture, lambda path: read_starts(path.parent, 64), lambda path: load_cutouts(path.parent)):
        with pytest.raises(InputError, match="not a readable picture, expected PNG"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_truncated_picture_is_refused(fmt):
    blob = saved(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), fmt)
    for share in (0, 0.01, 0.1, 0.5, 0.9):
        with pytest.raises(InputError, match="not a readable picture"):
            open_picture(blob[: int(len(blob) * share)], "a")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(at=st.integers(0, 500), value=st.binary(min_size=1, max_size=9), fmt=st.sampled_from(FORMATS))
def test_damage_is_one_line_or_pixels(at, value, fmt):
    blob = saved(PIXELS[..., :3].astype(np.uint8).repeat(4, 0), fmt)
    at %= len(blob)
    said = ""
    try:
        open_picture(blob[:at] + value + blob[at + len(value) :], "a")
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


def test_a_file_that_is_not_a_picture_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, said in {
        tmp_path: "found no regular file",
        tmp_path / "pipe.png": "found no regular file",
        tmp_path / "none.png": "found no file",
        tmp_path / "a\0b.png": "null byte",
    }.items():
        with pytest.raises(InputError, match=said):
            video.read_picture(path)
