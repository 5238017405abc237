"""Where a voice speaks: Silero VAD in one call a block, on the clock of the features."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.features import voice_activity
from stsa_lightning.features.voice_activity import voice_probability


def test_voice_probability_lies_on_the_clock_of_the_features(spoken: np.ndarray) -> None:
    wave = np.concatenate([np.zeros(16_000, np.float32), spoken, np.zeros(16_000, np.float32)])
    found = voice_probability(wave)
    assert found.shape == (250,)
    assert found.dtype == np.float32
    voiced = found > 0.5
    assert voiced[60:190].mean() > 0.8
    assert not voiced[:45].any()
    assert not voiced[225:].any()


def test_voice_probability_in_blocks_is_that_of_the_whole(spoken: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = voice_probability(spoken[:40_123])
    monkeypatch.setattr(voice_activity, "_BLOCK", 7)
    np.testing.assert_allclose(voice_probability(spoken[:40_123]), whole, atol=1e-6)


def test_voice_probability_of_next_to_nothing_has_its_steps() -> None:
    assert voice_probability(np.zeros(0, np.float32)).shape == (0,)
    assert voice_probability(np.zeros(1, np.float32)).shape == (1,)
