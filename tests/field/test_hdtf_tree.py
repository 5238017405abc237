"""HDTF as its authors give it out, made of real clips: ten minutes of video at 44.1 kHz, thirty time ranges of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import scipy.signal

from stsa_lightning.cli import main
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.stream import VideoStream
from tests.field.media import resampled, sound_by_stamps

RATE_HZ, SIDE, SECONDS, RANGES = 44_100, 256, 600, 30
# The crop is written for a picture of twice that height, as lists are that were made of larger downloads.
LINES, CROP = 2 * SIDE, (32, 480, 16, 496)  # x, width, y, height


def spans() -> list[tuple[int, int]]:
    """Whole seconds, as HDTF's are, all over the video."""
    return [(7 + 19 * k + k % 3, 9 + 19 * k + k % 3 + k % 4) for k in range(RANGES)]


def clock(seconds: int) -> str:
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def joined(clips: list[Path], path: Path) -> None:
    """Clips one after another, from the first again where they end, until the video is long enough."""
    sounds, frames = [], 0
    with av.open(str(path), "w") as file:
        picture, sound = file.add_stream("libx264", rate=25), file.add_stream("aac", rate=RATE_HZ, layout="mono")
        picture.width = picture.height = SIDE
        picture.options, sound.bit_rate = {"preset": "ultrafast", "crf": "20"}, 128_000
        while frames < 25 * SECONDS:
            clip = clips[len(sounds) % len(clips)]
            count = 0
            for pixels in VideoStream(clip, 25):
                small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                frame = av.VideoFrame.from_ndarray(small, format="rgb24")
                frame.pts, frame.time_base = frames + count, Fraction(1, 25)
                file.mux(picture.encode(frame))
                count += 1
            wave = scipy.signal.resample_poly(load_audio(clip).astype(np.float64), 441, 160)
            sounds.append(np.resize(np.pad(wave, (0, count * 1764)), count * 1764).astype(np.float32))
            frames += count
        file.mux(picture.encode())
        made = av.AudioFrame.from_ndarray(np.clip(np.concatenate(sounds), -1, 1)[None], "fltp", "mono")
        made.sample_rate, made.pts, made.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        file.mux(sound.encode(made))
        file.mux(sound.encode())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_clip_of_an_hdtf_tree_has_its_own_sound(corpus: Path, tmp_path: Path) -> None:
    root, lists = tmp_path / "HDTF", tmp_path / "HDTF" / "HDTF_dataset"
    lists.mkdir(parents=True)
    joined(sorted((corpus / "clips").glob("*.mp4")), root / "RD_JohnDoe1.mp4")
    ranges = " ".join(f"{clock(start)}-{clock(stop)}" for start, stop in spans())
    crop = " ".join(map(str, CROP))
    (lists / "RD_annotion_time.txt").write_text(f"JohnDoe1.mp4 {ranges}\n")
    (lists / "RD_crop_wh.txt").write_text("".join(f"JohnDoe1_{k}.mp4 {crop}\n" for k in range(RANGES)))
    (lists / "RD_resolution.txt").write_text(f"JohnDoe1.mp4 {LINES}\n")
    (lists / "RD_video_url.txt").write_text("JohnDoe1.mp4 https://example.org/watch?v=0\n")

    main(["prepare", "hdtf", "--root", str(root), "--out", str(tmp_path / "data"), "--sync", "none"])

    index = load_index(tmp_path / "data")
    assert sorted(index["clip"]) == sorted(f"JohnDoe/JohnDoe1_{k}" for k in range(RANGES))
    assert index["status"].tolist() == ["ok"] * RANGES, index["reason"].tolist()
    true = resampled(*sound_by_stamps(root / "RD_JohnDoe1.mp4"))
    for k, (start, stop) in enumerate(spans()):
        audio = Clip.open(clip_path(tmp_path / "data", f"JohnDoe/JohnDoe1_{k}")).audio / 32_768
        assert len(audio) == (stop - start) * 16_000
        expected = true[start * 16_000 : stop * 16_000]
        lags = np.arange(1 - len(audio), len(audio)) / 16  # ms
        assert abs(lags[np.argmax(scipy.signal.correlate(audio, expected))]) <= 5
        # Every second by itself; speech as little as a millisecond off has no such correlation.
        for one, other in zip(np.split(audio, stop - start), np.split(expected, stop - start), strict=True):
            if np.sqrt(np.mean(other**2)) > 5e-3:
                assert np.corrcoef(one, other)[0, 1] > 0.99
