"""FaceMesh against MediaPipe's own answers, and its regions against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.face_detector import FaceDetector
from stsa_lightning.face.face_mesh import (
    FaceMesh,
    FaceMeshDetector,
    _around,
    _axes,
    _upright,
    apart,
    regions_of_detections,
    regions_of_landmarks,
)
from tests.face.mediapipe_record import RECORD, moving, photo, still


def _percent_apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean distance of the points in per cent of the face's height, of the frame where it is largest."""
    heights = np.ptp(expected[..., 1], axis=-1)
    return float((100 * np.linalg.norm(found - expected, axis=-1).mean(axis=-1) / heights).max())


@pytest.mark.parametrize("name", [name for name in still() if name != "photo"])
def test_face_mesh_detector_on_recorded_pictures_agrees_with_mediapipe(name: str) -> None:
    expected = np.load(RECORD)[name]
    found = np.stack(FaceMeshDetector(static=True, faces=2).all_faces(still()[name]))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    order = [np.linalg.norm(found - face, axis=-1).mean(axis=-1).argmin() for face in expected]
    assert _percent_apart(found[order], expected) < 0.05


def test_face_mesh_on_a_recorded_picture_gives_all_points_of_mediapipe() -> None:
    points, scores = FaceMesh()(photo(), regions_of_detections(FaceDetector()(photo())))
    assert _percent_apart(points, np.load(RECORD)["photo"]) < 0.05
    assert scores.tolist() == pytest.approx([1], abs=0.01)


def test_face_mesh_detector_on_recorded_motion_agrees_with_mediapipe() -> None:
    expected = np.load(RECORD)["moving"]
    detector = FaceMeshDetector()
    found = [detector(frame) for frame in moving()]
    seen = np.isfinite(expected[:, 0, 0])
    assert [points is not None for points in found] == seen.tolist()
    assert _percent_apart(np.stack([p for p in found if p is not None]), expected[seen]) < 0.05


def test_face_mesh_of_several_regions_is_that_of_each() -> None:
    frame = still()["two_faces"]
    regions = regions_of_detections(FaceDetector()(frame))
    together, scores = FaceMesh()(frame, regions)
    assert together.shape == (2, 478, 2)
    for number, region in enumerate(regions):
        alone, score = FaceMesh()(frame, region[None])
        np.testing.assert_allclose(together[number], alone[0], atol=1e-3)
        np.testing.assert_allclose(scores[number], score[0], atol=1e-5)


def test_face_mesh_detector_with_room_for_more_finds_each_face_once() -> None:
    detector = FaceMeshDetector(faces=4)
    for _ in range(3):  # the second time from the regions of the first, beside the detector's
        assert len(detector.all_faces(still()["two_faces"])) == 2


def test_face_mesh_detector_after_forgetting_looks_for_the_face_anew() -> None:
    frames = moving()
    detector, fresh = FaceMeshDetector(), FaceMeshDetector()
    detector(frames[0])
    detector.forget()
    np.testing.assert_array_equal(detector(frames[11]), fresh(frames[11]))


def test_face_mesh_detector_beyond_the_frame_returns_none() -> None:
    detector = FaceMeshDetector()
    assert detector(photo()) is not None
    assert detector(photo()[300:]) is None  # the region is there, the face is not


def test_regions_of_landmarks_are_turned_squares_around_them() -> None:
    points = np.zeros((2, 478, 2))
    points[:] = (50, 40)
    points[:, 33], points[:, 263] = (40, 40), (60, 40)
    points[0, 10], points[0, 152] = (50, 20), (50, 80)
    points[1, 263] = (60, 60)  # leans by 45 degrees
    np.testing.assert_allclose(regions_of_landmarks(points), [[50, 50, 90, 0], [50, 50, 30, np.pi / 4]])


@pytest.mark.parametrize("region", [[300, 260, 200, 0.3], [20, 10, 150, -1.0], [500, 500, 400, 3.0], [-300, 60, 90, 0]])
def test_face_mesh_reads_nothing_around_its_region(region: list[float]) -> None:
    frame, regions = photo(), np.array([region])
    (axes,) = _axes(regions)
    x0, y0, x1, y1 = _around(regions[0, :2], axes, (frame.shape[1], frame.shape[0]))
    elsewhere = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    elsewhere[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
    np.testing.assert_array_equal(_upright(elsewhere, regions[0, :2], axes), _upright(frame, regions[0, :2], axes))


def test_apart_keeps_the_earlier_of_regions_of_one_face() -> None:
    regions = np.array([[50, 50, 40, 0], [55, 50, 40, 1], [90, 50, 40, 0], [50, 50, 20, 0]], float)
    assert apart(regions).tolist() == regions[[0, 2, 3]].tolist()
