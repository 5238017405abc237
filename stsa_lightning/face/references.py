"""Which frames of a video serve as references."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.alignment import pose_distances

LIPS = 2.0  # how much lips that are opened otherwise than wanted count against a pose: see `reference_costs`
HELD = 0.25  # a reference is held until its cost is so much above the least: each change shows a little
CANDIDATES = 64  # frames of a shot among which there is something near every pose
APART = 12  # frames at 25/s: nearer to a frame than that its own mouth is seen, which networks shall not copy


def choose_references(aperture: np.ndarray, valid: np.ndarray, count: int) -> np.ndarray:
    """Frames spread evenly over the valid frames sorted by lip aperture: from closed to widest open.

    Args:
        aperture: (F,) lip aperture, any unit; ignored where a frame is not valid.
        valid: (F,) bool, frames that may be chosen.
        count: how many to choose. With fewer valid frames than that, frames are repeated.

    Returns:
        (count,) int64 frame indices, by rising aperture.

    Raises:
        ValueError: shapes that differ, a count below 1, or no valid frame.
    """
    aperture, valid = np.asarray(aperture), np.asarray(valid, dtype=bool)
    if aperture.ndim != 1 or aperture.shape != valid.shape:
        raise ValueError(f"aperture and valid: expected the same shape (F,), got {aperture.shape} and {valid.shape}")
    if count < 1:
        raise ValueError(f"count: expected at least 1 reference, got {count}")
    frames = np.flatnonzero(valid)
    if not len(frames):
        raise ValueError(f"valid: expected a frame with a face, got none among {len(valid)} frames")
    ranks = np.rint(np.linspace(0, len(frames) - 1, count)).astype(np.int64)
    return frames[np.argsort(aperture[frames], kind="stable")][ranks]


def reference_costs(distances: np.ndarray, aperture: np.ndarray, count: int) -> np.ndarray:
    """What speaks against each candidate as each of a frame's references: another pose, lips opened otherwise.

    References shall show the frame's pose, one of them closed lips, one wide open ones, and others what lies between.
    Where they all have the frame's pose but any mouth, lips tremble with every change of them.

    Args:
        distances: (..., C) of the candidates to frames, see `face.alignment.pose_distances`; NaN
            and infinity leave one out, but not all.
        aperture: (C,) of their lips, any unit.
        count: references, N.

    Returns:
        (..., C, N): the distance over the candidates' median, plus `LIPS` times the difference between the
        candidate's place in the order of aperture and the reference's, both from 0 to 1.
    """
    finite = np.where(np.isfinite(distances), distances, np.nan)
    poses = np.nan_to_num(finite, nan=np.inf) / np.maximum(np.nanmedian(finite, axis=-1, keepdims=True), 1e-9)
    places = aperture.argsort(kind="stable").argsort() / max(len(aperture) - 1, 1)
    return poses[..., None] + LIPS * np.abs(places[:, None] - np.linspace(0, 1, count))


class PoseFollower:
    """References that lie much as each frame's face does, from closed lips to open ones.

    To be called with a video's frames in order: a reference is held until another's cost is less by `HELD`.

    Args:
        landmarks: (C, 131, 2) of the candidates, normalised to their boxes.
        aperture: (C,) of their lips.
        count: references of a frame, N.
    """

    def __init__(self, landmarks: np.ndarray, aperture: np.ndarray, count: int) -> None:
        self.landmarks, self.aperture, self.count = landmarks, aperture, count
        self._chosen: np.ndarray | None = None

    def __call__(self, frames: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Which candidates serve each frame.

        Args:
            frames: landmarks (F, 131, 2) in their boxes; those with NaN take what the frame before takes.
            allowed: (F, C) bool, candidates that may serve a frame; all may where none is left.

        Returns:
            (F, N) int64 places among the candidates, about by rising aperture.
        """
        distances = pose_distances(self.landmarks, frames)
        if allowed is not None:
            distances = np.where(allowed | ~allowed.any(1, keepdims=True), distances, np.inf)
        seen = np.isfinite(distances).any(1)
        costs = iter(reference_costs(distances[seen], self.aperture, self.count))
        chosen = [self._next(next(costs)) if face else self._last() for face in seen]
        return np.array(chosen, np.int64).reshape(-1, self.count)

    def _next(self, costs: np.ndarray) -> np.ndarray:
        best = costs.argmin(0)
        chosen = best if self._chosen is None else self._chosen
        held = costs[chosen, np.arange(self.count)] <= costs.min(0) + HELD
        self._chosen = np.where(held, chosen, best)
        return self._chosen

    def _last(self) -> np.ndarray:
        if self._chosen is None:
            return choose_references(self.aperture, np.ones(len(self.aperture), bool), self.count)
        return self._chosen


def candidates(valid: np.ndarray) -> np.ndarray:
    """Up to `CANDIDATES` of the valid frames, spread evenly: (C,) numbers."""
    frames = np.flatnonzero(valid)
    return frames[np.linspace(0, len(frames) - 1, min(CANDIDATES, len(frames))).round().astype(int)]
