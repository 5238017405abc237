from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stsa_lightning.face.alignment import pose_distances, reference_transforms
from stsa_lightning.face.topology import CONTENT_POSITIONS, MASKED_POSITIONS
from stsa_lightning.models.synthesis import warp_references


def faces(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, (count, 131, 2)).astype(np.float32)


def turned(points: np.ndarray, degrees: float, size: float, shift: tuple[float, float]) -> np.ndarray:
    """By the definition: turned and resized about the middle of the box, then shifted."""
    angle = np.deg2rad(degrees)
    matrix = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points - 0.5) @ matrix.T + 0.5 + shift).astype(np.float32)


def test_places_undo_a_similarity_whatever_the_mouth_does() -> None:
    frames = faces(3, 0)
    references = np.stack([turned(frames[0], 20, 1.2, (0.1, -0.05)), turned(frames[0], -35, 0.8, (0.0, 0.2))])
    references[:, CONTENT_POSITIONS] += 0.3
    theta = reference_transforms(references, frames)
    assert theta.shape == (3, 2, 2, 3)
    assert theta.dtype == np.float32
    at = 2 * frames[0, MASKED_POSITIONS] - 1
    for n, reference in enumerate(references):
        found = at @ theta[0, n, :, :2].T + theta[0, n, :, 2]
        np.testing.assert_allclose(found, 2 * reference[MASKED_POSITIONS] - 1, atol=1e-5)


def test_places_are_the_best_similarity() -> None:
    """Against scikit-image's estimate of noisy pairs."""
    transform = pytest.importorskip("skimage.transform")
    frames, references = faces(2, 1), faces(3, 2)
    for f, frame in enumerate(frames):
        for n, reference in enumerate(references):
            at, to = (2 * points[MASKED_POSITIONS].astype(np.float64) - 1 for points in (frame, reference))
            complex_at, complex_to = ((p - p.mean(0)) @ (1, 1j) for p in (at, to))
            factor = np.linalg.lstsq(complex_at[:, None], complex_to, rcond=None)[0][0]
            known = transform.SimilarityTransform(scale=abs(factor), rotation=np.angle(factor)).params[:2, :2]
            np.testing.assert_allclose(reference_transforms(references, frames)[f, n, :, :2], known, atol=1e-5)


def test_a_frame_without_a_face_leaves_references_where_they_are() -> None:
    frames = faces(2, 0)
    frames[1] = np.nan
    np.testing.assert_array_equal(reference_transforms(faces(2, 3), frames)[1], np.stack([np.eye(2, 3)] * 2))


def test_moved_pictures_lie_as_the_frames() -> None:
    """Blobs at a reference's landmarks come to lie at the frame's, as OpenCV would move them."""
    size = 128
    frame = faces(1, 4)
    reference = turned(frame, 15, 1.1, (0.03, -0.02))
    picture = np.zeros((size, size, 3), np.float32)
    for x, y in (reference[0, MASKED_POSITIONS] * size).astype(int):
        cv2.circle(picture, (int(x), int(y)), 3, (1.0, 0.5, 0.2), -1)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None, None]
    theta = reference_transforms(reference, frame)
    moved, heatmap = warp_references(image, image[:, :, :1], torch.from_numpy(theta))
    in_pixels = np.column_stack([theta[0, 0, :, :2], theta[0, 0, :, 2] * size / 2])
    centre = np.array([size / 2 - 0.5] * 2)
    in_pixels[:, 2] += centre - in_pixels[:, :2] @ centre
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(picture, in_pixels, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    assert expected.std() > 0.05
    np.testing.assert_allclose(moved[0, 0].permute(1, 2, 0), expected, atol=0.05)
    inside = slice(32, -32)  # beyond the rim a heatmap is empty
    np.testing.assert_allclose(heatmap[0, 0, 0, inside, inside], expected[inside, inside, 0], atol=0.05)


def test_one_videos_references_serve_many_frames() -> None:
    images, heatmaps, theta = torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 1, 16, 16), torch.eye(2, 3)
    moved = warp_references(images, heatmaps, theta.repeat(4, 2, 1, 1))
    torch.testing.assert_close(moved[0], images.expand(4, -1, -1, -1, -1))
    torch.testing.assert_close(moved[1], heatmaps.expand(4, -1, -1, -1, -1))


def test_distances_are_what_a_similarity_leaves() -> None:
    """Against the residual of a least-squares fit of its four numbers; none is left of what is but moved."""
    frames, references = faces(2, 1), faces(3, 2)
    references[0] = turned(frames[1], 20, 1.2, (0.1, -0.05))
    references[0, CONTENT_POSITIONS] += 0.3
    distances = pose_distances(references, frames)
    assert distances[1, 0] < 1e-3
    for f, frame in enumerate(frames):
        for n, reference in enumerate(references):
            (x, y), to = reference[MASKED_POSITIONS].astype(np.float64).T, frame[MASKED_POSITIONS].astype(np.float64)
            one, none = np.ones_like(x), np.zeros_like(x)
            system = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
            left = np.linalg.lstsq(system, to.T.ravel(), rcond=None)[1][0]
            if (f, n) != (1, 0):
                assert distances[f, n] == pytest.approx(np.sqrt(left / len(x)), abs=1e-6)
    references[2, MASKED_POSITIONS[0]] = np.nan
    assert np.isnan(pose_distances(references, frames)[:, 2]).all()
