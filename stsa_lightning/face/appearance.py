"""Whether two faces of one video are one person's, by their colours: no identity network is needed, nor as sure.

A face is moved by its eyes and mouth onto a small picture, in which faces are compared colour by colour, from the brows
to the chin, in the light of the first. That tells the people of one video apart; it does not recognise a person in
another video, in another light or behind make-up.
"""

from __future__ import annotations

import cv2
import numpy as np

from stsa_lightning.face.topology import positions

_EYES, _MOUTH = positions([33, 133, 362, 263]), positions([61, 291, 0, 17])
# In units of the distance from eyes to mouth: what is looked at, from the middle of the eyes to both sides and down.
_SIDES, _ABOVE, _BELOW = 0.9, 0.3, 1.5
SIDE = 12
_LARGEST_LIGHT = 15.0  # of 100: a larger difference of lightness is not the light's
# Mean difference of CIELAB, summed over its three numbers, below which two faces are one person's. Of 59 clips of real
# people, 4 to 10 s each, both halves are that near (all 59); of one person's different clips, some in other scenes, 71
# in 100 (of 52 pairs); of different people 1 in 1000 (of 6792 pairs).
SAME_PERSON = 9.0


def face_patch(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, (131, 2) pixels -> (SIDE, SIDE, 3) float32 CIELAB; NaN beyond the frame's edge."""
    eyes, mouth = landmarks[_EYES].mean(axis=0), landmarks[_MOUTH].mean(axis=0)
    unit = max(float(np.hypot(*(mouth - eyes))), 1.0)
    down = (mouth - eyes) / unit
    right = np.array([down[1], -down[0]])
    reach = 2 * unit
    x0, y0 = np.floor(np.clip(eyes - reach, 0, None)).astype(int)
    x1, y1 = np.ceil(np.clip(eyes + reach, 0, None)).astype(int)
    face = frame[y0:y1, x0:x1]
    if not face.size:
        return np.full((SIDE, SIDE, 3), np.nan, np.float32)
    soft = cv2.GaussianBlur(face, (0, 0), max(0.3, _SIDES * unit / SIDE)).astype(np.float32) / 255
    across = (np.arange(SIDE) + 0.5) / SIDE * 2 * _SIDES - _SIDES
    along = (np.arange(SIDE) + 0.5) / SIDE * (_ABOVE + _BELOW) - _ABOVE
    at = eyes - (x0, y0) + unit * (across[None, :, None] * right + along[:, None, None] * down)
    x, y = (at[..., axis].astype(np.float32) for axis in (0, 1))
    return cv2.remap(cv2.cvtColor(soft, cv2.COLOR_RGB2LAB), x, y, cv2.INTER_LINEAR, borderValue=(np.nan,) * 3)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """How unlike two people look: of all pairs of their patches, each in about its pose, the likest.

    Args:
        a, b: (n, SIDE, SIDE, 3) patches of either.

    Returns:
        0 or more, see `SAME_PERSON`; infinite where nothing can be compared.
    """
    light = np.clip(_lightness(a)[:, None] - _lightness(b), -_LARGEST_LIGHT, _LARGEST_LIGHT)
    moved = b[None] + light[..., None, None, None] * np.array([1, 0, 0], np.float32)
    apart = np.abs(a[:, None] - moved).sum(axis=-1)
    known = np.isfinite(apart)
    mean = np.where(known, apart, 0).sum(axis=(-2, -1)) / np.maximum(known.sum(axis=(-2, -1)), 1)
    return float(np.where(known.mean(axis=(-2, -1)) > 0.5, mean, np.inf).min())


def _lightness(patches: np.ndarray) -> np.ndarray:
    """(n, SIDE, SIDE, 3) -> (n,): the mean."""
    known = np.isfinite(patches[..., 0])
    return np.where(known, patches[..., 0], 0).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)
