"""Pictures and sound in memory, as the files that readers take."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from stsa_lightning.media.audio import probe_audio
from stsa_lightning.media.in_memory import Pictures, Sound, on_disk
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (30, 34, 46, 3), np.uint8)


@pytest.mark.parametrize("fps", [25, 29.97, Fraction(24_000, 1001)], ids=str)
def test_pictures_come_back_to_the_bit_at_their_rate(tmp_path: Path, fps: float | Fraction) -> None:
    with VideoSource(Pictures(iter(NOISE), fps).write(tmp_path)) as video:
        read = list(video.scan())
        times_s = video.times_s
    np.testing.assert_array_equal(np.stack(read), NOISE)
    np.testing.assert_allclose(times_s, np.arange(30) / float(fps), atol=1e-3)


@pytest.mark.parametrize("channels", [0, 1, 2, 6])
def test_sound_keeps_its_samples_channels_and_rate(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, 500) if channels else 500)
    path = Sound(samples, 44_100).write(tmp_path)
    track = probe_audio(path)
    assert (track.rate_hz, track.channels) == (44_100, channels or 1)
    np.testing.assert_array_equal(wavfile.read(path)[1].T.reshape(samples.shape), samples.astype(np.float32))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Pictures([], 25), "at least one frame, got none"),
        (Pictures(NOISE.astype(np.float32), 25), r"got \(34, 46, 3\) of float32 \(frame 0\)"),
        (Pictures([NOISE[0], NOISE[0, 1:]], 25), r"got \(33, 46, 3\) of uint8 \(frame 1\)"),
        (Pictures(NOISE[..., :1], 25), r"got \(34, 46, 1\)"),
        (Pictures(NOISE, float("nan")), "frames/s, got nan"),
        (Sound(np.zeros(9, np.int16), 16_000), "of float, 1 to 8 channels, got .* of int16"),
        (Sound(np.zeros((9, 2)), 16_000), r"got \(9, 2\)"),
        (Sound(np.zeros(0), 16_000), r"got \(0,\)"),
        (Sound(np.full(9, np.nan), 16_000), "found NaN"),
        (Sound(np.zeros(9), 0), "above 0 Hz, got 0"),
    ],
)
def test_what_is_neither_is_refused_in_words(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        given.write(tmp_path)


def test_their_files_go_with_whoever_opened_them_and_paths_stay(tmp_path: Path) -> None:
    with ExitStack() as opened:
        made = on_disk(Sound(np.zeros(9), 8_000), opened)
        assert made.is_file()
        assert on_disk(str(tmp_path), opened) == tmp_path
    assert not made.parent.exists()
    assert tmp_path.exists()
