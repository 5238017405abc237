"""Where this person's lips and jaw are: what guidance predicts of a stranger is said again with their own mouth (ours).

Guidance knows the people it was trained on. A stranger's mouth it puts about where theirs were: too high, too narrow,
with other lips. How far lips are open and how wide they are it tells well of anybody, and where a person's lips and jaw
are, other frames of the same video show. So of what is predicted, those measures are kept, and the mouth is that of the
person's frames, moved as any mouth is by the pose and by what the lips do (`face.mouth_motion`). On 16 people whom the
bundled networks never saw, lips are then a third nearer to the true ones, and the jaw two thirds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stsa_lightning.face.mouth_motion import AlignedFaces, MouthMotion, lips_of
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder

_NEAR = 0.02  # root mean square distance of poses, in half sides of the box, up to which frames count about the same
_LIPS_PENALTY = 1.0  # in frames, on how the person's lips differ from predicted ones: those of one picture may smile


class KeypointCalibration:
    """Predicted keypoints, said again with the mouth of a person.

    Lips of different people differ in thickness and width where they are open by as much. By how much these are
    predicted wrong is told by frames whose true landmarks are known and in which guidance predicted the mouth under any
    speech. The inner aperture stays as predicted, so that a calibrated mouth opens and shuts as before.

    Args:
        predicted: (K, 2, 57) keypoints that guidance predicts, in sides of the face box.
        landmarks: (M, 131, 2) true ones of the person's frames, normalised to the face box.
        places: (K,) which of the M frames each prediction is of; a frame may come several times.
    """

    def __init__(self, predicted: np.ndarray, landmarks: np.ndarray, places: np.ndarray) -> None:
        self._known, self._places = AlignedFaces.of(landmarks), places
        self._lips = lips_of(self._known.keypoints)
        guessed = lips_of(AlignedFaces.of(landmarks[places]).align(predicted.swapaxes(1, 2)))
        self._missing = _thickness_and_width(self._lips[places]) - _thickness_and_width(guessed)

    def __call__(self, predicted: np.ndarray, frames: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Predicted keypoints (F, 2, 57) -> calibrated ones, (F, 2, 57) float32, in sides of the box.

        Args:
            predicted: the keypoints of these frames.
            frames: landmarks (F, 131, 2), normalised to the face box; only what speech does not move is looked at.
            allowed: (F, M) bool, which of the known frames may say something of each; None: all. Where there is none,
                and in frames without a face, keypoints stay as they are.
        """
        faces, known, motion = AlignedFaces.of(frames), self._known, MouthMotion.load()
        if allowed is None:
            allowed = np.ones((len(frames), len(known.fixed)), bool)
        lips = self._own_lips(lips_of(faces.align(predicted.swapaxes(1, 2))), allowed)
        share = self._shares(faces.fixed, allowed)
        from_pose = (faces.fixed - share @ known.fixed) @ motion.by_pose
        from_lips = (lips - share @ self._lips) @ motion.by_lips
        calibrated = faces.back(share @ known.keypoints + from_pose + from_lips).swapaxes(1, 2)
        told = np.isfinite(calibrated) & np.any(allowed, axis=1)[:, None, None]
        return np.where(told, calibrated, predicted).astype(np.float32)

    def _own_lips(self, lips: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """`lips_of` the person, (F, 3), from predicted ones: of the same inner aperture."""
        counts = allowed[:, self._places].astype(float)  # (F, K)
        frames = allowed.sum(1, keepdims=True)
        mean = counts @ self._missing / np.maximum(counts.sum(1, keepdims=True), 1)
        thicker, wider = (mean * frames / (frames + _LIPS_PENALTY)).T
        return lips + np.stack([thicker, np.zeros_like(thicker), wider], axis=1)

    def _shares(self, fixed: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """(F, M): how much each known frame says of each frame; those near in pose more."""
        products = fixed @ self._known.fixed.T
        squares = np.square(fixed).sum(1)[:, None] + np.square(self._known.fixed).sum(1)
        apart = np.maximum(squares - 2 * products, 0) * (2 / fixed.shape[1])
        weights = allowed / (apart + _NEAR**2)
        return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Calibrator:
    """Calibrates guidance to people.

    Attributes:
        engine, builder: run guidance, and build what it is fed.
        speech: gives audio windows (K, T, D, 10) of speech of any kind.
    """

    engine: Engine
    builder: FrameInputBuilder
    speech: Callable[[], np.ndarray]

    def __call__(self, references: Any, landmarks: np.ndarray) -> KeypointCalibration:
        """To the person of some frames, by what guidance makes of them as they stand still.

        Args:
            references: what `Engine.encode` returned.
            landmarks: (M, 131, 2), normalised to the face box; the speech is spread over them.
        """
        audio = self.speech()
        places = np.linspace(0, len(landmarks) - 1, len(audio)).round().astype(int)
        guided = self.engine.guide(self.builder.still(landmarks[places], audio), references)
        return KeypointCalibration(guided.keypoints.float().cpu().numpy(), landmarks, places)


def _thickness_and_width(lips: np.ndarray) -> np.ndarray:
    """`lips_of` (n, 3) -> (n, 2): how much farther the outer edges are apart than the inner ones, and the width."""
    return np.column_stack([lips[:, 0] - lips[:, 1], lips[:, 2]])
