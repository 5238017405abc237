"""Probabilistic heatmaps: soft lines along the contours of a face, drawn exactly as the released code draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from stsa_lightning.face.topology import HEATMAP_KINDS, LANDMARKS, LINES, LIP_MEASURES, HeatmapKind

_PARTS: tuple[HeatmapKind, ...] = ("masked", "lip", "jaw")


def draw_heatmap(landmarks: np.ndarray, kind: HeatmapKind = "whole", size: int = 128, sigma: float = 1.0) -> np.ndarray:
    """Heatmap of one face: `exp(-d^2 / 2 sigma^2)` where d < 3 sigma, else 0; d is the distance to the nearest contour.

    Args:
        landmarks: (131, 2) x, y normalised to the face box. A point outside [0, 1] is left out with its lines.
        kind: the contours: "whole" all; "masked" brows, eyes, nose, upper oval; "lip" the lips; "jaw" the lower oval.
        size: side of the heatmap in pixels.
        sigma: width of the lines in pixels; 0 draws hard lines of one pixel, value 1.

    Returns:
        (size, size) float32 in [0, 1].

    Raises:
        ValueError: wrong shape, kind, size or sigma.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 2:
        raise ValueError(f"landmarks: expected (131, 2), got {landmarks.shape}; for several faces call draw_heatmaps")
    return draw_heatmaps(landmarks, kind, size, sigma)


def draw_heatmaps(
    landmarks: np.ndarray, kind: HeatmapKind = "whole", size: int = 128, sigma: float = 1.0
) -> np.ndarray:
    """Heatmaps of many faces, each as `draw_heatmap` draws it: (..., 131, 2) -> (..., size, size) float32."""
    if kind not in LINES:
        raise ValueError(f"kind: expected one of {HEATMAP_KINDS}, got {kind!r}")
    return _draw(landmarks, (kind,), size, sigma)[0]


def draw_all_kinds(landmarks: np.ndarray, size: int = 128, sigma: float = 1.0) -> dict[HeatmapKind, np.ndarray]:
    """Every kind of heatmap of many faces: kind -> (..., size, size) float32.

    The distance to all contours is the least of the distances to their parts, so "whole" is the maximum of the others.
    """
    masked, lip, jaw = _draw(landmarks, _PARTS, size, sigma)
    whole = np.maximum(masked, lip)
    np.maximum(whole, jaw, out=whole)
    return {"whole": whole, "masked": masked, "lip": lip, "jaw": jaw}


def outer_lip_aperture(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the outer edges of the lips (FaceMesh points 0 and 17): (..., 131, 2) -> (...), same unit."""
    return _lip_aperture(landmarks, LIP_MEASURES[0])


def inner_lip_aperture(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the inner edges of the lips (FaceMesh points 13 and 14): (..., 131, 2) -> (...), same unit."""
    return _lip_aperture(landmarks, LIP_MEASURES[1])


def lip_measures(landmarks: np.ndarray) -> np.ndarray:
    """Outer and inner lip aperture and width of the mouth: (..., 131, 2) -> (..., 3), same unit."""
    return np.stack([_lip_aperture(landmarks, pair) for pair in LIP_MEASURES], axis=-1)


def _lip_aperture(landmarks: np.ndarray, pair: np.ndarray) -> np.ndarray:
    landmarks = np.asarray(landmarks)
    if landmarks.shape[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {landmarks.shape}")
    return np.linalg.norm(landmarks[..., pair[0], :] - landmarks[..., pair[1], :], axis=-1)


def _checked(landmarks: np.ndarray, size: int, sigma: float) -> np.ndarray:
    landmarks = np.asarray(landmarks, dtype=np.float32)
    if landmarks.shape[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {landmarks.shape}")
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma: expected 0 (hard lines) or a positive number of pixels, got {sigma}")
    return landmarks


def _draw(landmarks: np.ndarray, kinds: Sequence[HeatmapKind], size: int, sigma: float) -> np.ndarray:
    """(kinds, ..., size, size): all lines of all maps at once, as their number makes a call for each map costly."""
    landmarks = _checked(landmarks, size, sigma)
    faces = landmarks.reshape(-1, len(LANDMARKS), 2)
    lines, kind_of_line = _lines(tuple(kinds))
    inside = (faces >= 0) & (faces <= 1)
    inside = inside[..., 0] & inside[..., 1]  # (faces, 131)
    # As in the released code, a point at 1, the far edge, is drawn to the last pixel.
    pixels = np.minimum(np.where(inside[..., None], faces, 0) * size, size - 1).astype(np.int64)
    face, line = np.nonzero(inside[:, lines[:, 0]] & inside[:, lines[:, 1]])
    ends, maps = pixels[face[:, None], lines[line]], kind_of_line[line] * len(faces) + face
    return _stamp(ends, maps, len(kinds) * len(faces), size, sigma).reshape(
        len(kinds), *landmarks.shape[:-2], size, size
    )


@lru_cache
def _lines(kinds: tuple[HeatmapKind, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(lines, 2) positions of the ends of all lines, and (lines,) the number of each one's kind."""
    lines = [LINES[kind] for kind in kinds]
    return np.concatenate(lines), np.repeat(np.arange(len(kinds)), [len(of_kind) for of_kind in lines])


def _stamp(ends: np.ndarray, maps: np.ndarray, count: int, size: int, sigma: float) -> np.ndarray:
    """Draw lines (n, 2 ends, 2), each into one of `count` maps: (count, size, size).

    A pixel's value is that of the nearest line pixel. So the blot around a single pixel is laid onto every pixel of
    the lines, ring by ring from its rim to its centre: what is nearer comes later and stays.
    """
    ring = _single_pixel(sigma)
    reach = len(ring) // 2
    width = size + 2 * reach  # the margin takes what falls off the picture
    maps_with_margin = np.zeros(count * width * width, np.float32)
    pixels = _line_pixels(ends, (maps * width + reach) * width + reach, width)
    rows, columns = np.nonzero(ring)
    values = ring[rows, columns]
    steps = (rows - reach) * width + columns - reach
    for i in np.argsort(values, kind="stable"):
        maps_with_margin[pixels + steps[i]] = values[i]
    return np.ascontiguousarray(
        maps_with_margin.reshape(count, width, width)[:, reach : reach + size, reach : reach + size]
    )


def _line_pixels(ends: np.ndarray, origins: np.ndarray, width: int) -> np.ndarray:
    """Flat indices of the pixels of lines (n, 2 ends, 2): Bresenham's, from left to right, as OpenCV draws them.

    `origins` are the indices of each line's point (0, 0), `width` the distance between rows.
    """
    leftward = ends[:, 0, 0] > ends[:, 1, 0]
    first = np.where(leftward[:, None], ends[:, 1], ends[:, 0])
    columns, rows = (np.where(leftward[:, None], ends[:, 0], ends[:, 1]) - first).T
    row = np.where(rows < 0, -width, width)
    rows = np.abs(rows)
    steep = rows > columns
    along, across = np.maximum(rows, columns), np.minimum(rows, columns)
    longest = np.maximum(along, 1)
    count = along + 1
    start = origins + first[:, 1] * width + first[:, 0]

    def spread(of_line: np.ndarray) -> np.ndarray:
        return np.repeat(of_line, count)

    step = np.arange(count.sum()) - spread(np.cumsum(count) - count)
    # Halves go back: the quarter keeps the floor away from whole numbers, where rounding errors would decide.
    aside = np.floor(step * spread(across / longest) + spread(0.5 - 0.25 / longest)).astype(np.int64)
    return spread(start) + step * spread(np.where(steep, row, 1)) + aside * spread(np.where(steep, 1, row))


@lru_cache(maxsize=8)
def _single_pixel(sigma: float) -> np.ndarray:
    """(2 r + 1, 2 r + 1) heatmap around one pixel, with OpenCV's approximate distances as in the released code."""
    if sigma == 0:
        return np.ones((1, 1), np.float32)
    reach = math.ceil(3 * sigma)
    canvas = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    canvas[reach, reach] = 0
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    return np.where(distance < 3 * sigma, np.exp(np.square(distance) * (-0.5 / sigma**2)), 0).astype(np.float32)
