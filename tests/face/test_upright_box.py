from __future__ import annotations

import cv2
import numpy as np
import pytest

from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.face.upright_box import (
    UprightBox,
    from_upright,
    roll_degrees,
    steady_turns,
    to_upright,
    upright_box,
)

SIZE = (320, 240)


def head() -> np.ndarray:
    """(131, 2) of an upright face around (160, 120)."""
    points = np.random.default_rng(0).uniform(130, 190, (131, 2)).astype(np.float32)
    points[positions([33, 263])] = [(145, 105), (175, 105)]
    points[MOUTH] += np.float32([160, 140]) - points[MOUTH].mean(axis=0)
    return points


def rolled(points: np.ndarray, degrees: float) -> np.ndarray:
    """Turned clockwise, as one sees it, about the middle of the picture: OpenCV's own matrix."""
    matrix = cv2.getRotationMatrix2D((SIZE[0] / 2, SIZE[1] / 2), -degrees, 1)
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def smooth_picture() -> np.ndarray:
    noise = np.random.default_rng(1).uniform(0, 255, (SIZE[1], SIZE[0], 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 4)
    return cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize("degrees", [-170, -90, -30, 0, 15, 60, 135, 180])
def test_roll_of_a_turned_head_is_the_turn(degrees: int) -> None:
    error = roll_degrees(rolled(head(), degrees)) - degrees
    assert abs((error + 180) % 360 - 180) < 1e-3


@pytest.mark.parametrize("degrees", [0.0, -20.0, 45.0, 170.0])
@pytest.mark.parametrize("shift", [(0, 0), (-110, 70)])
def test_a_face_is_read_from_within_its_reach(degrees: float, shift: tuple[int, int]) -> None:
    """Also at the frame's edge, where its outermost pixels go on."""
    picture = smooth_picture()
    there = rolled(head(), degrees) + np.float32(shift)
    place = UprightBox(upright_box(to_upright(there, degrees, SIZE), degrees, SIZE, 5), degrees)
    x0, y0, x1, y1 = place.reach(SIZE)
    elsewhere = np.random.default_rng(3).integers(0, 256, picture.shape, np.uint8)
    elsewhere[y0:y1, x0:x1] = picture[y0:y1, x0:x1]
    np.testing.assert_array_equal(place.crop(elsewhere, 64), place.crop(picture, 64))


@pytest.mark.parametrize("degrees", [-90.0, 45.0, 180.0])
def test_points_of_a_turned_head_become_the_upright_ones(degrees: float) -> None:
    upright = head()
    np.testing.assert_allclose(to_upright(rolled(upright, degrees), degrees, SIZE), upright, atol=1e-3)
    np.testing.assert_allclose(from_upright(upright, degrees, SIZE), rolled(upright, degrees), atol=1e-3)


def test_points_of_an_upright_head_stay_the_same_object() -> None:
    points = np.stack([head()] * 2)
    assert to_upright(points, np.zeros(2, np.float32), SIZE) is points


def test_turns_of_nearly_upright_heads_are_exactly_zero() -> None:
    track = np.stack([rolled(head(), degrees) for degrees in np.linspace(-8, 8, 40)])
    assert not steady_turns(track, 25).any()


def test_turns_grow_smoothly_from_zero_to_the_whole_roll() -> None:
    roll = np.concatenate([np.linspace(0, 90, 180), np.full(60, 90.0)])
    turns = steady_turns(np.stack([rolled(head(), degrees) for degrees in roll]), 25)
    assert turns[0] == 0
    assert abs(turns[-30] - 90) < 0.1
    assert np.abs(np.diff(turns)).max() < 4 * 0.5  # of the head's own half degree a frame


def test_turns_pass_over_frames_without_a_face() -> None:
    track = np.stack([rolled(head(), 180 + wobble) for wobble in np.linspace(-3, 3, 30)])  # across +-180
    track[10:13] = np.nan
    turns = steady_turns(track, 25)
    assert not turns[10:13].any()
    assert (np.abs(np.delete(turns, np.s_[10:13])) > 176).all()


@pytest.mark.parametrize(("quarters", "degrees"), [(3, 90.0), (2, 180.0), (1, -90.0)])
def test_crop_of_a_lying_head_is_that_of_the_upright_picture(quarters: int, degrees: float) -> None:
    upright = smooth_picture()
    frame = np.ascontiguousarray(np.rot90(upright, quarters))
    # Both pictures have the same middle; a box in the upright one, counted from there, is the turned picture's.
    shift = (np.array(frame.shape[1::-1]) - upright.shape[1::-1]) // 2
    box = np.array([100, 60, 200, 180])
    place = UprightBox(box + np.tile(shift, 2), degrees)
    np.testing.assert_array_equal(place.read(frame), upright[60:180, 100:200])
    np.testing.assert_array_equal(place.crop(frame, 64), crop_face(upright, box, 64))


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
def test_what_is_added_to_the_upright_face_is_found_there_again(degrees: float) -> None:
    frame, place = smooth_picture(), UprightBox(np.array([120, 70, 200, 170]), degrees)
    bump = np.zeros((100, 80, 3), np.float32)
    cv2.circle(bump, (40, 60), 14, (60, 40, -50), -1)
    bump = cv2.GaussianBlur(bump, (0, 0), 3)
    changed = frame.copy()
    place.add(changed, bump)
    got = place.read(changed).astype(np.float32) - place.read(frame)
    assert np.abs(got - bump).mean() < 0.6
    assert (changed != frame).any(axis=2).mean() < 0.05


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_what_is_added_to_the_lowest_rows_is_what_is_added_to_all(degrees: float) -> None:
    place = UprightBox(np.array([120, 70, 200, 170]), degrees)
    change = np.zeros((100, 80, 3), np.float32)
    change[60:] = np.random.default_rng(0).normal(0, 30, (40, 80, 3))
    whole, rows = smooth_picture(), smooth_picture()
    place.add(whole, change)
    place.add(rows, change[60:])
    assert (whole != smooth_picture()).any()
    np.testing.assert_array_equal(rows, whole)


def test_box_of_a_turned_head_is_not_cut_at_the_edge() -> None:
    points = head() + np.float32([-100, 0])
    box = upright_box(to_upright(points, 90.0, SIZE), 90.0, SIZE, 5)
    assert box[1] < box[3]
    assert tuple(upright_box(head(), 0.0, SIZE, 5)) == tuple(face_box(head(), SIZE, 5))
    with pytest.raises(ValueError, match="within the frame"):
        upright_box(to_upright(points - np.float32([200, 0]), 90.0, SIZE), 90.0, SIZE, 5)
