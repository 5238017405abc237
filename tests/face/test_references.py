"""The choice of reference frames."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.references import choose_references


def test_spread_evenly_over_the_sorted_openness() -> None:
    openness = np.array([4.0, 0.0, 3.0, 1.0, 2.0])
    everything = np.ones(5, bool)
    np.testing.assert_array_equal(choose_references(openness, everything, 5), [1, 3, 4, 2, 0])
    np.testing.assert_array_equal(choose_references(openness, everything, 3), [1, 4, 0])
    np.testing.assert_array_equal(choose_references(openness, everything, 1), [1])


def test_only_valid_frames_repeated_where_they_are_few() -> None:
    openness = np.array([np.nan, 2.0, 1.0, np.nan])
    chosen = choose_references(openness, np.array([0, 1, 1, 0]), 4)
    np.testing.assert_array_equal(chosen, [2, 2, 1, 1])


def test_errors() -> None:
    with pytest.raises(ValueError, match="got none among 3"):
        choose_references(np.zeros(3), np.zeros(3, bool), 2)
    with pytest.raises(ValueError, match="same shape"):
        choose_references(np.zeros(3), np.zeros(4, bool), 2)
    with pytest.raises(ValueError, match="count"):
        choose_references(np.zeros(3), np.ones(3, bool), 0)
