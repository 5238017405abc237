"""The face box and the coordinates within it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stsa_lightning.face.box import crop_face, denormalise_landmarks, face_box, normalise_landmarks, resize_face


def _face(low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    points = np.random.default_rng(1).uniform(low, high, (131, 2)).astype(np.float32)
    points[0], points[1] = low, high
    return points


def test_box_is_tight_plus_margin() -> None:
    box = face_box(_face((20.5, 30.0), (80.2, 90.0)), (200, 150))
    assert box.dtype == np.int32
    np.testing.assert_array_equal(box, [15, 25, 86, 95])


def test_box_is_clipped_to_the_frame() -> None:
    np.testing.assert_array_equal(face_box(_face((-10, 2), (80, 300)), (82, 150), margin_px=5), [0, 0, 82, 150])


def test_normalisation_and_back() -> None:
    faces = np.stack([_face((20.5, 30.0), (80.2, 90.0)), _face((-4.0, 3.0), (60.0, 50.0))])
    boxes = np.stack([face_box(face, (200, 150)) for face in faces])
    normalised = normalise_landmarks(faces, boxes)
    assert normalised.shape == (2, 131, 2)
    assert normalised[0].min() > 0
    assert normalised[0].max() < 1
    assert normalised[1].min() < 0  # left of a box that was clipped
    np.testing.assert_allclose(normalised[1], normalise_landmarks(faces[1], boxes[1]))
    np.testing.assert_allclose(denormalise_landmarks(normalised, boxes), faces, atol=1e-4)


def test_crop_keeps_the_pixels_of_a_box_of_its_own_size() -> None:
    frame = np.random.default_rng(2).integers(0, 256, (60, 70, 3), np.uint8)
    np.testing.assert_array_equal(crop_face(frame, np.array([3, 4, 35, 36]), 32), frame[4:36, 3:35])
    assert crop_face(frame, np.array([3, 4, 70, 10]), 48).shape == (48, 48, 3)


def test_resize_averages_areas_when_shrinking() -> None:
    face = np.kron(np.array([[0, 200], [100, 40]], np.uint8), np.ones((8, 8), np.uint8))[..., None].repeat(3, 2)
    np.testing.assert_array_equal(resize_face(face, 2)[..., 0], [[0, 200], [100, 40]])


@pytest.mark.parametrize(("height", "width"), [(302, 285), (129, 128), (128, 300), (256, 256), (256, 250), (90, 200)])
def test_resize_is_opencvs_of_bytes(height: int, width: int) -> None:
    face = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize_face(face, 128), expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match="finite"):
        face_box(np.full((131, 2), np.nan), (100, 100))
    with pytest.raises(ValueError, match="within the frame of 100 x 90"):
        face_box(_face((120, 10), (160, 50)), (100, 90))
    with pytest.raises(ValueError, match="margin_px"):
        face_box(_face((10, 10), (50, 50)), (100, 90), margin_px=-1)
    with pytest.raises(ValueError, match="box: expected"):
        crop_face(np.zeros((10, 10, 3), np.uint8), np.array([0, 0, 11, 5]))
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\)"):
        normalise_landmarks(np.zeros((131, 2)), np.zeros(3))
