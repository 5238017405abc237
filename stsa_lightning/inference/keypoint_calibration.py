"""Where this person's lips and jaw are: what guidance predicts of a stranger is moved there (ours).

Guidance knows the people it was trained on. A stranger's mouth it puts about where theirs were: too high, too narrow,
with other lips. How that is off stays the same in all frames of a person, whatever is said, and can be read off the
video that is to be dubbed, for there the true mouth is seen. Measured on 16 people whom the bundled networks never saw,
this takes a quarter of the distance between predicted and true lips.

What is left is, for the most part, where lips lie as a whole, which guidance reads off the contours of brows, eyes and
nose. The person's own frames tell it about as well, by the pose and by how far lips are open and how wide they are, and
are wrong in other frames: a part of the way from the one to the other is nearer than either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.face.alignment import reference_transforms
from stsa_lightning.face.topology import JAW_KEYPOINTS, KEYPOINT_POSITIONS, LIP_MEASURE_KEYPOINTS, MASKED_POSITIONS
from stsa_lightning.inference.engine import Engine, Guided
from stsa_lightning.inference.frame_inputs import FrameInputBuilder, FrameInputs

Draw = Callable[[Tensor, Tensor], Tensor]  # see `Guidance.draw`

_TURNS = 3  # principal components of the pose: about yaw, pitch and what the detector makes of them
# Ridge penalties. For what is the same in all poses, as much as one frame weighs: lips of a single picture may smile.
_MEAN_PENALTY = 1.0
# For what changes with the pose, in squared sides of the box; heads that are turned far have variances of 0.001.
_TURN_PENALTY = 0.0016
_SLOPE_PENALTY = 1e-4
# For how the place of lips and jaw changes with the pose and with what the lips do, in the same units.
_PLACE_PENALTY = 1e-4
_PLACE_SHARE = 0.3  # of what the person's frames say of it, against guidance
_PLACE_FRAMES = 8.0  # of which there are enough to count for half of that


@dataclass(frozen=True)
class _Aligned:
    """Keypoints of n frames moved by a similarity so that brows, eyes, nose and upper oval lie as in one of them.

    Attributes:
        turns: (n, 2, 2) the linear part of that similarity, in coordinates from -1 to 1.
        shifts: (n, 2) the rest of it.
        fixed: (n, 76, 2) what speech does not move, aligned.
    """

    turns: np.ndarray
    shifts: np.ndarray
    fixed: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray, anchor: np.ndarray) -> _Aligned:
        """Landmarks (n, 131, 2), and those (131, 2) that they are aligned to."""
        theta = reference_transforms(anchor[None], landmarks)[:, 0].astype(np.float64)
        turns, shifts = theta[..., :2], theta[..., 2]
        return cls(turns, shifts, _moved(landmarks[:, MASKED_POSITIONS], turns, shifts))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, k, 2) in sides of the box -> aligned, from -1 to 1."""
        return _moved(points, self.turns, self.shifts)

    def back(self, displacements: np.ndarray) -> np.ndarray:
        """Displacements (n, k, 2) of aligned points -> in sides of the frame's own box."""
        return displacements @ np.linalg.inv(self.turns).swapaxes(-1, -2) / 2


class KeypointCalibration:
    """Displacements of predicted keypoints: of each by the frame's pose alone, then of lips and jaw, each as a whole.

    The first are fitted to frames whose true landmarks are known and in which guidance predicted the mouth under any
    speech. Lips are then open otherwise than the true ones: what that explains, by how keypoints move when the
    predicted lips open, is taken out, so that a calibrated mouth opens and shuts as predicted.

    Args:
        predicted: (K, 2, 57) keypoints that guidance predicts, in sides of the face box, of lips from shut to open.
        landmarks: (M, 131, 2) true ones of the person's frames, normalised to the face box.
        places: (K,) which of the M frames each prediction is of; a frame may come several times.
    """

    def __init__(self, predicted: np.ndarray, landmarks: np.ndarray, places: np.ndarray) -> None:
        self.places, known, landmarks = places, landmarks, landmarks[places]
        self._anchor = landmarks[0]
        aligned = _Aligned.of(landmarks, self._anchor)
        guessed, true = aligned(predicted.swapaxes(1, 2)), aligned(landmarks[:, KEYPOINT_POSITIONS])
        self._mean = aligned.fixed.mean(0)
        flat = (aligned.fixed - self._mean).reshape(len(landmarks), -1)
        # Their coefficients are root mean squares over the points, in sides of the box.
        self._axes = np.linalg.svd(flat, full_matrices=False)[2][:_TURNS] / (2 * np.sqrt(len(MASKED_POSITIONS)))
        poses = self._poses(aligned)
        self._range = poses.min(0), poses.max(0)
        opened, wide = (_aperture_and_width(points)[:, 0] for points in (guessed, true))
        given = np.column_stack([np.ones(len(poses)), opened - opened.mean(), poses])
        penalty = np.array([0.0, _SLOPE_PENALTY, *[_TURN_PENALTY] * poses.shape[1]])
        slope = _ridge(given, guessed.reshape(len(poses), -1), np.ones((1, len(poses))), penalty)[0, 1]
        self._given = _with_mean(poses)
        self._missing = (true - guessed).reshape(len(poses), -1) - np.outer(wide - opened, slope)
        self._weight = len(np.unique(places)) / len(places)
        self._penalty = np.array([_MEAN_PENALTY, *[_TURN_PENALTY] * poses.shape[1]])
        self._know_places(_Aligned.of(known, self._anchor), known[:, KEYPOINT_POSITIONS])

    @classmethod
    def of(
        cls, engine: Engine, references: Any, builder: FrameInputBuilder, landmarks: np.ndarray, audio: np.ndarray
    ) -> KeypointCalibration:
        """Of a person's frames, by what guidance makes of them as they stand still.

        Args:
            references: what `engine.encode` returned.
            landmarks: (M, 131, 2), normalised to the face box.
            audio: (K, T, D, 10) audio windows of speech of any kind; the frames are spread over them.
        """
        places = np.linspace(0, len(landmarks) - 1, len(audio)).round().astype(int)
        guided = engine.guide(builder.still(landmarks[places], audio), references)
        return cls(guided.keypoints.float().cpu().numpy(), landmarks, places)

    def __call__(self, frames: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """What is to be added to the keypoints of F frames: (F, 2, 57), in sides of the box.

        Args:
            frames: landmarks (F, 131, 2), normalised to the face box; only what speech does not move is looked at.
            allowed: (F, M) bool, which of the known frames may say something of each; None: all.
        """
        aligned = _Aligned.of(frames, self._anchor)
        known = np.ones((1, len(self.places))) if allowed is None else allowed[:, self.places]
        weights = _ridge(self._given, self._missing, self._weight * known, self._penalty)  # (F or 1, poses, 114)
        shift = aligned.back((self._within(aligned)[:, None] @ weights).reshape(len(frames), -1, 2))
        return np.nan_to_num(shift).swapaxes(1, 2).astype(np.float32)

    def _know_places(self, aligned: _Aligned, keypoints: np.ndarray) -> None:
        """What `place` is told by: the M known frames and their true keypoints (M, 57, 2)."""
        points = aligned(keypoints)
        self._own_places, measures = _places(points), _aperture_and_width(points)
        self._own_measures = measures.mean(0)
        self._seen = np.column_stack([_with_mean(self._poses(aligned)), measures - self._own_measures])
        # Hardly any on what is the same in all frames: but for it nothing could be solved where none is allowed.
        self._seen_penalty = np.array([1e-3, *[_PLACE_PENALTY] * (self._seen.shape[1] - 1)])

    def place(self, keypoints: np.ndarray, frames: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """What is to be added to calibrated keypoints for lips and jaw, each as a whole, to lie nearer to their place.

        Args:
            keypoints: (F, 2, 57) predicted and calibrated, in sides of the box; their shape stays.
            frames, allowed: as in a call.

        Returns:
            (F, 2, 57), in sides of the box.
        """
        aligned = _Aligned.of(frames, self._anchor)
        points = aligned(keypoints.swapaxes(1, 2))
        known = np.ones((1, len(self._seen))) if allowed is None else allowed.astype(float)
        mean = self._own_places.mean(0)
        weights = _ridge(self._seen, self._own_places - mean, known, self._seen_penalty)
        given = np.column_stack([self._within(aligned), _aperture_and_width(points) - self._own_measures])
        own = mean + (given[:, None] @ weights)[:, 0]  # (F, 4)
        count = known.sum(1, keepdims=True)
        apart = _PLACE_SHARE * count / (count + _PLACE_FRAMES) * (own - _places(points))
        moved = apart.reshape(-1, 2, 2).repeat([JAW_KEYPOINTS, points.shape[1] - JAW_KEYPOINTS], axis=1)
        return np.nan_to_num(aligned.back(moved)).swapaxes(1, 2).astype(np.float32)

    def placed(
        self, guided: Guided, inputs: FrameInputs, frames: np.ndarray, draw: Draw, allowed: np.ndarray | None = None
    ) -> Guided:
        """What guidance predicted for `inputs`, calibrated, with lips and jaw at their `place` and drawn there."""
        shift = torch.from_numpy(self.place(guided.keypoints.float().cpu().numpy(), frames, allowed))
        keypoints = guided.keypoints + shift.to(guided.keypoints.device)
        masked = inputs.masked_heatmaps[:, inputs.masked_heatmaps.shape[1] // 2]
        return Guided(draw(keypoints, masked.to(keypoints.device)), keypoints)

    def _within(self, aligned: _Aligned) -> np.ndarray:
        """Poses, `_with_mean`, in the range of those known: no telling how it goes on beyond what was seen."""
        return _with_mean(np.clip(self._poses(aligned), *self._range))

    def _poses(self, aligned: _Aligned) -> np.ndarray:
        return (aligned.fixed - self._mean).reshape(len(aligned.fixed), -1) @ self._axes.T


def _moved(points: np.ndarray, turns: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    return (2 * points.astype(np.float64) - 1) @ turns.swapaxes(-1, -2) + shifts[:, None]


def _with_mean(poses: np.ndarray) -> np.ndarray:
    """(n, q) -> (n, 1 + q): the first coefficient of a regression on it is what all poses have in common."""
    return np.column_stack([np.ones(len(poses)), poses])


def _places(keypoints: np.ndarray) -> np.ndarray:
    """(n, 57, 2) -> (n, 4): the middle of the jaw's keypoints and of the lips', x and y."""
    jaw, lips = keypoints[:, :JAW_KEYPOINTS], keypoints[:, JAW_KEYPOINTS:]
    return np.concatenate([jaw.mean(1), lips.mean(1)], axis=1)


def _aperture_and_width(keypoints: np.ndarray) -> np.ndarray:
    """(n, 57, 2) -> (n, 2): inner aperture of the lips, and width of the mouth."""
    first, second = (keypoints[:, LIP_MEASURE_KEYPOINTS[1:, end]] for end in (0, 1))
    return np.linalg.norm(first - second, axis=-1)


def _ridge(given: np.ndarray, wanted: np.ndarray, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Weighted ridge regressions: given (n, q), wanted (n, y), weights (m, n), penalty (q,) -> (m, q, y)."""
    weighted = weights[:, None] * given.T  # (m, q, n)
    return np.linalg.solve(weighted @ given + np.diag(penalty), weighted @ wanted)
