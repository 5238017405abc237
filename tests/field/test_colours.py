"""Colours as players show them, read and written: against the definitions of the matrices, by NumPy."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from stsa_lightning.media.rgb_converter import Colours, usual_matrix
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoReader, VideoWriter
from stsa_lightning.media.video_source import VideoSource
from tests.field.pictures import encode, inner, patches, rgb_of, yuv_frame

SD, HD = (96, 128), (96, 1280)
CASES = [
    # pixel, size, matrix in the samples, full range, tags (matrix, range)
    ("yuv420p", SD, 6, False, None),
    ("yuv420p", HD, 1, False, None),
    ("yuv420p", SD, 1, False, (1, 1)),
    ("yuv420p", HD, 6, False, (6, 1)),
    ("yuv420p", HD, 9, False, (9, 1)),
    ("yuv420p", SD, 6, True, (6, 2)),
    ("yuv422p", HD, 1, True, (1, 2)),
    ("yuv444p", SD, 6, False, None),
    ("yuv420p10le", HD, 9, False, (9, 1)),
    ("yuv420p10le", SD, 6, False, None),
]


@pytest.mark.parametrize(("pixel", "size", "matrix", "full", "tags"), CASES)
def test_readers_any_matrix_and_range_give_the_colours_that_were_stored(
    tmp_path: Path, pixel: str, size: tuple[int, int], matrix: int, full: bool, tags: tuple[int, int] | None
) -> None:
    picture = patches(*size) // 2 + 60  # within the gamut of each matrix, whatever the rounding of chroma
    path = encode(tmp_path / "a.mp4", [yuv_frame(picture, pixel, matrix, full)] * 2, pixel=pixel, tags=tags)
    with VideoReader(path) as reader:
        shown = [reader.get([0])[0], next(iter(VideoStream(path)))]
    with VideoSource(path) as video_source:
        shown.append(next(video_source.scan()))
    for found in shown:
        assert np.abs(inner(found) - inner(picture)).max() <= 2
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[0], shown[2])


@pytest.mark.parametrize(("size", "matrix"), [(SD, 6), (HD, 1)])
def test_writer_any_size_tags_what_it_writes(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    picture = patches(*size)
    with VideoWriter(tmp_path / "a.mp4", 25, size[::-1], crf=4) as writer:
        writer.write(picture[None])
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (matrix, 1)
    assert np.abs(inner(rgb_of(frame, matrix, full=False)) - inner(picture)).max() <= 2


@pytest.mark.parametrize(("pixel", "size", "matrix", "full", "tags"), CASES[:7])
def test_footage_read_and_written_again_looks_the_same_in_another_decoder(
    tmp_path: Path, pixel: str, size: tuple[int, int], matrix: int, full: bool, tags: tuple[int, int] | None
) -> None:
    picture = patches(*size, seed=1) // 2 + 60
    source = encode(tmp_path / "a.mp4", [yuv_frame(picture, pixel, matrix, full)] * 2, pixel=pixel, tags=tags)
    with VideoSource(source) as video_source:
        frames = np.stack(list(video_source.scan()))
        with VideoWriter(tmp_path / "b.mp4", 25, video_source.size, crf=4, colours=video_source.colours) as writer:
            writer.write(frames)
    with av.open(str(source)) as before, av.open(str(tmp_path / "b.mp4")) as after:
        old, new = next(before.decode(video=0)), next(after.decode(video=0))
    difference = inner(rgb_of(new, new.colorspace, full=False)) - inner(rgb_of(old, matrix, full))
    assert np.abs(difference).max() <= 2


def test_footage_hdr_keeps_its_marks_and_is_reported(tmp_path: Path) -> None:
    frame = yuv_frame(patches(*HD), "yuv420p10le", 9, False)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:bframes=0"})
        stream.width, stream.height, stream.pix_fmt = 1280, 96, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, 16, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoSource(tmp_path / "a.mp4") as video_source:
        list(video_source.scan())
        assert video_source.colours == Colours(9, 9, 16)
        assert any("HDR, PQ" in warning for warning in video_source.warnings(1))


def test_gray_video_without_a_range_is_limited(tmp_path: Path) -> None:
    ramp = np.linspace(16, 235, 128).astype(np.uint8)[None].repeat(96, 0)
    frame = av.VideoFrame.from_ndarray(ramp, "gray")
    path = encode(tmp_path / "a.mp4", [frame], pixel="gray")
    found = next(iter(VideoStream(path)))
    assert np.abs(found[..., 0] - (ramp.astype(float) - 16) * 255 / 219).max() <= 2


@pytest.mark.parametrize("packed", ["yuyv422", "uyvy422", "nv12", "nv21", "y210le"])
def test_uncompressed_pixels_in_any_order_are_limited(tmp_path: Path, packed: str) -> None:
    """As capture cards and cameras store them; the reference is the colour that went in."""
    picture = patches(*SD) // 2 + 60
    planar = yuv_frame(picture, "yuv444p", 6, False)
    same = {"src_colorspace": 5, "dst_colorspace": 5, "src_color_range": 1, "dst_color_range": 1}
    frame = planar.reformat(format=packed, **same)
    path = encode(tmp_path / "a.nut", [frame], "rawvideo", packed)
    found = next(iter(VideoStream(path)))
    assert np.abs(inner(found) - inner(picture)).max() <= 2


def test_usual_matrix_follows_the_size() -> None:
    sizes = [(640, 480), (720, 576), (1024, 576), (1280, 544), (960, 720), (1080, 1920), (1280, 720), (3840, 2160)]
    assert [usual_matrix(*size) for size in sizes] == [5, 5, 5, 1, 1, 1, 1, 1]
