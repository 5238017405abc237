from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.dubbing.pauses import pauses
from stsa_lightning.dubbing.speech_features import LiveSpeech, Speech, audio_windows
from stsa_lightning.features.base import AudioFeatures, feature_windows
from stsa_lightning.features.moonshine import Moonshine
from stsa_lightning.features.spectral import MFCC, LogMel
from stsa_lightning.media.audio import write_wav

RATE = 16_000


@pytest.fixture(scope="module")
def halting(spoken: np.ndarray) -> np.ndarray:
    """Speech of 3 s, 2 s in which something else may be heard, and the speech again."""
    return np.concatenate([spoken, np.zeros(2 * RATE, np.float32), spoken])


@pytest.fixture
def wave() -> np.ndarray:
    """A second of noise, a second of quiet room, a second of noise, and a bit."""
    rng = np.random.default_rng(0)
    loud = np.repeat([0.2, 0.002, 0.2, 0.2], [RATE, RATE, RATE, 777])
    return (rng.standard_normal(len(loud)) * loud).clip(-1, 1).astype(np.float32)


def chunks(wave: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    yield from (wave[i : i + samples] for i in range(0, len(wave), samples))


def test_features_of_a_file_are_those_of_the_whole_wave(tmp_path: Path, wave: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", wave)
    heard = np.round(wave * 32768).clip(-32768, 32767).astype(np.float32) / 32768
    centres = np.array([-3.0, 0.0, 7.5, 30.0, 74.9, 90.0])
    with Speech(tmp_path / "a.wav", LogMel()) as speech:
        assert (speech.seconds, speech.rate_hz, speech.audible) == (len(wave) / RATE, RATE, True)
        np.testing.assert_allclose(audio_windows(speech, centres), feature_windows(LogMel()(heard), centres), atol=1e-5)
        assert speech.covers(len(wave) / RATE - 0.001)
        assert not speech.covers(len(wave) / RATE)


@pytest.mark.parametrize("extractor", [LogMel(), MFCC()], ids=["logmel", "mfcc"])
@pytest.mark.parametrize("samples", [100, 1234, 100_000])
def test_live_features_are_those_of_the_whole_wave(extractor: AudioFeatures, samples: int, wave: np.ndarray) -> None:
    true = extractor(wave)
    with LiveSpeech(chunks(wave, samples), extractor) as speech:
        for frame in range(0, 78, 3):
            centres = frame + np.arange(-2.0, 5.0)
            np.testing.assert_allclose(audio_windows(speech, centres), feature_windows(true, centres), atol=2e-4)
        assert not speech.covers(len(wave) / RATE)


@pytest.mark.parametrize(
    ("extractor", "ahead_s"), [(LogMel(), 0.205), (Moonshine(), 0.405)], ids=["logmel", "moonshine"]
)
def test_live_speech_needs_so_much_ahead(extractor: AudioFeatures, ahead_s: float, wave: np.ndarray) -> None:
    """The documented latency: with the sound up to t + 0.205 s (0.405 s), the frame at t has all that it needs."""
    gate = threading.Event()

    def held() -> Iterator[np.ndarray]:
        yield wave[: round((1.0 + ahead_s) * RATE)]
        gate.wait(600)
        yield wave[round((1.0 + ahead_s) * RATE) :]

    with LiveSpeech(held(), extractor) as speech:
        found = np.zeros(0)

        def ask() -> None:
            nonlocal found
            found = audio_windows(speech, 25.0 + np.arange(-2.0, 3.0))

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(300)
        answered = not asking.is_alive()
        gate.set()
    assert answered
    true = feature_windows(extractor(wave), 25.0 + np.arange(-2.0, 3.0))
    np.testing.assert_allclose(found[:, -80:], true[:, -80:], atol=1e-5)  # log-mel, which both end with


def test_what_a_live_source_raises_is_raised_where_it_is_used() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(RATE, np.float32)
        raise OSError("microphone unplugged")

    with LiveSpeech(broken(), LogMel()) as speech, pytest.raises(OSError, match="unplugged"):
        speech.rows(0, 200)


def level(wave: np.ndarray, db: float) -> np.ndarray:
    """So much below the speech."""
    return wave / np.sqrt(np.square(wave).mean()) * 0.08 * 10 ** (db / 20)


SECONDS = np.arange(2 * RATE) / RATE
BESIDE = {
    "nothing": np.full(2 * RATE, 1e-9),
    "noise": np.random.default_rng(0).standard_normal(2 * RATE),
    "breath": np.random.default_rng(0).standard_normal(2 * RATE) * np.sin(2 * np.pi * SECONDS / 1.2).clip(0) ** 1.5,
    "chords": sum(np.sin(2 * np.pi * hz * SECONDS) for hz in (220, 277, 330, 440)) * np.exp(-3 * (SECONDS % 0.5)),
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("db", [-16.0, -20.0, -40.0])
def test_pauses_are_found_whatever_is_heard_in_them(kind: str, db: float, halting: np.ndarray) -> None:
    wave = halting.copy()
    wave[3 * RATE : 5 * RATE] += level(BESIDE[kind], db).astype(np.float32)
    quiet = pauses(wave)
    assert len(quiet) == -(-len(wave) // 320)
    assert quiet[165:240].mean() > 0.9  # 3.3 to 4.8 s
    assert quiet[:140].max() == quiet[265:390].max() == 0


def test_what_is_as_loud_as_speech_is_no_pause(halting: np.ndarray) -> None:
    """It may be song, of which the detector hears half."""
    wave = halting.copy()
    wave[3 * RATE : 5 * RATE] += level(BESIDE["noise"], -6.0).astype(np.float32)
    assert pauses(wave).mean() < 0.1


def test_silence_replaces_pauses_alone(tmp_path: Path, halting: np.ndarray) -> None:
    wave = halting + level(np.random.default_rng(1).standard_normal(len(halting)), -30.0).astype(np.float32)
    write_wav(tmp_path / "a.wav", wave)
    with Speech(tmp_path / "a.wav", LogMel(), "keep") as kept, Speech(tmp_path / "a.wav", LogMel(), "close") as closed:
        np.testing.assert_array_equal(closed.rows(0, 140), kept.rows(0, 140))
        np.testing.assert_allclose(closed.rows(180, 230), -4.0)  # log-mel's floor
        assert kept.rows(180, 230).mean() > -3.5
