"""How lips and jaw move in the picture as a head turns, whatever they say, and as lips part and the mouth grows wide.

A similarity makes two views of one face agree in size and tilt. What turning does besides, brows, eyes, nose and upper
oval tell: as the nose moves across the cheeks, so do the lips. Between frames of a person this is nearly linear, and
nearly the same for everybody. The matrices are a ridge regression over 90 people (`benchmarks/mouth_motion.py`), in
which what the lips do stood beside the pose, so that contours which give away how far a frame's own mouth is open do
not open another one that is put in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from stsa_lightning.face.alignment import reference_transforms
from stsa_lightning.face.topology import KEYPOINT_POSITIONS, LIP_MEASURE_KEYPOINTS, MASKED_POSITIONS

WEIGHTS = Path(__file__).parents[1] / "assets" / "mouth_motion.safetensors"


@dataclass(frozen=True)
class MouthMotion:
    """What holds for all faces, aligned to the average one; coordinates from -1 to 1 of a face box.

    Attributes:
        average: (131, 2) the average face, its own mirror image.
        by_pose: (152, 114) how far x and y of the 57 keypoints move for each unit that those of the 76 points of brows,
            eyes, nose and upper oval do, while the lips' measures stay.
        by_lips: (3, 114) how far they move for each unit of outer aperture, inner aperture and width, in one pose.
    """

    average: np.ndarray
    by_pose: np.ndarray
    by_lips: np.ndarray

    @classmethod
    @lru_cache(1)
    def load(cls) -> MouthMotion:
        """The packaged one."""
        return cls(**{name: values.astype(np.float64) for name, values in load_file(WEIGHTS).items()})


@dataclass(frozen=True)
class AlignedFaces:
    """Faces moved by similarities so that what speech does not move lies as it does in the average face.

    Attributes:
        turns, shifts: (n, 2, 2) and (n, 2), the similarities, in coordinates from -1 to 1.
        fixed: (n, 152) x and y of the 76 points that speech does not move, aligned.
        keypoints: (n, 114) x and y of the 57 keypoints, aligned.
    """

    turns: np.ndarray
    shifts: np.ndarray
    fixed: np.ndarray
    keypoints: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray, average: np.ndarray | None = None) -> AlignedFaces:
        """Landmarks (n, 131, 2) in sides of the box; `average`: another face than `MouthMotion.average`."""
        average = MouthMotion.load().average if average is None else average
        theta = reference_transforms((average[None] + 1) / 2, landmarks)[:, 0].astype(np.float64)
        turns, shifts = theta[..., :2], theta[..., 2]
        parts = (landmarks[:, positions] for positions in (MASKED_POSITIONS, KEYPOINT_POSITIONS))
        return cls(turns, shifts, *(_aligned(points, turns, shifts) for points in parts))

    def align(self, keypoints: np.ndarray) -> np.ndarray:
        """Other keypoints of these faces, (n, 57, 2) in sides of the box -> (n, 114), aligned."""
        return _aligned(keypoints, self.turns, self.shifts)

    def back(self, keypoints: np.ndarray) -> np.ndarray:
        """Aligned keypoints (n, 114) -> (n, 57, 2) float32 in sides of each face's own box."""
        points = keypoints.reshape(len(keypoints), -1, 2) - self.shifts[:, None]
        return ((points @ np.linalg.inv(self.turns).swapaxes(-1, -2) + 1) / 2).astype(np.float32)


def lips_of(keypoints: np.ndarray) -> np.ndarray:
    """Aligned keypoints (n, 114) -> (n, 3): outer and inner lip aperture, width of the mouth."""
    first, second = keypoints.reshape(len(keypoints), -1, 2)[:, LIP_MEASURE_KEYPOINTS.T].swapaxes(0, 1)
    return np.linalg.norm(first - second, axis=-1)


def on_poses(poses: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Mouths and jaws of some frames as they would be seen in the poses of other frames of the same person.

    Args:
        poses: landmarks (n, 131, 2) in sides of the box, whose brows, eyes, nose and upper oval stay.
        faces: landmarks (n, 131, 2) whose lips and lower oval are put there.

    Returns:
        (n, 131, 2) float32.
    """
    here, there = AlignedFaces.of(poses), AlignedFaces.of(faces)
    made = poses.astype(np.float32)
    made[:, KEYPOINT_POSITIONS] = here.back(there.keypoints + (here.fixed - there.fixed) @ MouthMotion.load().by_pose)
    made[:, MASKED_POSITIONS] = poses[:, MASKED_POSITIONS]  # two of the jaw's keypoints are the upper oval's ends
    return made


def _aligned(points: np.ndarray, turns: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    moved = (2 * points.astype(np.float64) - 1) @ turns.swapaxes(-1, -2) + shifts[:, None]
    return moved.reshape(len(points), -1)
