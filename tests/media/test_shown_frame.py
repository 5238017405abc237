"""Frames turned into RGB part by part: the same as all at once, whatever they are stored as."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stsa_lightning.media.decode import Decoder
from stsa_lightning.media.rgb_converter import RGBConverter
from stsa_lightning.media.shown_frame import ShownFrame, showing, thinned
from stsa_lightning.media.stream import VideoStream

PARTS = [(0, 0, 1, 1), (3, 5, 20, 18), (7, 0, 41, 30), (0, 1, 42, 29), (0, 0, 42, 30)]  # x0, y0, x1, y1


def stored(pixel_format: str, width: int = 42, height: int = 30) -> av.VideoFrame:
    """Noise in every plane."""
    frame = av.VideoFrame(width, height, pixel_format)
    for number, plane in enumerate(frame.planes):
        plane.update(np.random.default_rng(number).integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    return frame


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj422p", "yuv444p", "rgb24", "nv12", "yuv420p10le"])
@pytest.mark.parametrize("crop", [None, (0, 0, 42, 30), (3, 1, 38, 29), (2, 2, 40, 28)])
def test_parts_are_those_of_the_whole_frame(pixel_format: str, crop: tuple[int, int, int, int] | None) -> None:
    frame = stored(pixel_format)
    converter = RGBConverter(None, frame)
    left, top, width, height = crop or (0, 0, 42, 30)
    whole = converter(frame)[top : top + height, left : left + width]
    for x0, y0, x1, y1 in PARTS:
        shown = ShownFrame(frame, converter, crop)
        np.testing.assert_array_equal(shown[y0:y1, x0:x1], whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(shown.thinned(16), cv2.resize(whole, (16, 16), interpolation=cv2.INTER_NEAREST))
        np.testing.assert_array_equal(np.asarray(shown), whole)
        assert shown.shape == whole.shape
        assert np.shares_memory(np.asarray(shown), np.asarray(shown))  # once


def test_a_frame_is_an_array_as_either_numpy_asks_for_one() -> None:
    """NumPy 1 gives no `copy`; NumPy 2 gives True, False or None."""
    frame = stored("yuv420p")
    shown = ShownFrame(frame, RGBConverter(None, frame))
    whole = shown[:, :]
    assert np.shares_memory(shown.__array__(), whole)
    assert np.shares_memory(shown.__array__(np.dtype(np.uint8), copy=False), whole)
    assert not np.shares_memory(shown.__array__(copy=True), whole)
    np.testing.assert_array_equal(shown.__array__(np.float32), whole.astype(np.float32))
    with pytest.raises(ValueError, match="cannot be read as float32 without a copy"):
        shown.__array__(np.dtype(np.float32), copy=False)


def test_what_is_read_again_is_not_converted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, part = [], RGBConverter.part

    def counting(self: RGBConverter, frame: av.VideoFrame, box: tuple[int, int, int, int], out: np.ndarray) -> None:
        parts.append(box)
        part(self, frame, box, out)

    monkeypatch.setattr(RGBConverter, "part", counting)
    frame = stored("yuv420p")
    shown = ShownFrame(frame, RGBConverter(None, frame))
    for rows, columns in ((slice(4, 20), slice(3, 30)), (slice(5, 19), slice(3, 30)), (slice(4, 20), slice(2, 4))):
        assert shown[rows, columns].size
    assert parts == [(2, 4, 30, 20)]
    assert shown[:, :].size
    assert parts == [(2, 4, 30, 20), (0, 0, 42, 30)]


def test_what_is_kept_can_be_read_and_nothing_else() -> None:
    frame = stored("yuv420p")
    whole = RGBConverter(None, frame)(frame)
    shown = ShownFrame(frame, RGBConverter(None, frame))
    shown.keep([(-5, 3, 11, 17), (20, 10, 60, 50)])
    np.testing.assert_array_equal(shown[3:17, :11], whole[3:17, :11])
    np.testing.assert_array_equal(showing(shown, (20, 10, 42, 30))[10:, 20:], whole[10:, 20:])
    with pytest.raises(IndexError, match="rows 3:18, columns 0:11 of the frame were not kept"):
        assert shown[3:18, :11].size


def test_arrays_are_read_the_same_way() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    assert showing(frame, (1, 2, 3, 4)) is frame
    np.testing.assert_array_equal(thinned(frame, 16), cv2.resize(frame, (16, 16), interpolation=cv2.INTER_NEAREST))


def test_frames_of_a_stream_are_those_of_its_arrays(corpus: Path) -> None:
    path = corpus / "hard" / "fps15_generated_01.mp4"  # 15/s: most are served twice
    video = VideoStream(path, 25, stop_s=1.0)
    arrays, frames = list(video), list(video.frames())
    assert [frame is after for frame, after in pairwise(frames)].count(True) == 10
    for array, frame in zip(arrays, frames, strict=True):
        np.testing.assert_array_equal(frame[10:50, 20:60], array[10:50, 20:60])
    with Decoder(path) as decoder:
        _, first = next(decoder.frames())
        np.testing.assert_array_equal(arrays[0], decoder.pixels(first))
