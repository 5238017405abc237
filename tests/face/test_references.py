"""The choice of reference frames."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from stsa_lightning.face.references import (
    AHEAD,
    CHANGE,
    LASTS,
    LIPS,
    ReferenceFollower,
    candidates,
    choose_references,
    costs_to_come,
    reference_costs,
)
from tests.face.lips import one_face, opened


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


def heads(turns: np.ndarray, aperture: np.ndarray | float = 0.1) -> np.ndarray:
    """(n, 131, 2): one face, whose left half is the narrower the more it is turned, with lips so far open."""
    drawn = one_face(len(turns))
    drawn[..., 0] -= np.where(drawn[..., 0] < 0.5, (drawn[..., 0] - 0.5) * turns[:, None], 0)
    return opened(drawn, aperture)


def test_costs_weigh_pose_and_lips() -> None:
    distances = np.array([1.0, 2, 3, np.nan, np.inf])
    aperture = np.array([0.3, 0.1, 0, 0.2, 0.4]) / 0.38  # so that 95 % are below 1
    wanted = np.array(0.3 / 0.38)
    found = reference_costs(distances, aperture, wanted, 2)
    lips = np.stack([aperture, np.abs(aperture - wanted)], axis=1)  # closed; as far open as wanted
    np.testing.assert_allclose(found[:3], np.array([[0.5], [1], [1.5]]) + 2 * lips[:3])
    assert np.isinf(found[3:]).all()
    np.testing.assert_array_equal(reference_costs(distances, aperture, wanted, 1)[..., 0], found[..., 1])
    between = reference_costs(distances, aperture, wanted, 3)
    np.testing.assert_array_equal(between[..., ::2], found)
    np.testing.assert_allclose(between[:3, 1], [0.5, 1, 1.5] + 2 * np.abs(aperture[:3] - wanted / 2))


def test_references_follow_a_head_that_turns_and_are_held_while_they_are_near() -> None:
    turns = np.linspace(0, 1, 50)
    aperture = np.random.default_rng(1).permutation(50) / 500
    shown = np.linspace(0, 1, 200)
    there = ReferenceFollower(heads(turns, aperture), 2)(heads(shown), np.full(200, 0.1))
    assert there.shape == (200, 2)
    assert np.abs(turns[there] - shown[:, None]).mean() < 0.15  # of anyone: 1/3
    closed, wide = aperture[there].T
    assert closed.mean() < 0.026
    assert wide.mean() > 0.072
    changes = (there[1:] != there[:-1]).sum(0)
    assert (changes > 1).all()
    assert (changes < 15).all()
    # A tremble within what is held changes nothing; a frame without a face neither.
    trembling = heads(np.tile([0.5, 0.52], 20))
    trembling[7] = np.nan
    assert len(np.unique(ReferenceFollower(heads(turns, aperture), 2)(trembling, np.full(40, 0.05)), axis=0)) == 1


def test_the_last_reference_is_as_far_open_as_wanted_and_the_first_is_closed() -> None:
    aperture = np.random.default_rng(3).permutation(50) / 500
    wanted = np.abs(np.sin(np.arange(100) / 5)) / 10
    there = ReferenceFollower(heads(np.zeros(50), aperture), 3)(heads(np.full(100, 0.5)), wanted)
    closed, between, last = aperture[there].T
    held = 0.1 * CHANGE / LIPS  # lips open by a tenth; a change costs so much
    assert closed.max() <= held / LASTS + 0.004  # between candidates lie 0.002
    assert np.abs(last - wanted).max() <= held
    assert np.abs(last - wanted).mean() <= held / LASTS
    assert np.abs(between - wanted / 2).max() <= held
    assert np.ptp(last) > 0.055


def test_without_frames_ahead_a_reference_is_held_until_another_is_better_by_half_a_unit() -> None:
    aperture = np.random.default_rng(3).permutation(50) / 500
    wanted, still = np.abs(np.sin(np.arange(100) / 5)) / 10, heads(np.full(1, 0.5))
    follower = ReferenceFollower(heads(np.zeros(50), aperture), 3)
    there = np.concatenate([follower(still, wanted[i : i + 1]) for i in range(100)])
    closed, between, last = aperture[there].T
    held = 0.1 * 0.5 / LIPS + 0.004  # lips open by a tenth; between candidates lie 0.002
    assert closed.max() <= held
    assert np.abs(last - wanted).max() <= held
    assert np.abs(between - wanted / 2).max() <= held
    assert np.ptp(last) > 0.07


def least_cost(costs: np.ndarray, first: int) -> float:
    """By trial of all ways through (F, C) of frames up to the last that is looked at, from candidate `first` on."""
    weights = np.append(np.ones(len(costs) - 1), LASTS)
    ways = product(range(costs.shape[1]), repeat=len(costs) - 1)
    return min(
        sum(weights * costs[np.arange(len(costs)), [first, *way]]) + CHANGE * np.count_nonzero(np.diff([first, *way]))
        for way in ways
    )


def test_costs_to_come_are_those_of_the_best_way_through_what_follows() -> None:
    costs = np.random.default_rng(4).exponential(1.0, (AHEAD + 4, 2, 2))
    costs[3, 1] = np.inf
    found = costs_to_come(costs)
    for frame in (0, 3, AHEAD, AHEAD + 3):
        for candidate, slot in np.ndindex(2, 2):
            wanted = least_cost(costs[frame : frame + AHEAD + 1, :, slot], candidate)
            assert found[frame, candidate, slot] == pytest.approx(wanted)


def test_a_reference_is_not_changed_for_a_moment_that_is_known_to_pass() -> None:
    aperture = np.linspace(0, 0.1, 50)
    wanted = np.where(np.arange(40) == 20, 0.0, 0.1)  # lips shut for one frame
    still = heads(np.zeros(40))
    whole = ReferenceFollower(heads(np.zeros(50), aperture), 2)(still, wanted)
    assert (whole[20] == whole[19]).all()
    assert (whole[21] == whole[19]).all()
    follower = ReferenceFollower(heads(np.zeros(50), aperture), 2)
    alone = np.concatenate([follower(still[i : i + 1], wanted[i : i + 1]) for i in range(40)])
    assert (alone[20] != alone[19]).any()  # who does not see what comes follows at once


def test_frames_in_blocks_are_served_as_all_at_once_where_what_follows_is_known() -> None:
    rng = np.random.default_rng(5)
    pool, shown = heads(np.linspace(0, 1, 30), rng.permutation(30) / 300), heads(rng.uniform(0, 1, 60))
    shown[[7, 31]] = np.nan
    wanted, allowed = rng.uniform(0, 0.1, 60), rng.random((60, 30)) < 0.8
    whole = ReferenceFollower(pool, 3)(shown, wanted, allowed)
    follower, size = ReferenceFollower(pool, 3), 20
    parts = [
        follower(*(given[i : i + size + AHEAD + 1] for given in (shown, wanted, allowed)), asked=size)
        for i in range(0, 60, size)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert 2 < len(np.unique(whole, axis=0)) < 60


def test_what_is_not_allowed_is_not_chosen() -> None:
    turns, aperture = np.linspace(0, 1, 50), np.random.default_rng(2).permutation(50) / 500
    apart = np.abs(np.arange(50)[:, None] - np.arange(50))
    allowed = apart >= 12
    allowed[-1] = False
    follower = ReferenceFollower(heads(turns, aperture), 4)
    chosen = follower(heads(turns), np.random.default_rng(2).uniform(0, 0.1, 50), allowed)
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
