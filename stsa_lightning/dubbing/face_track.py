"""The face of every frame of a video, and how much of it is re-rendered."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from stsa_lightning.face.box import MARGIN_PX, normalise_landmarks
from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.occlusion import covered_share, no_lips
from stsa_lightning.face.pose import yaw_degrees
from stsa_lightning.face.smoothing import smooth_boxes, smooth_landmarks
from stsa_lightning.face.topology import CONTENT_POSITIONS, LANDMARKS
from stsa_lightning.face.upright_box import UprightBox, steady_turns, to_upright, upright_box

REASONS = ("rendered", "no face", "profile", "occluded", "out of frame", "failed check")
NO_FACE, PROFILE, OCCLUDED, OUT_OF_FRAME, FAILED = 1, 2, 3, 4, 5
RAMP_S = 0.2  # the new mouth comes and goes over that long
# Two limits each, so that what lies between does not flicker.
_PROFILE_DEGREES = (44.0, 38.0)
_COVERED = (0.36, 0.18)
# Of the face's size, mouth and jaw beyond the picture's edge: up to 0.06 mouths come out right, at 0.12 torn.
_BEYOND = (0.08, 0.05)
_MARGIN_S = 0.08  # a hand is near the mouth before it covers it


@dataclass(frozen=True)
class Faces:
    """The face of each of a video's F frames.

    Attributes:
        landmarks: (F, 131, 2) float32 upright pixels (`face.upright_box`); zeros where there is none.
        boxes: (F, 4) int32 upright pixels; zeros where there is none.
        degrees: (F,) float32, by which the head is tilted; exactly 0 where it is nearly upright.
        valid: (F,) bool, a face was found.
        shots: (F,) int32, number of the shot.
        weight: (F,) float32, how much of the re-rendered face shows: 0 lets the frame pass through.
        why: (F,) uint8, place in `REASONS`.
        choice: whose face it is and why, in words.
    """

    landmarks: np.ndarray
    boxes: np.ndarray
    degrees: np.ndarray
    valid: np.ndarray
    shots: np.ndarray
    weight: np.ndarray
    why: np.ndarray
    choice: str

    def box(self, frame: int) -> UprightBox:
        """Where the face of a frame is."""
        return UprightBox(self.boxes[frame], float(self.degrees[frame]))

    @property
    def normalised(self) -> np.ndarray:
        """(F, 131, 2) landmarks in their boxes; of meaning where valid."""
        return self.in_boxes(np.arange(len(self.valid)))

    def in_boxes(self, frames: np.ndarray) -> np.ndarray:
        """(n, 131, 2) landmarks of some frames in their boxes; of meaning where valid."""
        boxes = np.where(self.valid[frames, None], self.boxes[frames], [0, 0, 1, 1])
        return normalise_landmarks(self.landmarks[frames], boxes)


def find_faces(frames: Iterable[np.ndarray], size: tuple[int, int], detector: LandmarkDetector) -> Faces:
    """Every frame by itself, as a detector finds its face; `size` is the frames' width and height."""
    nowhere = np.full((len(LANDMARKS), 2), np.nan, np.float32)
    found = [nowhere if points is None else points for points in map(detector, frames)]
    landmarks = np.stack(found) if found else nowhere[:0].reshape(0, len(LANDMARKS), 2)
    degrees = steady_turns(landmarks, fps=None)
    landmarks = to_upright(landmarks, degrees, size)
    boxes = _boxes(landmarks, size, degrees)
    valid = np.any(boxes, axis=1)
    landmarks[~valid] = 0
    why = np.where(valid, 0, NO_FACE).astype(np.uint8)
    shots, weight = np.zeros(len(valid), np.int32), valid.astype(np.float32)
    return Faces(landmarks, boxes, degrees, valid, shots, weight, why, "only face")


def _boxes(landmarks: np.ndarray, size: tuple[int, int], degrees: np.ndarray) -> np.ndarray:
    """(n, 4) int32, each as it is; zeros where there is no face, or a tracker followed it out of the picture."""
    boxes = np.zeros((len(landmarks), 4), np.int32)
    for points, turn, box in zip(landmarks, degrees.tolist(), boxes, strict=True):
        with suppress(ValueError):
            box[:] = upright_box(points, turn, size, MARGIN_PX)
    return boxes


def settle_faces(
    landmarks: np.ndarray,
    colours: np.ndarray | None,
    starts: list[int],
    fps: float,
    size: tuple[int, int],
    choice: str = "only face",
    steady: bool = True,
    contrast: np.ndarray | None = None,
) -> Faces:
    """From what was found in each frame to what is re-rendered.

    Args:
        landmarks: (F, 131, 2) float32 pixels, NaN where there is no face; taken over, and changed.
        colours: (F, PLACES, 3) uint8 of `face_colours`; None: nothing is taken for covered.
        starts: first frame of each shot, 0 first.
        fps: frames a second.
        size: width and height of the frames.
        choice: see `Faces`.
        steady: smooth over time; False takes each frame as it is found.
        contrast: (F, CUES) float32 of `lip_contrast`; None: lips are taken to be there.
    """
    count = len(landmarks)
    boxes, why = np.zeros((count, 4), np.int32), np.full(count, NO_FACE, np.uint8)
    beyond = _beyond(landmarks, size)
    shots, degrees = np.zeros(count, np.int32), np.zeros(count, np.float32)
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], count], strict=True)):
        shots[start:stop] = number
        seen = np.isfinite(landmarks[start:stop, 0, 0])
        for a, b in _runs(seen):
            part = slice(start + a, start + b)
            if steady:
                smooth_landmarks(landmarks[part], fps)
            degrees[part] = steady_turns(landmarks[part], fps if steady else None)
            landmarks[part] = to_upright(landmarks[part], degrees[part], size)
            settled = smooth_boxes if steady else _boxes
            boxes[part] = settled(landmarks[part], size, degrees[part])
        seen &= boxes[start:stop].any(axis=1)
        why[start:stop][seen] = _why(landmarks[start:stop], colours, contrast, beyond, slice(start, stop), seen, fps)
    valid = np.any(boxes, axis=1)
    landmarks[~valid] = 0
    weight = ramped(why == 0, shots, ramp_frames(fps))
    return Faces(landmarks, boxes, degrees, valid, shots, weight, why, choice)


def _beyond(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(F,) how far mouth or jaw reach beyond the picture's edge, as a share of the face's size; NaN without a face."""
    low, high = landmarks[:, CONTENT_POSITIONS].min(axis=1), landmarks[:, CONTENT_POSITIONS].max(axis=1)
    return np.maximum(-low, high - size).max(axis=1) / np.ptp(landmarks, axis=1).max(axis=1)


def _why(
    landmarks: np.ndarray,
    colours: np.ndarray | None,
    contrast: np.ndarray | None,
    beyond: np.ndarray,
    part: slice,
    seen: np.ndarray,
    fps: float,
) -> np.ndarray:
    """(frames seen,) why each frame of a shot with a face passes through, or 0."""
    why = np.zeros(int(seen.sum()), np.uint8)
    if not len(why):
        return why
    numbers = np.flatnonzero(seen)
    yaw = np.concatenate([yaw_degrees(landmarks[numbers[i : i + 1024]]) for i in range(0, len(numbers), 1024)])
    why[_between(np.abs(yaw), *_PROFILE_DEGREES)] = PROFILE
    if colours is not None:
        covered = _between(covered_share(colours[part][seen]), *_COVERED)
        margin = round(_MARGIN_S * fps)
        why[np.convolve(covered, np.ones(2 * margin + 1), mode="same")[: len(why)] > 0] = OCCLUDED
    if contrast is not None:
        why[no_lips(contrast[part][seen], fps)] = OCCLUDED
    why[_between(beyond[part][seen], *_BEYOND)] = OUT_OF_FRAME
    return why


def _between(values: np.ndarray, on: float, off: float) -> np.ndarray:
    """(n,) bool: from a value above `on` until one below `off`, looked at from both sides."""
    above, inside = values > on, values > off
    found = above.copy()
    for a, b in _runs(inside):
        found[a:b] = above[a:b].any()
    return found


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def ramp_frames(fps: float) -> int:
    """Over how many frames the new mouth comes and goes."""
    return max(1, round(RAMP_S * fps))


def ramped(rendered: np.ndarray, shots: np.ndarray, ramp: int) -> np.ndarray:
    """(F,) weights: 0 where not rendered, rising with the distance from there within the shot; a cut needs no ramp."""
    distance = np.where(rendered, ramp + 1, 0)
    for order in (range(1, len(distance)), range(len(distance) - 2, -1, -1)):
        for i in order:
            near = i - 1 if order.step == 1 else i + 1
            if shots[near] == shots[i]:
                distance[i] = min(distance[i], distance[near] + 1)
    share = distance / (ramp + 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)
