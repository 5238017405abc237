"""Which frames of a video serve as references."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.alignment import pose_distances
from stsa_lightning.face.heatmaps import inner_lip_aperture

LIPS = 2.0  # how much lips that are opened otherwise than wanted count against a pose: see `reference_costs`
_WIDEST = 0.95  # quantile of a person's inner lip aperture, their unit of it
CHANGE = 2.0  # what a change of a reference costs, for each shows a little
AHEAD = 12  # frames that a choice looks ahead
LASTS = 4.0  # frames for which the last one looked at is taken to last: without any ahead, a cost of 0.5 is held
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


def reference_costs(distances: np.ndarray, aperture: np.ndarray, wanted: np.ndarray, count: int) -> np.ndarray:
    """What speaks against each candidate as each of a frame's references: another pose, lips opened otherwise.

    References shall show the frame's pose, the first of them closed lips, the last ones as far open as the frame's
    shall be, and others what lies between. Where they all have the frame's pose but any mouth, lips tremble with every
    change of them; and where no reference has closed lips, a line of teeth stays in what is made of them.

    Args:
        distances: (..., C) of the candidates to frames, see `face.alignment.pose_distances`; NaN
            and infinity leave one out, but not all.
        aperture: (C,) inner aperture of their lips.
        wanted: (...) inner aperture that the frames' lips shall have, same unit.
        count: references, N; one alone is as far open as wanted.

    Returns:
        (..., C, N): the distance over the candidates' median, plus `LIPS` times the difference between the
        candidate's aperture and the reference's, as a share of how wide the candidates' lips open.
    """
    finite = np.where(np.isfinite(distances), distances, np.nan)
    poses = np.nan_to_num(finite, nan=np.inf) / np.maximum(np.nanmedian(finite, axis=-1, keepdims=True), 1e-9)
    lips = np.linspace(wanted, np.zeros_like(wanted), count, axis=-1)[..., None, ::-1]  # (..., 1, N)
    widest = max(float(np.quantile(aperture, _WIDEST)), 1e-9)
    return poses[..., None] + LIPS / widest * np.abs(aperture[:, None] - lips)


class ReferenceFollower:
    """References that lie much as each frame's face does, from closed lips to those as far open as wanted.

    To be called with a video's frames in order. What is chosen costs least over a frame and the `AHEAD` after it, where
    they are known, when each change costs `CHANGE`.

    Args:
        landmarks: (C, 131, 2) of the candidates, normalised to their boxes.
        count: references of a frame, N.
    """

    def __init__(self, landmarks: np.ndarray, count: int) -> None:
        self.landmarks, self.aperture, self.count = landmarks, inner_lip_aperture(landmarks), count
        self._chosen: np.ndarray | None = None

    def __call__(
        self, frames: np.ndarray, wanted: np.ndarray, allowed: np.ndarray | None = None, asked: int | None = None
    ) -> np.ndarray:
        """Which candidates serve each frame.

        Args:
            frames: landmarks (F, 131, 2) in their boxes; those with NaN take what the frame before takes.
            wanted: (F,) inner aperture that the frames' lips shall have, in sides of the box.
            allowed: (F, C) bool, candidates that may serve a frame; all may where none is left.
            asked: how many of the frames are to be served, the first; the others are looked at alone, and come again.
                None: all.

        Returns:
            (`asked`, N) int64 places among the candidates, about by rising aperture.
        """
        distances = pose_distances(self.landmarks, frames)
        if allowed is not None:
            distances = np.where(allowed | ~allowed.any(1, keepdims=True), distances, np.inf)
        seen = np.isfinite(distances).any(1)
        to_come = iter(costs_to_come(reference_costs(distances[seen], self.aperture, wanted[seen], self.count)))
        chosen = [self._next(next(to_come)) if face else self._last() for face in seen[:asked]]
        return np.array(chosen, np.int64).reshape(-1, self.count)

    def _next(self, costs: np.ndarray) -> np.ndarray:
        best = costs.argmin(0)
        chosen = best if self._chosen is None else self._chosen
        held = costs[chosen, np.arange(self.count)] <= costs.min(0) + CHANGE
        self._chosen = np.where(held, chosen, best)
        return self._chosen

    def _last(self) -> np.ndarray:
        if self._chosen is None:
            return choose_references(self.aperture, np.ones(len(self.aperture), bool), self.count)
        return self._chosen


def costs_to_come(costs: np.ndarray) -> np.ndarray:
    """What each candidate costs from each frame on, over `AHEAD` frames, if the best is made of every change after it.

    Args:
        costs: (F, C, N), see `reference_costs`.

    Returns:
        The same shape; the last frame that is looked at counts `LASTS` times, wherever frames end.
    """
    count = len(costs)
    places = np.arange(count)
    ends = np.minimum(places + AHEAD, count - 1)
    total = np.zeros_like(costs)
    for ahead in range(min(AHEAD, count - 1), -1, -1):
        then = places + ahead
        total = np.minimum(total, total.min(1, keepdims=True) + CHANGE)
        total[then < ends] += costs[then[then < ends]]
        total[then == ends] += LASTS * costs[then[then == ends]]
    return total


def candidates(valid: np.ndarray) -> np.ndarray:
    """Up to `CANDIDATES` of the valid frames, spread evenly: (C,) numbers."""
    frames = np.flatnonzero(valid)
    return frames[np.linspace(0, len(frames) - 1, min(CANDIDATES, len(frames))).round().astype(int)]
