from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from stsa_lightning.media import frames as frames_module
from stsa_lightning.media.video import VideoError, VideoWriter, write_video
from stsa_lightning.media.video_source import VideoSource


def numbered(count: int) -> np.ndarray:
    return np.repeat((10 + 3 * np.arange(count, dtype=np.uint8))[:, None, None, None], 48, 1).repeat(64, 2).repeat(3, 3)


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 10) / 3) for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_any_order_is_served_after_a_scan(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "BACK_BYTES", 5 * 64 * 48 * 3)  # five frames held while going backward
    monkeypatch.setattr(frames_module, "_FAR", 10)
    path = tmp_path / f"a{suffix}"
    write_video(path, numbered(60), 25)
    with VideoSource(path) as source:
        assert numbers(list(source.scan())) == list(range(60))
        np.testing.assert_allclose(source.times_s, np.arange(60) / 25)
        order = [*range(60), *range(58, -1, -1), 3, 3, 40, 41, 5]
        assert numbers(list(source.read(order))) == order
        with source.again() as other:
            assert numbers(list(other.read([50, 2]))) == [50, 2]
        with pytest.raises(IndexError, match="frames 0 to 59 were scanned, asked for 60"):
            list(source.read([60]))


def test_a_scan_ends_in_time_and_a_varying_rate_is_known(tmp_path: Path) -> None:
    times = np.cumsum([0, *[0.03, 0.05, 0.08] * 6])
    with VideoWriter(tmp_path / "a.mp4", 20, (64, 48), timestamps=times) as writer:
        writer.write(numbered(len(times)))
    with VideoSource(tmp_path / "a.mp4") as source:
        assert len(list(source.scan(until_s=0.5))) == (times < 0.5).sum()
        np.testing.assert_allclose(source.times_s, times[times < 0.5], atol=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), (0, 0), 5)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), picture[..., ::-1])
    with VideoSource(tmp_path / f"a{suffix}") as source:
        (frame,) = source.scan()
        assert np.abs(frame.astype(int) - picture).mean() < 3
        assert len(list(source.read([0] * 5))) == 5


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"a\.mp4: is a text"):
        VideoSource(tmp_path / "a.mp4")


def with_two_pictures(path: Path, default: int) -> Path:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream in streams:
            for frame in numbered(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_several_picture_tracks_are_said_with_the_one_taken(tmp_path: Path, default: int) -> None:
    with VideoSource(with_two_pictures(tmp_path / "a.mkv", default)) as source:
        assert len(list(source.scan())) == 5
        assert source.warnings(5) == [
            f"{source.path} has 2 picture tracks: track {default + 1}, its default, was taken"
        ]


def test_one_picture_track_is_not_said(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(5), 25)
    with VideoSource(tmp_path / "a.mp4") as source:
        assert len(list(source.scan())) == 5
        assert source.warnings(5) == []
