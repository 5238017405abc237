"""What metrics hand back, and the columns in which it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from stsa_lightning.evaluation.clip_result import View

Better = Literal["higher", "lower", "zero", "one"]
Reduce = Literal["mean", "mean_abs"]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "zero": "→ 0", "one": "→ 1"}


class NotMeasuredError(Exception):
    """This metric cannot say anything of this answer; the message is the reason that tables give."""


class Figure(NamedTuple):
    """One clip's value. ``weight``: what it counts in a mean (frames, or 1 for a clip); ``missed``: frames left out."""

    value: float
    weight: float
    missed: int = 0


@dataclass(frozen=True)
class Column:
    """How a figure is shown, and all that its meaning depends on.

    ``reduce``: over clips, the weighted mean of the values or of their magnitudes.
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
        """Title, unit and the direction that is better."""
        return f"{self.title}{f' ({self.unit})' if self.unit else ''} {ARROWS[self.better]}"

    def reduced(self, values: np.ndarray) -> np.ndarray:
        """Values as they enter the mean over clips."""
        return np.abs(values) if self.reduce == "mean_abs" else values


class Meter(Protocol):
    """A metric that is ready to measure."""

    def __call__(self, view: View) -> dict[str, Figure]:
        """Column -> figure of one answer. Raises NotMeasuredError where it has nothing to say."""
