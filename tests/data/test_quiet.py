"""What is heard where nobody speaks: as loud as said, coloured as said, the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.data.quiet import LEVELS_DB, SECONDS, SLOPES, noise, quiet_features
from stsa_lightning.features.spectral import LogMel


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("level", LEVELS_DB)
def test_noise_is_as_loud_and_as_coloured_as_asked(slope: float, level: float) -> None:
    wave = noise(SECONDS * SAMPLE_RATE_HZ, slope, level, np.random.default_rng(1))
    assert 10 * np.log10(np.mean(wave.astype(np.float64) ** 2)) == pytest.approx(level, abs=0.01)
    power = np.abs(np.fft.rfft(wave)) ** 2
    low, high = (power[f * SECONDS : 2 * f * SECONDS].mean() for f in (500, 4000))  # octaves, three apart
    assert 10 * np.log10(low / high) == pytest.approx(3 * 20 * slope * np.log10(2), abs=0.7)


def test_a_third_of_it_is_digital_silence() -> None:
    silent = LogMel()(np.zeros(SAMPLE_RATE_HZ, np.float32))[25]
    shares = (quiet_features("logmel") == silent).all(axis=1).mean()
    assert shares == pytest.approx(1 / 3, abs=0.01)
    np.testing.assert_array_equal(quiet_features("logmel"), quiet_features.__wrapped__("logmel"))
