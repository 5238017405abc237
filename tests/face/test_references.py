"""The choice of reference frames."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.references import PoseFollower, candidates, choose_posed, choose_references


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


def heads(turns: np.ndarray) -> np.ndarray:
    """(n, 131, 2): one face, whose left half is the narrower the more it is turned."""
    face = np.random.default_rng(0).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    drawn = np.repeat(face[None], len(turns), 0)
    drawn[..., 0] -= np.where(face[:, 0] < 0.5, (face[:, 0] - 0.5) * turns[:, None], 0)
    return drawn


def test_the_nearest_in_pose_from_closed_to_open():
    distances = np.array([0.3, 0.1, np.nan, 0.2, 0.0, np.inf])
    openness = np.array([9.0, 3, 8, 1, 2, 0])
    np.testing.assert_array_equal(choose_posed(distances, openness, 2, 3), [3, 1])
    np.testing.assert_array_equal(choose_posed(distances, openness, 2, 100), [3, 0])


def test_references_follow_a_head_that_turns_and_are_held_while_they_are_near():
    turns = np.linspace(0, 1, 50)
    openness = np.random.default_rng(1).permutation(50).astype(float)
    follow = PoseFollower(heads(turns), openness, 2)
    there = follow(heads(np.linspace(0, 1, 200)))
    assert there.shape == (200, 2)
    assert np.abs(turns[there] - np.linspace(0, 1, 200)[:, None]).max() < 0.35
    assert (openness[there[0]][1:] >= openness[there[0]][:-1]).all()
    changes = (there[1:] != there[:-1]).sum(0)
    assert (changes > 1).all()
    assert (changes < 25).all()
    # A tremble within what is held changes nothing; a frame without a face neither.
    trembling = heads(np.tile([0.5, 0.52], 20))
    trembling[7] = np.nan
    assert len(np.unique(PoseFollower(heads(turns), openness, 2)(trembling), axis=0)) == 1


def test_what_is_not_allowed_is_not_looked_at():
    turns = np.linspace(0, 1, 50)
    allowed = np.abs(np.arange(50)[:, None] - np.arange(50)) >= 12
    allowed[-1] = False
    chosen = PoseFollower(heads(turns), turns, 2)(heads(turns), allowed)
    assert (np.abs(chosen - np.arange(50)[:, None])[:-1] >= 12).all()
    assert (chosen[-1] > 30).all()  # nothing is allowed there: then all is


def test_candidates_are_spread_over_valid_frames():
    valid = np.ones(1000, bool)
    valid[100:500] = False
    offered = candidates(valid)
    assert len(offered) == 64
    assert valid[offered].all()
    assert offered[[0, -1]].tolist() == [0, 999]
    np.testing.assert_array_equal(candidates(np.array([0, 1, 1, 0], bool)), [1, 2])
