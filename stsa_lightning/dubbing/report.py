"""What became of a video."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from stsa_lightning.utils.errors import UserError


class DubError(UserError):
    """A video, speech and networks that do not go together."""


@dataclass(frozen=True)
class SegmentReport:
    """What became of a segment.

    Attributes:
        where: in its list.
        start_s, end_s: when its speech sounds in the result, or its mouth moves, whichever is longer; seconds.
        speech: its file.
        person: id of who says it; empty for a voice from off screen, and where nobody was seen.
        reason: why this person, in words.
        frames, rendered: frames in its time, and those of them in which the mouth was re-rendered.
    """

    where: str
    start_s: float
    end_s: float
    speech: Path
    person: str
    reason: str
    frames: int
    rendered: int

    def json(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "where": self.where,
            "start": round(self.start_s, 3),
            "end": round(self.end_s, 3),
            "speech": str(self.speech),
            "face": self.person or None,
            "why": self.reason,
            "frames": self.frames,
            "rendered": self.rendered,
        }


@dataclass(frozen=True)
class DubReport:
    """What became of a video.

    Attributes:
        out: the dubbed video.
        frames, faces: frames written, and those of them that were re-rendered.
        seconds: length of the result.
        fps, width, height: of the result.
        elapsed_s: time taken.
        passed: why the other frames passed through, and how many for each reason.
        shots: shots of the part of the source that was shown.
        face: whose face was re-rendered and why, in words.
        stages: seconds each stage was at work; they overlap.
        warnings: what the user should know.
        segments: of a dub in segments, each.
    """

    out: Path
    frames: int
    faces: int
    seconds: float
    fps: Fraction
    width: int
    height: int
    elapsed_s: float
    passed: dict[str, int] = field(default_factory=dict)
    shots: int = 1
    face: str = "only face"
    stages: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    segments: tuple[SegmentReport, ...] = ()

    def __str__(self) -> str:
        passed = ", ".join(f"{count} passed through: {reason}" for reason, count in self.passed.items())
        line = (
            f"{self.out}: {self.frames} frames ({self.faces} re-rendered{', ' + passed if passed else ''}), "
            f"{self.seconds:.2f} s, {float(self.fps):g} frames/s, {self.width} x {self.height}, "
            f"in {self.elapsed_s:.1f} s"
        )
        return "\n".join([line, *(f"warning: {warning}" for warning in self.warnings)])

    def profile(self) -> str:
        """A table of the stages: seconds at work, share of the whole time; the slowest of the second pass is marked."""
        overlapping = [name for name in self.stages if name not in ("speech", "find: decode", "find: landmarks")]
        slowest = max(overlapping, key=self.stages.__getitem__, default=None)
        rows = [
            f"{name:16} {seconds:8.2f} s {100 * seconds / max(self.elapsed_s, 1e-9):5.1f} %"
            f"{'  <- sets the pace' if name == slowest else ''}"
            for name, seconds in self.stages.items()
        ]
        return "\n".join(rows)

    def json(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "out": str(self.out),
            "frames": self.frames,
            "rendered": self.faces,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "fps": round(float(self.fps), 4),
            "width": self.width,
            "height": self.height,
            "elapsed_s": round(self.elapsed_s, 3),
            "shots": self.shots,
            "face": self.face,
            "stages": {name: round(seconds, 3) for name, seconds in self.stages.items()},
            "warnings": list(self.warnings),
            **({"segments": [segment.json() for segment in self.segments]} if self.segments else {}),
        }
