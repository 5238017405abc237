from __future__ import annotations

import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import scipy.signal

from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoError, VideoReader, VideoWriter, nearest, probe, write_video


def moving(count: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth frames, each with its number in its grey level and a slow gradient."""
    y, x = np.mgrid[:height, :width]
    number = np.arange(count)[:, None, None]
    red = 60 + 100 * x / width + 0 * number
    green = 40 + 120 * y / height + 0 * number
    blue = 20 + 4 * number + 0 * x
    return np.stack([red, green, blue], -1).astype(np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    return np.round((frames[..., 2].mean((1, 2)) - 20) / 4).astype(int).tolist()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def noise(samples: int, rate_hz: int) -> np.ndarray:
    white = np.random.default_rng(0).standard_normal(samples)
    band = scipy.signal.butter(4, [200, 3000], "band", fs=rate_hz, output="sos")
    return (0.2 * scipy.signal.sosfilt(band, white)).astype(np.float32)


def rotate(path: Path, degrees: int) -> None:
    """Turn the track by its header's matrix, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = {90: (0, 1, 0, -1, 0, 0), 180: (-1, 0, 0, 0, -1, 0), 270: (0, -1, 0, 1, 0, 0)}[degrees]
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    data[at : at + 24] = struct.pack(">6i", *(65_536 * v for v in matrix))
    path.write_bytes(data)


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65), (96, 65), (128, 720)])
@pytest.mark.parametrize("fps", [25, Fraction(30_000, 1001)])
def test_round_trip(tmp_path: Path, width: int, height: int, fps: Fraction) -> None:
    frames = moving(20, width, height)
    write_video(tmp_path / "a.mp4", frames, fps)
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.fps, info.frames, info.has_audio) == (width, height, fps, 20, False)
    assert info.duration_s == pytest.approx(20 / fps, abs=1e-3)
    with VideoReader(tmp_path / "a.mp4") as reader:
        found = reader.get(range(20))
        np.testing.assert_allclose(reader.timestamps_s, np.arange(20) / float(fps), atol=1e-9)
    assert found.dtype == np.uint8
    assert found.shape == frames.shape
    assert psnr(found, frames) > 38
    assert np.abs(found.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 3  # no colour cast
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_is_not_shifted(tmp_path: Path, rate_hz: int, name: str) -> None:
    wave = noise(2 * rate_hz, rate_hz)
    write_video(tmp_path / name, moving(50), 25, wave, rate_hz)
    found = load_audio(tmp_path / name, rate_hz)
    shift = int(np.argmax(scipy.signal.correlate(found, wave))) - (len(wave) - 1)
    assert abs(shift) <= rate_hz // 1000
    if name == "a.mp4":
        assert len(found) == len(wave)
    with av.open(str(tmp_path / name)) as container:
        first = next(container.decode(video=0))
        assert first.pts == 0
        assert probe(tmp_path / name).has_audio


def test_written_files_of_any_width_are_the_same_bytes_each_time(sample_root: Path, tmp_path: Path) -> None:
    with VideoReader(min(sample_root.rglob("*.mp4"))) as video:
        frames = np.stack([cv2.resize(frame, (160, 160)) for frame in video.get(range(40))])
    written = []
    for left in (0, 255, 7):  # in the memory that the encoder is given
        junk = [np.full(size, left, np.uint8) for size in (40_000, 400_000) for _ in range(100)]
        del junk
        write_video(tmp_path / "a.mp4", frames, 25)
        written.append((tmp_path / "a.mp4").read_bytes())
    assert written[0] == written[1] == written[2]


def test_sound_longer_and_shorter_than_the_picture(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", moving(10), 25, noise(16_000, 16_000))
    assert len(load_audio(tmp_path / "long.mp4")) == 16_000
    write_video(tmp_path / "short.mp4", moving(25), 25, noise(4_000, 16_000))
    assert len(load_audio(tmp_path / "short.mp4")) == 4_000
    assert probe(tmp_path / "short.mp4").frames == 25


def test_varying_rate(tmp_path: Path) -> None:
    times = np.array([0, 0.04, 0.11, 0.16, 0.3, 0.35])
    with VideoWriter(tmp_path / "a.mp4", 25, (96, 64), timestamps=times) as writer:
        writer.write(moving(6))
    with VideoReader(tmp_path / "a.mp4") as reader:
        np.testing.assert_allclose(reader.timestamps_s, times, atol=1e-4)
        assert numbers(reader.get(range(6))) == list(range(6))
    with VideoReader(tmp_path / "a.mp4", fps=25) as even:
        assert numbers(even.get(range(9))) == [0, 1, 2, 2, 3, 3, 4, 4, 4]


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"earlier")

    def fail() -> None:
        with VideoWriter(target, 25, (96, 64), noise(16_000, 16_000)) as writer:
            writer.write(moving(3))
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert target.read_bytes() == b"earlier"
    with pytest.raises(VideoError, match="no frames"), VideoWriter(target, 25, (96, 64)):
        pass
    assert target.read_bytes() == b"earlier"
    write_video(target, moving(3), 25)
    assert probe(target).frames == 3


def test_writer_errors(tmp_path: Path) -> None:
    frames = moving(2)
    with pytest.raises(FileNotFoundError, match=r"none: no such folder to write a\.mp4"):
        write_video(tmp_path / "none" / "a.mp4", frames, 25)
    with pytest.raises(VideoError, match=r"a\.avi: the name must end in"):
        write_video(tmp_path / "a.avi", frames, 25)
    with pytest.raises(ValueError, match="fps must be positive"):
        write_video(tmp_path / "a.mp4", frames, 0)
    with pytest.raises(ValueError, match="finite floats"):
        write_video(tmp_path / "a.mp4", frames, 25, np.zeros(5, np.int16))
    with pytest.raises(ValueError, match=r"one of .*got 12345"):
        write_video(tmp_path / "a.mp4", frames, 25, np.zeros(5, np.float32), 12_345)
    with pytest.raises(VideoError, match="no frames to write"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(VideoError, match=r"\(n, 64, 96, 3\), got float64"):
        write_video(tmp_path / "a.mp4", frames / 255, 25)
    with pytest.raises(ValueError, match="rising seconds"):
        VideoWriter(tmp_path / "a.mp4", 25, (96, 64), timestamps=[0, 0.1, 0.1])
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- reading


def test_a_decoder_whose_threads_log_is_freed(tmp_path: Path) -> None:
    """PyAV's log, which older torchvision switches on, takes the lock that freeing holds. Run apart, to be killed."""
    write_video(tmp_path / "a.mp4", moving(60, 320, 240), 25)
    code = """
import logging, sys
import av
from stsa_lightning.media.decode import Decoder
logging.disable(logging.CRITICAL)
av.logging.set_level(av.logging.DEBUG)
for _ in range(20):
    with Decoder(sys.argv[1], threads=4):
        pass
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.mp4"], check=True, timeout=600)


def test_any_order_and_blocks(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(50), 25)
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert numbers(reader.get([40, 3, 3, 12, 0, 49])) == [40, 3, 3, 12, 0, 49]
        assert numbers(reader.get(range(30, 20, -1))) == list(range(30, 20, -1))
        blocks = list(reader.blocks(16))
        assert [len(b) for b in blocks] == [16, 16, 16, 2]
        assert numbers(np.concatenate(blocks)) == list(range(50))
        assert reader.get([]).shape == (0, 64, 96, 3)
        with pytest.raises(IndexError, match=r"a\.mp4: has frames 0 to 49, asked for 50"):
            reader.get([50])
        with pytest.raises(ValueError, match="size"):
            next(reader.blocks(0))


@pytest.mark.slow
def test_long_videos_are_not_decoded_ahead(tmp_path: Path) -> None:
    frames = np.repeat(np.repeat(moving(50), 8, 1), 8, 2)  # 1.2 MB each
    write_video(tmp_path / "a.mp4", (frame for _ in range(3) for frame in frames), 25)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with VideoReader(tmp_path / "a.mp4") as reader:
        assert numbers(reader.get(range(8))) == list(range(8))
        before = resident()
        time.sleep(1)
        assert resident() - before < 60 * 2**20  # all of it would be 176 MB
        assert numbers(reader.get([49, 8, 149, 120])) == [49, 8, 49, 20]
        assert numbers(reader.get(range(60, 50, -1))) == list(range(10, 0, -1))


@pytest.mark.parametrize(("fps", "count"), [(30, 50), (15, 25), (24, 40), (50, 50), (Fraction(30_000, 1001), 50)])
def test_conversion_to_25_by_time(tmp_path: Path, fps: Fraction, count: int) -> None:
    write_video(tmp_path / "a.mp4", moving(count), fps)
    with VideoReader(tmp_path / "a.mp4", fps=25) as reader:
        assert len(reader) == round(count / fps * 25)
        assert reader.info.fps == fps
        assert reader.fps == 25
        np.testing.assert_allclose(np.diff(reader.timestamps_s), 0.04)
        shown = np.array(numbers(reader.get(range(len(reader)))))
    inner = shown < count - 1  # the last one is shown to its end
    assert np.abs(shown / float(fps) - np.arange(len(shown)) / 25)[inner].max() <= 0.5 / float(fps) + 1e-6


def test_nearest() -> None:
    times = np.array([0.0, 1.0, 3.0])
    assert nearest(times, np.array([-5, 0.4, 0.6, 1.9, 2.1, 9])).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest(np.array([0.0]), np.array([-1.0, 4.0])).tolist() == [0, 0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_upright(tmp_path: Path, degrees: int) -> None:
    frames = moving(5)
    write_video(tmp_path / "a.mp4", frames, 25)
    rotate(tmp_path / "a.mp4", degrees)
    info = probe(tmp_path / "a.mp4")
    with VideoReader(tmp_path / "a.mp4") as reader:
        found = reader.get(range(5))
    assert found.shape[1:3] == (info.height, info.width)
    assert psnr(found, np.rot90(frames, -degrees // 90, axes=(1, 2))) > 35


def test_reader_errors(tmp_path: Path, corpus: Path) -> None:
    for open_it in (probe, VideoReader):
        with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
            open_it(tmp_path / "none.mp4")
        with pytest.raises(VideoError, match=r"zh_bus\.wav: has no video stream"):
            open_it(corpus / "audio" / "zh_bus.wav")
        (tmp_path / "text.mp4").write_text("no video " * 200)
        with pytest.raises(VideoError, match=r"text\.mp4: is a text"):
            open_it(tmp_path / "text.mp4")
    whole = (corpus / "clips" / "spk37_01.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4: (holds \d+ of the 75 frames it states|cannot be)"):
        VideoReader(tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match="fps must be positive"):
        VideoReader(corpus / "clips" / "spk37_01.mp4", fps=-1)


# name, width, height, fps, frames, sound
REAL = [
    ("clips/spk37_01.mp4", 360, 288, 25, 75, True),
    ("clips/spk20_02.mp4", 512, 512, 30, 270, True),
    ("hard/fps15_generated_01.mp4", 640, 360, Fraction(2997, 200), 48, True),
    ("hard/arms_24fps_01.mp4", 720, 404, 24, 192, True),
    ("hard/noaudio_lipread_01.mp4", 640, 360, Fraction(30_000, 1001), 97, False),
    ("hard/noaudio_vertical_01.mp4", 404, 720, 30, 300, False),
    ("hard/res_4k_upscaled_01.mp4", 2160, 3840, 25, 100, True),
]


@pytest.mark.parametrize(("name", "width", "height", "fps", "frames", "sound"), REAL)
def test_real_clips(corpus: Path, name: str, width: int, height: int, fps: Fraction, frames: int, sound: bool) -> None:
    info = probe(corpus / name)
    assert (info.width, info.height, info.fps, info.frames, info.has_audio) == (width, height, fps, frames, sound)
    assert info.duration_s == pytest.approx(frames / fps, abs=0.05)
    with VideoReader(corpus / name, fps=25) as reader:
        assert len(reader) == round(frames / fps * 25)
        assert reader.get([0, 5, 2]).shape == (3, height, width, 3)


@pytest.mark.slow
def test_frames_are_those_of_another_decoder(corpus: Path) -> None:
    for name in ("clips/spk20_02.mp4", "hard/crowd_shotcuts_01.mp4", "hard/fps15_generated_01.mp4"):
        with av.open(str(corpus / name)) as container:
            true = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with VideoReader(corpus / name) as reader:
            assert len(reader) == len(true)
            chosen = [len(true) - 1, 7, 40, 12]
            found = reader.get(chosen)
        for frame, index in zip(found, chosen, strict=True):
            error = [psnr(frame, true[k]) for k in range(max(0, index - 2), min(len(true), index + 3))]
            assert np.argmax(error) == index - max(0, index - 2)
            assert max(error) > 40
