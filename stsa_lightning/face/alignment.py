"""Where a reference face is to be read so that it lies as another frame's face does."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.topology import MASKED_POSITIONS


def reference_places(references: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Similarities that carry the faces of frames to those of references, by what speech does not decide.

    Brows, eyes, nose and the upper oval of either are fitted with the least squared error; lips and chin have no say.

    Args:
        references: landmarks (N, 131, 2), normalised to the face box.
        frames: landmarks (F, 131, 2), likewise.

    Returns:
        (F, N, 2, 3) float32 in coordinates from -1 to 1, x then y: where in each reference a place of each frame is
        read, as `torch.nn.functional.affine_grid` takes it. The identity where either has NaN.
    """
    to, at = (2 * points[:, MASKED_POSITIONS].astype(np.float64) - 1 for points in (references, frames))
    to_mean, at_mean = to.mean(1), at.mean(1)  # (N, 2), (F, 2)
    # As complex numbers a turn with a change of size is one factor.
    there, here = ((points - mean[:, None]) @ (1, 1j) for points, mean in ((to, to_mean), (at, at_mean)))
    with np.errstate(invalid="ignore"):
        factor = here.conj() @ there.T / np.square(np.abs(here)).sum(1, keepdims=True)  # (F, N)
    turn = np.stack([np.stack([factor.real, -factor.imag], -1), np.stack([factor.imag, factor.real], -1)], -2)
    shift = to_mean - (turn @ at_mean[:, None, :, None])[..., 0]
    places = np.concatenate([turn, shift[..., None]], axis=-1)
    return np.where(np.isfinite(places).all((-2, -1), keepdims=True), places, np.eye(2, 3)).astype(np.float32)
