"""Faces that open their lips as far as a test wants."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.topology import LIP_MEASURES


def opened(faces: np.ndarray, aperture: np.ndarray | float) -> np.ndarray:
    """Landmarks (n, 131, 2), the lower inner edge of their lips put so far (n,) below the upper."""
    upper, lower = LIP_MEASURES[1]
    faces = faces.copy()
    faces[:, lower] = faces[:, upper]
    faces[:, lower, 1] += aperture
    return faces


def one_face(count: int) -> np.ndarray:
    """(count, 131, 2): the same face in its box, `count` times."""
    face = np.random.default_rng(0).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    return np.repeat(face[None], count, 0)
