"""Confidence intervals of means over videos, by the bootstrap (Efron 1979, 1987) of SciPy with a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean of (n,) values under (n,) weights; NaN values and zero weights are left out; NaN if nothing remains."""
    used = ~np.isnan(values) & (weights > 0)
    return float(np.average(values[used], weights=weights[used])) if used.any() else math.nan


def interval(
    values: np.ndarray, weights: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over videos of values (n,), NaN left out, under weights (n,).

    The frames of a video are not independent, so videos are drawn whole, with their weights. Both bounds are NaN with
    fewer than two videos, or with values that are not finite.
    """
    used = ~np.isnan(values) & (weights > 0)
    values, weights = values[used].astype(np.float64), weights[used].astype(np.float64)
    if not np.isfinite(values).all():
        return math.nan, math.nan
    return ratio_interval(values * weights, weights, ["percentile"], resamples=resamples, seed=seed, level=level)


def ratio_interval(
    sums: np.ndarray, weights: np.ndarray, methods: Sequence[str], *, resamples: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bounds of sum(sums) / sum(weights) when units, (n,) of each, are drawn with replacement; NaN below two units.

    Of the methods of `scipy.stats.bootstrap` the first that gives finite bounds is taken.
    """
    from scipy.stats import bootstrap

    if len(sums) < 2:
        return math.nan, math.nan
    means = sums / weights
    if np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):  # all units are equal
        return float(means[0]), float(means[0])
    for method in methods:
        with np.errstate(all="ignore"):
            bounds = bootstrap(
                (sums, weights),
                lambda s, w, axis: s.sum(axis) / w.sum(axis),
                paired=True,
                vectorized=True,
                n_resamples=resamples,
                batch=1000,
                confidence_level=level,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(bounds).all():
            break
    return float(bounds.low), float(bounds.high)
