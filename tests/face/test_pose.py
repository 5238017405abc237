"""Yaw of a made-up head of known shape, and of real ones."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.pose import yaw_degrees
from stsa_lightning.face.topology import LANDMARKS, MIRROR, positions

# x to the right, y down, z towards the camera
HEAD = {234: (-1, 0, 0), 454: (1, 0, 0), 33: (-0.6, -0.4, 0.7), 263: (0.6, -0.4, 0.7), 4: (0, 0.1, 1.4)}


def _head(yaw: float, roll: float = 0.0) -> np.ndarray:
    """(131, 2): the head turned to the right of the picture and then tilted, seen from far."""
    a, b = np.radians(yaw), np.radians(roll)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]])
    points = np.zeros((len(LANDMARKS), 2))
    points[positions(list(HEAD))] = (np.array(list(HEAD.values())) @ turn.T)[:, :2] @ tilt.T
    return points


@pytest.mark.parametrize("yaw", [-60, -20, 0, 5, 45])
@pytest.mark.parametrize("roll", [-30, 0, 15])
def test_known_head(yaw: float, roll: float) -> None:
    points = _head(yaw, roll) * 80 + (300, 200)
    # Tilted, the nose's height comes in: the axis between the eyes leaves it out.
    assert yaw_degrees(points) == pytest.approx(yaw, abs=0.01)


def test_mirror_image_turns_the_other_way() -> None:
    points = np.random.default_rng(0).normal(size=(7, len(LANDMARKS), 2)) + _head(0)
    mirrored = points[:, MIRROR] * (-1, 1)
    np.testing.assert_allclose(yaw_degrees(mirrored), -yaw_degrees(points), atol=1e-3)


def test_shapes_and_missing_faces() -> None:
    points = np.stack([_head(10), np.full((131, 2), np.nan), _head(-10)])[None]
    found = yaw_degrees(points)
    assert found.shape == (1, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[10, np.nan, -10]], atol=0.01)
    with pytest.raises(ValueError, match="131"):
        yaw_degrees(np.zeros((5, 2)))
