"""Features of the speech recogniser that comes along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.dubbing.speech_features import LiveSpeech
from stsa_lightning.features.build import audio_features
from stsa_lightning.features.moonshine import ENCODER, Moonshine
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.media.audio import AudioError, load_audio

RATE = 16_000


@pytest.fixture(scope="module")
def extract() -> Moonshine:
    return Moonshine()


@pytest.fixture(scope="module")
def speech(corpus: Path) -> np.ndarray:
    """Somebody's eight seconds."""
    return load_audio(corpus / "clips" / "spk26_01.mp4")[: 8 * RATE]


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 320, 321, 16_080, 16_081, 200_000])
def test_steps(extract: Moonshine, samples: int) -> None:
    wave = noise(samples)
    found = extract(wave)
    assert found.shape == (-(-samples // 320), extract.dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    # Other pieces, other sizes of matrices: some processors add them up in another order.
    np.testing.assert_allclose(found[:, 288:], LogMel()(wave), atol=1e-5)


def test_states_are_the_encoders_at_the_steps_centres(extract: Moonshine) -> None:
    import onnxruntime

    wave = noise(3 * RATE)  # one chunk, whose last step hears 80 samples of silence after it
    session = onnxruntime.InferenceSession(ENCODER, providers=["CPUExecutionProvider"])
    heard = np.pad(wave, (0, 80))[None]
    states = session.run(None, {"input_values": heard, "attention_mask": np.ones(heard.shape, np.int64)})[0][0]
    centres = np.arange(150) * 320 + 200
    seen = np.arange(len(states)) * 384 + 447.5
    true = np.stack([np.interp(centres, seen, state) for state in states.T], axis=1)
    np.testing.assert_allclose(extract(wave)[:, :288], 2 * true, atol=1e-3)


def test_states_are_of_the_spectrum_at_their_time(extract: Moonshine, speech: np.ndarray) -> None:
    """The spectrum is best told from the states of its own time, to one frame of video."""
    rows = extract(speech)
    states, spectrum = rows[:, :288], rows[:, 288:]
    known, asked = slice(10, 250), slice(260, 390)

    def error(lag: int) -> float:
        moved = np.roll(states, lag, axis=0)
        mean = moved[known].mean(0), spectrum[known].mean(0)
        centred = moved[known] - mean[0]
        weights = np.linalg.solve(
            centred.T @ centred + 30 * np.eye(288, dtype=np.float32), centred.T @ (spectrum[known] - mean[1])
        )
        return float(np.square((moved[asked] - mean[0]) @ weights + mean[1] - spectrum[asked]).mean())

    errors = {lag: error(lag) for lag in range(-8, 9)}
    assert abs(min(errors, key=errors.__getitem__)) <= 2, errors  # 40 ms: one frame of video


def test_long_audio_is_encoded_in_chunks_with_context(extract: Moonshine) -> None:
    wave = noise(20 * RATE)
    pieces = list(extract.chunks(wave))
    assert [len(piece) for piece in pieces] == [200] * 5
    np.testing.assert_array_equal(np.concatenate(pieces), extract(wave))
    # What is further away than 2 s does not matter.
    other = -noise(20 * RATE)
    other[2 * RATE : 10 * RATE + 80] = wave[2 * RATE : 10 * RATE + 80]
    np.testing.assert_array_equal(list(extract.chunks(other))[1], pieces[1])
    assert (extract(other)[150:200] != extract(wave)[150:200]).any()


def test_live_speech_is_near_the_whole(extract: Moonshine, speech: np.ndarray) -> None:
    whole = extract(speech)
    with LiveSpeech((speech[i : i + 800] for i in range(0, len(speech), 800)), extract) as live:
        found = np.concatenate([live.rows(first, first + 10) for first in range(0, 400, 10)])
    np.testing.assert_allclose(found[:, 288:], whole[:, 288:], atol=1e-5)
    # What comes more than 0.2 s later is not heard yet.
    assert np.corrcoef(found[:, :288].ravel(), whole[:, :288].ravel())[0, 1] > 0.8


def test_bad_waves(extract: Moonshine) -> None:
    with pytest.raises(AudioError, match="empty"):
        extract(np.zeros(0, np.float32))
    with pytest.raises(AudioError, match="NaN"):
        extract(np.full(1000, np.nan, np.float32))
    with pytest.raises(ValueError, match="moonshine features take no options"):
        audio_features("moonshine", chunk_s=2)
