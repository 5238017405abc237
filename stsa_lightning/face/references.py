"""Which frames of a video show the networks what its face looks like."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.alignment import pose_distances

NEAR = 0.1  # share of the candidates, those nearest in pose, that a reference is taken from
HELD = 0.3  # share within which it is held on to: each change of a reference shows a little
CANDIDATES = 64  # frames of a shot among which there is something near every pose
APART = 12  # frames at 25/s: nearer to a frame than that its own mouth is seen, which networks shall not copy


def choose_references(openness: np.ndarray, valid: np.ndarray, count: int) -> np.ndarray:
    """Frames spread evenly over the valid frames sorted by lip openness: from closed to widest open.

    Args:
        openness: (F,) opening of the lips, any unit; ignored where a frame is not valid.
        valid: (F,) bool, frames that may be chosen.
        count: how many to choose. With fewer valid frames than that, frames are repeated.

    Returns:
        (count,) int64 frame indices, by rising openness.

    Raises:
        ValueError: shapes that differ, a count below 1, or no valid frame.
    """
    openness, valid = np.asarray(openness), np.asarray(valid, dtype=bool)
    if openness.ndim != 1 or openness.shape != valid.shape:
        raise ValueError(f"openness and valid: expected the same shape (F,), got {openness.shape} and {valid.shape}")
    if count < 1:
        raise ValueError(f"count: expected at least 1 reference, got {count}")
    frames = np.flatnonzero(valid)
    if not len(frames):
        raise ValueError(f"valid: expected a frame with a face, got none among {len(valid)} frames")
    ranks = np.rint(np.linspace(0, len(frames) - 1, count)).astype(np.int64)
    return frames[np.argsort(openness[frames], kind="stable")][ranks]


def choose_posed(distances: np.ndarray, openness: np.ndarray, count: int, near: int) -> np.ndarray:
    """Frames from closed to open lips among those nearest in pose.

    Args:
        distances: (F,) see :func:`stsa_lightning.face.alignment.pose_distances`; NaN and infinity leave a frame out.
        openness: (F,) of their lips.
        count: how many to choose.
        near: among how many.

    Returns:
        (count,) int64 frame indices, by rising openness.
    """
    order = np.argsort(distances, kind="stable")
    nearest = np.zeros(len(distances), bool)
    nearest[order[np.isfinite(distances[order])][:near]] = True
    return choose_references(openness, nearest, count)


class PoseFollower:
    """References that lie much as each frame's face does, from closed lips to open ones.

    A reference is held until :data:`HELD` of the candidates are nearer. To be called with a video's frames in order.

    Args:
        landmarks: (C, 131, 2) of the candidates, normalised to their boxes.
        openness: (C,) of their lips.
        count: references of a frame, N.
    """

    def __init__(self, landmarks: np.ndarray, openness: np.ndarray, count: int) -> None:
        self.landmarks, self.openness, self.count = landmarks, openness, count
        self.near, self.held = (
            max(least, round(share * len(openness))) for share, least in ((NEAR, 2 * count), (HELD, 4 * count))
        )
        self._chosen = choose_references(openness, np.ones(len(openness), bool), count)

    def __call__(self, frames: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Which candidates each frame looks at.

        Args:
            frames: landmarks (F, 131, 2) in their boxes; those with NaN look at what the frame before looks at.
            allowed: (F, C) bool, candidates that a frame may look at; it may look at all where it is left with none.

        Returns:
            (F, N) int64 places among the candidates, at first by rising openness.
        """
        distances = pose_distances(self.landmarks, frames)
        if allowed is not None:
            distances = np.where(allowed | ~allowed.any(1, keepdims=True), distances, np.inf)
        return np.stack([self._next(row) for row in distances]) if len(frames) else np.empty((0, self.count), np.int64)

    def _next(self, distances: np.ndarray) -> np.ndarray:
        finite = np.isfinite(distances)
        if finite.any():
            limit = np.sort(distances[finite])[: self.held][-1]
            fresh = choose_posed(distances, self.openness, self.count, self.near)
            self._chosen = np.where(distances[self._chosen] <= limit, self._chosen, fresh)
        return self._chosen


def candidates(valid: np.ndarray) -> np.ndarray:
    """Up to :data:`CANDIDATES` of the valid frames, spread evenly: (C,) numbers."""
    frames = np.flatnonzero(valid)
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(CANDIDATES, len(frames))).round().astype(int))]
