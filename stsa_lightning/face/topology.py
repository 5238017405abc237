"""The FaceMesh landmarks that STSA uses, and the contour lines between them (`landmarks.json`).

All index arrays are positions within the 131 used landmarks, the order in which landmark arrays (..., 131, 2) are kept.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Final, Literal, get_args

import numpy as np

HeatmapKind = Literal["whole", "masked", "lip", "jaw"]
HEATMAP_KINDS: Final[tuple[HeatmapKind, ...]] = get_args(HeatmapKind)

_SPEC = json.loads(resources.files(__package__).joinpath("landmarks.json").read_text())


def _ids(name: str) -> np.ndarray:
    return np.asarray(_SPEC[name], dtype=np.int64)


LANDMARKS: Final = _ids("landmarks")  # (131,) FaceMesh ids
MASKED: Final = _ids("masked")  # (76,) what audio must not decide: brows, eyes, nose, upper oval
CONTENT: Final = _ids("content")  # (55,) what audio decides: lower oval, lips
KEYPOINTS: Final = _ids("keypoints")  # (57,) what the guidance network predicts: 17 jaw, then 40 lip
JAW_KEYPOINTS: Final = 17

_POSITION = {int(landmark): position for position, landmark in enumerate(LANDMARKS)}


def positions(ids: np.ndarray | list[int]) -> np.ndarray:
    """Positions within the 131 used landmarks of the given FaceMesh ids, in the same shape.

    Raises:
        ValueError: an id is not among the 131.
    """
    array = np.asarray(ids, dtype=np.int64)
    unknown = sorted(set(array.ravel().tolist()) - _POSITION.keys())
    if unknown:
        raise ValueError(f"ids: expected FaceMesh ids among the 131 of landmarks.json, got {unknown}")
    flat = [_POSITION[i] for i in array.ravel().tolist()]
    return np.asarray(flat, dtype=np.int64).reshape(array.shape)


MASKED_POSITIONS: Final = positions(MASKED)  # (76,)
CONTENT_POSITIONS: Final = positions(CONTENT)  # (55,)
KEYPOINT_POSITIONS: Final = positions(KEYPOINTS)  # (57,)
JAW: Final = KEYPOINT_POSITIONS[:JAW_KEYPOINTS]  # (17,)
MOUTH: Final = KEYPOINT_POSITIONS[JAW_KEYPOINTS:]  # (40,)
LIP_MEASURES: Final = positions(
    np.array([[0, 17], [13, 14], [61, 291]])
)  # (3, 2) ends: outer and inner aperture, width
LIP_MEASURE_KEYPOINTS: Final = np.array(
    [[KEYPOINT_POSITIONS.tolist().index(end) for end in pair] for pair in LIP_MEASURES.tolist()]
)  # (3, 2) the same ends among the 57 keypoints


def _lines(*contours: str) -> np.ndarray:
    return positions([pair for contour in contours for pair in _SPEC["connections"][contour]])


_UPPER = ("left_eye", "left_eyebrow", "right_eye", "right_eyebrow", "nose")
LINES: Final[dict[HeatmapKind, np.ndarray]] = {  # kind -> (lines, 2)
    "whole": _lines(*_UPPER, "lips", "face_oval"),
    "masked": _lines(*_UPPER, "face_oval_upper"),
    "lip": _lines("lips"),
    "jaw": _lines("face_oval_lower"),
}

# `landmarks.json` lists every contour along its course. A contour that crosses the midline is its own mirror image read
# backwards; of a pair of contours, one read backwards is the mirror image of the other. So each entry is a
# symmetrical run of positions: the first is the partner of the last, and so on.
_SYMMETRICAL_RUNS: Final = (
    (range(0, 25),),  # oval
    (range(25, 30), range(35, 40)),  # upper edges of the brows
    (range(30, 35), range(40, 45)),  # lower edges of the brows
    *((range(i, i + 1),) for i in range(45, 50)),  # bridge of the nose: on the midline
    (range(50, 59),),  # base of the nose
    (range(59, 68), range(75, 84)),  # upper eyelids
    (range(68, 75), range(84, 91)),  # lower eyelids
    (range(91, 102),),  # outer lips, upper
    (range(102, 111),),  # outer lips, lower
    (range(111, 122),),  # inner lips, upper
    (range(122, 131),),  # inner lips, lower
)


def _mirror() -> np.ndarray:
    partner = np.empty(len(LANDMARKS), dtype=np.int64)
    for ranges in _SYMMETRICAL_RUNS:
        run = [position for part in ranges for position in part]
        partner[run] = run[::-1]
    return partner


MIRROR: Final = _mirror()  # (131,) position of the left-right partner; an involution


def mirrored(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (..., 131, 2), in sides of the box, of the same faces seen in a mirror."""
    return landmarks[..., MIRROR, :] * np.array([-1, 1], landmarks.dtype) + np.array([1, 0], landmarks.dtype)
