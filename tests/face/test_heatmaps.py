"""Heatmaps against the recorded ones of the released code, and against their definition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from stsa_lightning.face.heatmaps import (
    draw_all_kinds,
    draw_heatmap,
    draw_heatmaps,
    inner_lip_aperture,
    outer_lip_aperture,
)
from stsa_lightning.face.topology import HEATMAP_KINDS, LANDMARKS, LINES, HeatmapKind


@pytest.fixture(scope="module")
def record(corpus: Path) -> dict[str, np.ndarray]:
    """Heatmaps by the released code. Their landmarks are of a real clip: they stay out of the repository."""
    path = corpus.parent / "parity" / "heatmaps.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the real clips; a drawing by OpenCV stands for it")
    with np.load(path) as file:
        return dict(file)


@pytest.fixture
def scattered() -> np.ndarray:
    """Landmarks without any order, some outside of the box."""
    return np.random.default_rng(0).uniform(-0.1, 1.1, (4, 131, 2)).astype(np.float32)


@pytest.mark.parametrize("kind", ["whole", "masked"])
def test_equals_the_recorded_heatmaps_pixel_by_pixel(record: dict[str, np.ndarray], kind: HeatmapKind) -> None:
    np.testing.assert_array_equal(draw_heatmaps(record["landmarks"], kind), record[kind])
    np.testing.assert_array_equal(draw_all_kinds(record["landmarks"])[kind], record[kind])


@pytest.mark.parametrize("kind", HEATMAP_KINDS)
@pytest.mark.parametrize(("size", "sigma"), [(64, 1.0), (128, 1.0), (128, 2.5)])
def test_definition(scattered: np.ndarray, kind: HeatmapKind, size: int, sigma: float) -> None:
    """HeatmapRenderer are 1 on the lines and fall with the distance to them as a Gaussian does.

    OpenCV's mask of 5 approximates the Euclidean distance within 2 %.
    """
    for face in scattered:
        heatmap = draw_heatmap(face, kind, size, sigma)
        assert heatmap.shape == (size, size)
        assert heatmap.dtype == np.float32
        lines = LINES[kind]
        drawn = lines[((face[lines] >= 0) & (face[lines] <= 1)).all(axis=(1, 2))]
        ends = np.floor(face[drawn] * size).astype(int).reshape(-1, 2)
        assert (heatmap[ends[:, 1], ends[:, 0]] == 1).all()
        distance = distance_transform_edt(heatmap < 1)
        expected = np.where(distance < 3 * sigma, np.exp(-(distance**2) / (2 * sigma**2)), 0)
        np.testing.assert_allclose(heatmap, expected, atol=0.03)


def test_all_kinds_at_once_equal_each_alone(scattered: np.ndarray) -> None:
    together = draw_all_kinds(scattered[None], size=64, sigma=1.5)
    assert tuple(together) == HEATMAP_KINDS
    for kind, heatmaps in together.items():
        assert heatmaps.shape == (1, 4, 64, 64)
        np.testing.assert_array_equal(heatmaps[0], draw_heatmaps(scattered, kind, 64, 1.5))
        np.testing.assert_array_equal(heatmaps[0, 1], draw_heatmap(scattered[1], kind, 64, 1.5))


@pytest.mark.parametrize("kind", HEATMAP_KINDS)
@pytest.mark.parametrize(("size", "sigma"), [(64, 1.0), (128, 1.7), (37, 0.4)])
def test_equals_a_drawing_by_opencv_pixel_by_pixel(
    scattered: np.ndarray, kind: HeatmapKind, size: int, sigma: float
) -> None:
    """Also where points lie on the edges of the box, the far one drawn to the last pixel, and lines are points."""
    on_a_grid = np.round(scattered * 4) / 4
    for face in (*scattered, *on_a_grid):
        canvas = np.full((size, size), 255, np.uint8)
        for line in LINES[kind]:
            ends = face[line]
            if ((ends >= 0) & (ends <= 1)).all():
                cv2.polylines(canvas, [np.minimum(np.floor(ends * size), size - 1).astype(np.int32)], False, (0,))
        distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
        expected = np.where(distance < 3 * sigma, np.exp(np.square(distance) * (-0.5 / sigma**2)), 0)
        np.testing.assert_array_equal(draw_heatmap(face, kind, size, sigma), expected.astype(np.float32))


@pytest.mark.parametrize("kind", HEATMAP_KINDS)
def test_sigma_zero_draws_hard_lines(scattered: np.ndarray, kind: HeatmapKind) -> None:
    """Exactly the pixels on which the lines of any width reach 1."""
    np.testing.assert_array_equal(draw_heatmaps(scattered, kind, 64, 0.0), draw_heatmaps(scattered, kind, 64, 1.0) == 1)


def test_no_faces_no_heatmaps() -> None:
    assert draw_heatmaps(np.empty((0, 131, 2))).shape == (0, 128, 128)
    assert draw_all_kinds(np.empty((2, 0, 131, 2)), 64)["whole"].shape == (2, 0, 64, 64)


def test_face_outside_of_the_box_leaves_nothing() -> None:
    assert not draw_heatmap(np.full((131, 2), 1.5, np.float32)).any()
    assert not draw_heatmap(np.full((131, 2), np.nan, np.float32)).any()


def test_lip_openings() -> None:
    landmarks = np.zeros((2, 3, 131, 2), np.float32)
    at = {int(i): p for p, i in enumerate(LANDMARKS)}
    landmarks[..., at[17], :] = (3, 4)
    landmarks[..., at[14], :] = (0, 2)
    np.testing.assert_allclose(outer_lip_aperture(landmarks), np.full((2, 3), 5))
    np.testing.assert_allclose(inner_lip_aperture(landmarks), np.full((2, 3), 2))


def test_errors() -> None:
    face = np.zeros((131, 2), np.float32)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 131, 2\), got \(130, 2\)"):
        draw_heatmap(face[:130])
    with pytest.raises(ValueError, match="draw_heatmaps"):
        draw_heatmap(face[None])
    with pytest.raises(ValueError, match="kind: expected one of"):
        draw_heatmap(face, "nose")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size"):
        draw_heatmap(face, size=0)
    with pytest.raises(ValueError, match="sigma"):
        draw_heatmap(face, sigma=-1)
    with pytest.raises(ValueError, match="131"):
        outer_lip_aperture(face[:10])
