"""Least-squares GAN losses and feature matching over a multi-scale discriminator (Mao 2017; pix2pixHD, Wang 2018).

A discriminator returns a list over scales; each scale is the list of its layers' outputs, the last one the score
map (higher is more real).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Features = Sequence[Sequence[Tensor]]


def _scores(features: Features) -> list[Tensor]:
    if not features or any(not isinstance(scale, (list, tuple)) or not scale for scale in features):
        raise ValueError("expected a discriminator's output, a list over scales of non-empty lists of features")
    return [scale[-1] for scale in features]


def lsgan_generator(fake: Features) -> Tensor:
    """Mean over scales of (D(fake) - 1)^2; the gradient flows into the picture."""
    return torch.stack([((score - 1.0) ** 2).mean() for score in _scores(fake)]).mean()


def lsgan_discriminator(real: Features, fake: Features) -> Tensor:
    """Mean over scales of half (D(real) - 1)^2 + half D(fake)^2: 0.25 for a discriminator that says 1/2 to everything.

    `fake` must come from a detached picture; only the caller can save the generator's graph.
    """
    real_scores, fake_scores = _scores(real), _scores(fake)
    if len(real_scores) != len(fake_scores):
        raise ValueError(f"real has {len(real_scores)} scales, fake {len(fake_scores)}: use one discriminator for both")
    terms = [0.5 * ((a - 1.0) ** 2).mean() + 0.5 * (b**2).mean() for a, b in zip(real_scores, fake_scores, strict=True)]
    return torch.stack(terms).mean()


def feature_matching(real: Features, fake: Features) -> Tensor:
    """Mean absolute difference of the inner layers (the scores left out), averaged over layers, then over scales.

    The real side is a constant here: it is detached.

    Raises:
        ValueError: different scales or layers, or a discriminator without inner layers.
    """
    counts = [len(scale) for scale in real]
    if counts != [len(scale) for scale in fake] or not counts or min(counts) < 2:
        raise ValueError(
            f"real and fake need the same scales and layers, at least one below the score; "
            f"layers per scale: {counts} and {[len(scale) for scale in fake]}"
        )
    scales = [
        torch.stack([F.l1_loss(b, a.detach()) for a, b in zip(real_scale[:-1], fake_scale[:-1], strict=True)]).mean()
        for real_scale, fake_scale in zip(real, fake, strict=True)
    ]
    return torch.stack(scales).mean()
