"""Mouths put on other poses lie where the head's turn carries them."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.alignment import reference_transforms
from stsa_lightning.face.heatmaps import lip_measures
from stsa_lightning.face.mouth_motion import AlignedFaces, MouthMotion, lips_of, on_poses
from stsa_lightning.face.topology import CONTENT_POSITIONS, KEYPOINT_POSITIONS, LANDMARKS, MIRROR

AVERAGE = (MouthMotion.load().average + 1) / 2
RNG = np.random.default_rng(0)


def moved(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - 0.5) @ turn.T + 0.5 + shift


# How far each landmark stands out of the face, in 80ths of the box: a factorisation of the places of these points in
# 2,446 pairs of frames of 65 people, each pair of the same mouth in two poses; it knows nothing of the matrices tested.
DEPTH = np.array([
    -17, -19, -20, -20, -19, -17, -14, -10, -6, -2, 1, 3, 4, 3, 1, -2, -6, -9, -13, -17, -18, -19, -19, -18, -16, -5,
    -1, 1, 4, 6, 5, 4, 2, 0, -3, 6, 5, 2, 0, -4, -2, 1, 3, 4, 5, 6, 8, 10, 12, 15, 9, 12, 14, 16, 16, 16, 14, 12, 10,
    -3, -2, -2, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, -1, -1, -2, 1, 0, 0, 0, -1, -1, -1, -2, -2, -1, -1, 0, 0, 0, 0, 0,
    2, 3, 5, 7, 9, 10, 9, 8, 6, 5, 4, 5, 6, 8, 9, 9, 8, 7, 5, 3, 2, 3, 4, 6, 7, 8, 8, 7, 6, 5, 4, 5, 6, 7, 8, 8, 7,
    6, 4, 3,
]) / 80  # fmt: skip


def head(yaw: float, pitch: float) -> np.ndarray:
    """(131, 2) the average face, turned in space by degrees and seen from far."""
    x, y = (AVERAGE - AVERAGE.mean(0)).T
    a, b = np.radians([yaw, pitch])
    depth = np.cos(a) * DEPTH - np.sin(a) * x
    return np.column_stack([np.cos(a) * x + np.sin(a) * DEPTH, np.cos(b) * y - np.sin(b) * depth]) + 0.5


def test_a_face_moved_as_a_whole_takes_its_mouth_along() -> None:
    faces = RNG.uniform(0.2, 0.8, (3, len(LANDMARKS), 2)).astype(np.float32)
    expected = moved(faces, 12, 0.9, (0.05, -0.02)).astype(np.float32)
    poses = expected.copy()
    poses[:, CONTENT_POSITIONS] = RNG.uniform(0, 1, (3, len(CONTENT_POSITIONS), 2))
    before = poses.copy()
    np.testing.assert_allclose(on_poses(poses, faces), expected, atol=1e-5)
    np.testing.assert_array_equal(poses, before)


@pytest.mark.parametrize(("yaw", "pitch"), [(15, 0), (-10, 0), (0, 10), (12, -6)])
def test_a_mouth_follows_a_head_that_turns_in_space_where_a_similarity_does_not(yaw: float, pitch: float) -> None:
    straight, turned = head(0, 0)[None], head(yaw, pitch)[None]
    theta = reference_transforms(turned, straight)[:, 0]  # from -1 to 1
    alike = ((2 * straight - 1) @ theta[:, :, :2].swapaxes(1, 2) + theta[:, None, :, 2] + 1) / 2
    lips = KEYPOINT_POSITIONS[17:]
    by_similarity, by_motion = (
        np.linalg.norm((found - turned)[0, lips], axis=1).mean() for found in (alike, on_poses(turned, straight))
    )
    assert by_motion < 0.6 * by_similarity


def test_left_and_right_are_treated_alike() -> None:
    poses, faces = (AVERAGE + 0.02 * RNG.normal(size=(2, len(LANDMARKS), 2)) for _ in range(2))

    def mirrored(landmarks: np.ndarray) -> np.ndarray:
        return np.stack([1 - landmarks[:, MIRROR, 0], landmarks[:, MIRROR, 1]], axis=-1)

    np.testing.assert_allclose(mirrored(on_poses(poses, faces)), on_poses(mirrored(poses), mirrored(faces)), atol=1e-4)


def test_alignment_is_undone_and_lips_are_measured_as_everywhere() -> None:
    faces = moved(AVERAGE + 0.02 * RNG.normal(size=(2, len(LANDMARKS), 2)), -8, 1.1, (0.03, 0.01))
    aligned = AlignedFaces.of(faces)
    np.testing.assert_allclose(aligned.back(aligned.keypoints), faces[:, KEYPOINT_POSITIONS], atol=1e-6)
    np.testing.assert_allclose(aligned.align(faces[:, KEYPOINT_POSITIONS]), aligned.keypoints)
    size = 2 * np.sqrt(np.linalg.det(aligned.turns))  # of the average face's box to theirs, from half a side to a side
    np.testing.assert_allclose(lips_of(aligned.keypoints), lip_measures(faces) * size[:, None], rtol=1e-6)
