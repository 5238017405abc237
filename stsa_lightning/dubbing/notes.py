"""What a user should know of a dub, in sentences."""

from __future__ import annotations

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.face_track import FAILED
from stsa_lightning.dubbing.renderer import Renderer
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.dubbing.speech_features import Speech
from stsa_lightning.media.video_source import KnownFrames


def too_large(renderer: Renderer) -> tuple[str, ...]:
    """Where faces are larger than they are rendered."""
    faces, config = renderer.faces, renderer.config
    if not config.native:
        return ()
    rendered = faces.boxes[renderer.schedule.source[renderer.weight > 0]]
    side = int(np.ptp(rendered.reshape(-1, 2, 2), axis=1).max(initial=0))
    if side <= config.largest_side:
        return ()
    return (
        f"faces of up to {side} pixels are rendered at {config.largest_side} (--resolution {side}: at their own size, "
        "which takes longer)",
    )


def failed_note(count: int) -> str:
    """What to say of generated faces that failed the check of the result."""
    return (
        f"{count} generated faces failed the check of the result, and their frames passed through: are the networks "
        "made for such a face?"
    )


def dub_notes(
    source: KnownFrames, schedule: Schedule, speech: Speech, why: np.ndarray, seconds: float
) -> tuple[str, ...]:
    found = [*source.warnings(int(schedule.source.max()) + 1), *speech.notes]
    if (why != 0).all():
        found.append("no frame was re-rendered")
    if (why == FAILED).any():
        found.append(failed_note(int((why == FAILED).sum())))
    if seconds < speech.seconds - 1 / SAMPLE_RATE_HZ:
        found.append(f"{speech.seconds - seconds:.2f} s of the sound were cut off (--fit trim)")
    return tuple(found)
