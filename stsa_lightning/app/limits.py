"""What the page and the service take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import probe
from stsa_lightning.utils.errors import UserError


@dataclass(frozen=True)
class Limits:
    """`seconds` of video and of speech each, `megabytes` of a file, and how many dubs may be `waiting`."""

    seconds: float = 60.0
    megabytes: int = 200
    waiting: int = 16

    def check(self, video: Path, speech: Path) -> None:
        """Raise UserError where one of them is too long; as their readers do where one cannot be read."""
        length_s = probe(video).duration_s
        self._check("video", length_s, length_s)
        # Some containers do not say how long their sound is.
        self._check("speech", len(load_audio(speech, stop_s=self.seconds + 1)) / SAMPLE_RATE_HZ, None)

    def _check(self, what: str, found_s: float, stated_s: float | None) -> None:
        if found_s > self.seconds:
            length = "longer" if stated_s is None else f"{stated_s:.0f} s long"
            raise UserError(
                f"The {what} is {length}; this page takes up to {self.seconds:g} s. Cut it, start the page with a "
                "larger --max-seconds, or use the command `stsa dub`, which has no limit."
            )
