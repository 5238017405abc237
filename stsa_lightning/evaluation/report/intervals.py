"""How sure a mean over videos is: percentile bootstrap with a fixed seed (Efron 1979)."""

from __future__ import annotations

import numpy as np


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean of (n,) values under (n,) weights; NaN values and zero weights are left out; NaN when nothing is left."""
    kept = ~np.isnan(values) & (weights > 0)
    if not kept.any():
        return float("nan")
    return float((values[kept] * weights[kept]).sum() / weights[kept].sum())


def interval(
    values: np.ndarray, weights: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bounds of the weighted mean over videos, by drawing videos with replacement.

    A video's frames belong together: it is drawn whole, with its weight.

    Args:
        values: (n,) one per video; NaN is left out.
        weights: (n,) what each counts, usually its frames.
        resamples: draws.
        seed: of the draws.
        level: share of the draws between the bounds.

    Returns:
        Lower and upper bound; NaN with fewer than two videos, or with values that are not finite.
    """
    kept = ~np.isnan(values) & (weights > 0)
    values, weights = values[kept].astype(np.float64), weights[kept].astype(np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    means = (values * weights)[drawn].sum(1) / weights[drawn].sum(1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
