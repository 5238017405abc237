"""Augmentation that leaves landmarks true."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GREY_AXIS = np.ones(3) / np.sqrt(3)


def augment_colour(images: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """One random change of colour for all pictures of an item: gamma, hue, gain of each channel.

    Faces and references change together, so that a network has to take its colours from the references instead of
    remembering the people that it was trained on.

    Args:
        images: (..., 3, S, S) in [0, 1].
        strength: 0 changes nothing; 1 draws gamma from [1/1.6, 1.6], hue from the whole circle, gains from [0.6, 1.4].
        rng: draws.

    Returns:
        The same shape, in [0, 1].
    """
    gamma = 1.6 ** rng.uniform(-strength, strength)
    gains = 1 + 0.4 * rng.uniform(-strength, strength, size=3)
    matrix = np.diag(gains) @ hue_rotation(np.pi * rng.uniform(-strength, strength))
    colours = torch.from_numpy(matrix.astype(np.float32))
    return torch.einsum("cd,...dhw->...chw", colours, images**gamma).clamp_(0, 1)


def hue_rotation(angle: float) -> np.ndarray:
    """(3, 3) rotation of RGB about the grey axis by an angle in radians (Rodrigues' formula); greys stay."""
    x, y, z = _GREY_AXIS
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
