"""The choice of reference frames."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.references import PoseFollower, candidates, choose_references, reference_costs


def test_spread_evenly_over_the_sorted_openness() -> None:
    aperture = np.array([4.0, 0.0, 3.0, 1.0, 2.0])
    everything = np.ones(5, bool)
    np.testing.assert_array_equal(choose_references(aperture, everything, 5), [1, 3, 4, 2, 0])
    np.testing.assert_array_equal(choose_references(aperture, everything, 3), [1, 4, 0])
    np.testing.assert_array_equal(choose_references(aperture, everything, 1), [1])


def test_only_valid_frames_repeated_where_they_are_few() -> None:
    aperture = np.array([np.nan, 2.0, 1.0, np.nan])
    chosen = choose_references(aperture, np.array([0, 1, 1, 0]), 4)
    np.testing.assert_array_equal(chosen, [2, 2, 1, 1])


def test_errors() -> None:
    with pytest.raises(ValueError, match="got none among 3"):
        choose_references(np.zeros(3), np.zeros(3, bool), 2)
    with pytest.raises(ValueError, match="same shape"):
        choose_references(np.zeros(3), np.zeros(4, bool), 2)
    with pytest.raises(ValueError, match="count"):
        choose_references(np.zeros(3), np.ones(3, bool), 0)


def heads(turns: np.ndarray) -> np.ndarray:
    """(n, 131, 2): one face, whose left half is the narrower the more it is turned."""
    face = np.random.default_rng(0).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    drawn = np.repeat(face[None], len(turns), 0)
    drawn[..., 0] -= np.where(face[:, 0] < 0.5, (face[:, 0] - 0.5) * turns[:, None], 0)
    return drawn


def test_costs_weigh_pose_and_lips():
    distances = np.array([1.0, 2, 3, np.nan, np.inf])
    aperture = np.array([30.0, 10, 0, 20, 40])  # places 3/4, 1/4, 0, 1/2, 1
    expected = [[0.5 + 2 * 0.75, 0.5 + 2 * 0.25], [1 + 2 * 0.25, 1 + 2 * 0.75], [1.5, 1.5 + 2]]
    np.testing.assert_allclose(reference_costs(distances, aperture, 2)[:3], expected)
    assert np.isinf(reference_costs(distances, aperture, 2)[3:]).all()


def test_references_follow_a_head_that_turns_and_are_held_while_they_are_near():
    turns = np.linspace(0, 1, 50)
    aperture = np.random.default_rng(1).permutation(50).astype(float)
    shown = np.linspace(0, 1, 200)
    there = PoseFollower(heads(turns), aperture, 2)(heads(shown))
    assert there.shape == (200, 2)
    assert np.abs(turns[there] - shown[:, None]).mean() < 0.15  # of anyone: 1/3
    closed, wide = aperture[there].T
    assert closed.mean() < 13
    assert wide.mean() > 36
    changes = (there[1:] != there[:-1]).sum(0)
    assert (changes > 1).all()
    assert (changes < 15).all()
    # A tremble within what is held changes nothing; a frame without a face neither.
    trembling = heads(np.tile([0.5, 0.52], 20))
    trembling[7] = np.nan
    assert len(np.unique(PoseFollower(heads(turns), aperture, 2)(trembling), axis=0)) == 1


def test_what_is_not_allowed_is_not_chosen():
    turns, aperture = np.linspace(0, 1, 50), np.random.default_rng(2).permutation(50).astype(float)
    apart = np.abs(np.arange(50)[:, None] - np.arange(50))
    allowed = apart >= 12
    allowed[-1] = False
    chosen = PoseFollower(heads(turns), aperture, 4)(heads(turns), allowed)
    distances = np.take_along_axis(apart, chosen, 1)
    assert (distances[:-1] >= 12).all()
    assert (distances[-1] < 12).any()  # nothing is allowed there: then all is


def test_candidates_are_spread_over_valid_frames():
    valid = np.ones(1000, bool)
    valid[100:500] = False
    offered = candidates(valid)
    assert len(offered) == 64
    assert valid[offered].all()
    assert offered[[0, -1]].tolist() == [0, 999]
    np.testing.assert_array_equal(candidates(np.array([0, 1, 1, 0], bool)), [1, 2])
