"""What became of a video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from stsa_lightning.errors import UserError


class DubError(UserError):
    """A video, speech and networks that do not go together."""


@dataclass(frozen=True)
class DubReport:
    """What became of a video. `faces`: frames redrawn; `seconds`: length of the result; `elapsed_s`: time taken."""

    out: Path
    frames: int
    faces: int
    seconds: float
    fps: Fraction
    width: int
    height: int
    elapsed_s: float

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.frames} frames ({self.faces} redrawn), {self.seconds:.2f} s, {float(self.fps):g} "
            f"frames/s, {self.width} x {self.height}, in {self.elapsed_s:.1f} s"
        )
