"""Which frames of a video show the networks what its face looks like."""

from __future__ import annotations

import numpy as np


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
