"""What metrics return, and the columns in which tables show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stsa_lightning.evaluation.clip_sample import Prediction

Better = Literal["higher", "lower", "zero", "one"]
Reduce = Literal["mean", "mean_abs"]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "zero": "→ 0", "one": "→ 1"}


class NotMeasuredError(Exception):
    """The metric is not defined for this prediction; the message is the reason that tables show."""


class MetricValue(NamedTuple):
    """The value of one clip, its `weight` in a mean (frames, or 1 for a clip), and the number of frames `missed`."""

    value: float
    weight: float
    missed: int = 0


@dataclass(frozen=True)
class Column:
    """A column of the tables: how its values are shown and what they depend on (`variant`).

    `reduce`: over clips, the weighted mean of the values or of their magnitudes.
    """

    name: str
    title: str
    unit: str
    better: Better
    variant: str
    digits: int = 3
    reduce: Reduce = "mean"

    @property
    def heading(self) -> str:
        """Title, unit and the better direction."""
        return f"{self.title}{f' ({self.unit})' if self.unit else ''} {ARROWS[self.better]}"

    def reduced(self, values: np.ndarray) -> np.ndarray:
        """The values that enter the mean over clips."""
        return np.abs(values) if self.reduce == "mean_abs" else values


# Column -> value of one prediction; raises NotMeasuredError where the metric is not defined.
ClipMetric = Callable[[Prediction], dict[str, MetricValue]]
