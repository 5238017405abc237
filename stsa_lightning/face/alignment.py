"""Where a reference face is to be read so that it lies as another frame's face does, and how nearly it then does."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.topology import MASKED_POSITIONS


def reference_transforms(references: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Similarities that carry the faces of frames to those of references, by what speech does not decide.

    Brows, eyes, nose and the upper oval of either are fitted with the least squared error; lips and chin have no say.

    Args:
        references: landmarks (N, 131, 2), normalised to the face box.
        frames: landmarks (F, 131, 2), likewise.

    Returns:
        (F, N, 2, 3) float32 in coordinates from -1 to 1, x then y: where in each reference a place of each frame is
        read, as `torch.nn.functional.affine_grid` takes it. The identity where either has NaN.
    """
    (there, to_mean), (here, at_mean) = _centred(references), _centred(frames)
    with np.errstate(invalid="ignore"):
        factor = here.conj() @ there.T / np.square(np.abs(here)).sum(1, keepdims=True)  # (F, N)
    turn = np.stack([np.stack([factor.real, -factor.imag], -1), np.stack([factor.imag, factor.real], -1)], -2)
    shift = to_mean - (turn @ at_mean[:, None, :, None])[..., 0]
    theta = np.concatenate([turn, shift[..., None]], axis=-1)
    return np.where(np.isfinite(theta).all((-2, -1), keepdims=True), theta, np.eye(2, 3)).astype(np.float32)


def chosen_transforms(references: np.ndarray, frames: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """`reference_transforms` of the references (F, N) that serve each frame: (F, N, 2, 3)."""
    return np.take_along_axis(reference_transforms(references, frames), chosen[..., None, None], axis=1)


def pose_distances(references: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """How far reference faces, moved as well as a similarity can, are from lying as frames' faces do: turned heads.

    Args:
        references, frames: as for `reference_transforms`.

    Returns:
        (F, N) float64, root mean square over brows, eyes, nose and upper oval, in sides of the box; NaN where either
        has NaN.
    """
    (there, _), (here, _) = _centred(references), _centred(frames)
    sizes = np.square(np.abs(there)).sum(1), np.square(np.abs(here)).sum(1)[:, None]
    with np.errstate(invalid="ignore"):
        left = sizes[1] - np.square(np.abs(here.conj() @ there.T)) / sizes[0]
        return np.sqrt(np.maximum(left, 0) / there.shape[1]) / 2


def _centred(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What speech does not move, in coordinates from -1 to 1: (n, points) complex around its mean, the mean (n, 2).

    As complex numbers a turn with a change of size is one factor.
    """
    points = 2 * landmarks[:, MASKED_POSITIONS].astype(np.float64) - 1
    mean = points.mean(1)
    return (points - mean[:, None]) @ (1, 1j), mean
