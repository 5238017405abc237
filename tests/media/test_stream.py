"""Frames read forward: the same as `VideoReader` serves, in parts, in crops, of damaged files."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.media import stream
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoError, VideoReader, VideoWriter, write_video


def moving(count: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Frames with their number in their mean grey, darker at the left and at the top."""
    y, x = np.mgrid[:height, :width]
    slope = 12 * (x / width - 0.5) + 8 * (y / height - 0.5)
    grey = 20 + 4 * np.arange(count)[:, None, None] + slope
    return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)


def numbers(frames: np.ndarray | list[np.ndarray]) -> list[int]:
    return np.round((np.stack(frames).mean((1, 2, 3)) - 20) / 4).astype(int).tolist()


@pytest.mark.parametrize("fps", [25, 30, 15, 24, 50, Fraction(30_000, 1001)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_frames_of_the_other_reader(tmp_path: Path, fps: Fraction, name: str) -> None:
    write_video(tmp_path / name, moving(50), fps)
    found = list(VideoStream(tmp_path / name))
    with VideoReader(tmp_path / name, fps=25) as reader:
        expected = reader.get(range(len(reader)))
    assert len(found) == len(expected)
    if name == "a.mp4":  # Matroska's times are rounded to milliseconds
        assert numbers(found) == numbers(expected)
    assert np.abs(np.stack(found).astype(int) - expected).mean() < 3


def test_blocks_and_again(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(20), 25)
    video = VideoStream(tmp_path / "a.mp4")
    assert [len(block) for block in video.blocks(8)] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(list(video.blocks(3))), np.stack(list(video)))


def test_varying_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25, (96, 64), timestamps=[0, 0.04, 0.11, 0.16, 0.3, 0.35]) as writer:
        writer.write(moving(6))
    assert numbers(list(VideoStream(tmp_path / "a.mp4")))[:9] == [0, 1, 2, 2, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(("start_s", "stop_s"), [(0, 0.4), (0.48, 1.0), (1.2, None), (0.51, 1.99)])
def test_a_part_is_that_of_the_whole(tmp_path: Path, start_s: float, stop_s: float | None) -> None:
    write_video(tmp_path / "a.mp4", moving(50), 25)
    found = numbers(list(VideoStream(tmp_path / "a.mp4", 25, start_s, stop_s)))
    first = round(start_s * 25 - 1e-6)
    assert found == list(range(first, first + round(((stop_s or 2.0) - start_s) * 25)))


def test_a_part_does_not_decode_what_lies_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", (frame for _ in range(20) for frame in moving(50)), 25)
    decoded, original = [], VideoStream._decoded

    def counting(self: VideoStream, container: object):
        for time_s, frame in original(self, container):  # type: ignore[arg-type]
            decoded.append(time_s)
            yield time_s, frame

    monkeypatch.setattr(stream.VideoStream, "_decoded", counting)
    assert numbers(list(VideoStream(tmp_path / "a.mp4", 25, 32.0, 33.0))) == list(range(25))
    assert decoded[0] > 20  # x264 puts a key frame every ten seconds
    assert decoded[-1] < 34


def test_crop(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(3), 25)
    whole = np.stack(list(VideoStream(tmp_path / "a.mp4")))
    part = np.stack(list(VideoStream(tmp_path / "a.mp4", crop=(10, 20, 30, 40))))
    np.testing.assert_array_equal(part, whole[:, 20:60, 10:40])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_upright(tmp_path: Path, degrees: int) -> None:
    import struct

    write_video(tmp_path / "a.mp4", moving(3), 25)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = {90: (0, 1, 0, -1, 0, 0), 180: (-1, 0, 0, 0, -1, 0), 270: (0, -1, 0, 1, 0, 0)}[degrees]
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    data[at : at + 24] = struct.pack(">6i", *(65_536 * v for v in matrix))
    (tmp_path / "a.mp4").write_bytes(data)
    with VideoReader(tmp_path / "a.mp4") as reader:
        expected = reader.get(range(3))
    found = np.stack(list(VideoStream(tmp_path / "a.mp4")))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_what_cannot_be_decoded(tmp_path: Path, corpus: Path) -> None:
    whole = tmp_path / "a.mp4"
    shutil.copy(corpus / "clips" / "spk48_01.mp4", whole)
    write_video(tmp_path / "fast.mp4", moving(50), 25)  # its header comes first, so that half of it can be opened
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4: (holds \d+ of the 50 frames it states|cannot be decoded)"):
        list(VideoStream(tmp_path / "cut.mp4"))
    with pytest.raises(VideoError, match=r"a\.mp4: ends at \d\.\d s, before the end of the part, 99 s"):
        list(VideoStream(whole, start_s=1, stop_s=99))
    with pytest.raises(VideoError, match=r"holds no frame from 99 s on|ends at"):
        list(VideoStream(whole, start_s=99, stop_s=100))
    (tmp_path / "text.mp4").write_text("no video " * 200)
    with pytest.raises(VideoError, match=r"text\.mp4: is a text"):
        list(VideoStream(tmp_path / "text.mp4"))
    with pytest.raises(ValueError, match="fps must be positive"):
        VideoStream(whole, 0)
