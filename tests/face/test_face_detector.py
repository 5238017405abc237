"""BlazeFace against MediaPipe's own answers, and its parts against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.face_detector import FaceDetector, iou, merge_overlapping
from tests.face.mediapipe_record import RECORD, still


@pytest.mark.parametrize("name", still())
def test_face_detector_on_recorded_pictures_agrees_with_mediapipe(name: str) -> None:
    expected = np.load(RECORD)[f"{name}_detections"]
    found = FaceDetector()(still()[name])
    assert len(found) == len(expected) >= 1
    height = expected[:, 3:4] - expected[:, 1:2]
    np.testing.assert_array_less(np.abs(found.boxes - expected[:, :4]) / height, 2e-3)
    np.testing.assert_array_less(np.abs(found.keypoints.reshape(-1, 12) - expected[:, 4:16]) / height, 2e-3)
    np.testing.assert_allclose(found.scores, expected[:, 16], atol=2e-3)


def test_face_detector_without_a_face_finds_nothing() -> None:
    found = FaceDetector()(np.full((90, 160, 3), 128, np.uint8))
    assert len(found) == 0
    assert (found.boxes.shape, found.keypoints.shape, found.scores.shape) == ((0, 4), (0, 6, 2), (0,))


@pytest.mark.parametrize("frame", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_face_detector_on_another_array_says_what_it_expects(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frame: expected \(H, W, 3\) uint8 RGB"):
        FaceDetector()(frame)


def test_iou_of_boxes_is_their_shared_over_their_joint_area() -> None:
    a = np.array([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    b = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [4, 4, 4, 4]])
    np.testing.assert_allclose(iou(a, b), [[1, 2 / 6, 0, 0], [0, 0, 0, 0]])


def test_merge_overlapping_boxes_are_averaged_by_score() -> None:
    boxes = [[(10, 10), (12, 12)], [(0, 0), (2, 2)], [(0, 0), (2, 3)], [(9, 9), (9, 9)]]
    points, scores = merge_overlapping(np.array(boxes, float), np.array([0.6, 0.9, 0.3, 0.5]))
    np.testing.assert_allclose(points, [[(0, 0), (2, 2.25)], [(10, 10), (12, 12)], [(9, 9), (9, 9)]])
    np.testing.assert_allclose(scores, [0.9, 0.6, 0.5])
