"""Offset of sound and lips without SyncNet: the lip aperture against its linear prediction from speech features.

This is a home-made measure, not a published one; nothing but this project has validated it. The prediction is a ridge
regression of the inner lip aperture on the features `moonshine` of each frame's 0.2 s, high-pass filtered in time: a
speech recogniser's states know vowels from consonants, and a shut mouth from a pause. It was fitted on the people whose
clips also made the bundled networks (`python benchmarks/sync.py fit`).

The sign of an offset, everywhere in this project: **positive, k: the sound is k frames early** (what is heard at frame
t belongs to the mouth of frame t + k); negative: it is late. `shift_sound` with the offset corrects it. Frames
are of 25/s: 640 samples.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from stsa_lightning.constants import FPS
from stsa_lightning.features.base import WINDOW_STEPS
from stsa_lightning.features.moonshine import Moonshine

MAX_SHIFT = 15  # frames
SLOWEST_HZ = 1.5  # slower changes (pauses, loudness, posture) say little about a delay of some frames
BEFORE = 4  # steps of a frame's window before the frame's own
WEIGHTS = Path(__file__).parents[1] / "assets" / "lip_aperture.safetensors"

# Of lip_aperture_sync. Measured (`benchmarks/sync.py trials`, 49 clips of 43 people whom the fit has not seen): of 618
# delayed clips 93 % reach it, and all their offsets are within one frame; so are those of both halves of a clip; of
# 2,334 pairs with the sound of another clip 1.5 % reach it. At 5: 96 %, 5.2 %.
CLEAR_CONFIDENCE = 6.0
MIN_FRAMES = 25  # that lip_aperture_sync compares at any shift


def lip_aperture_sync(lip_aperture: np.ndarray, wave: np.ndarray, max_shift: int = MAX_SHIFT) -> tuple[float, float]:
    """Offset of a clip from its lip aperture (experimental): for use without SyncNet's weights.

    The lip aperture is correlated with its prediction from the audio (`aperture_from_audio`) at every shift; slow
    changes are removed from both. The confidence is Fisher's z of the best correlation in units of its error for
    independent frames, atanh(r) sqrt(n): it needs speech, movement and seconds. From `CLEAR_CONFIDENCE` on, the offset
    may be believed to within a frame. Its zero is SyncNet's.

    Args:
        lip_aperture: (F,) distance of the inner lips at 25/s, in any unit that does not change with the face's
            distance; NaN where no face was found.
        wave: (samples,) float at 16 kHz; sample 0 sounds when the first frame is shown.
        max_shift: the largest offset looked for, frames.

    Returns:
        Frames by which the sound is early (negative: late), with a fraction, and the confidence. 0.0 where nothing can
        be said: a mouth that does not move, silence, too few frames, or a best shift at the very end of the range.
    """
    lip_aperture = np.asarray(lip_aperture, np.float64)
    if lip_aperture.ndim != 1:
        raise ValueError(f"lip_aperture must be (F,), got shape {lip_aperture.shape}")
    seen = np.isfinite(lip_aperture)
    if seen.sum() < MIN_FRAMES or len(lip_aperture) < max_shift + MIN_FRAMES or not np.any(wave):
        return 0.0, 0.0
    predicted = aperture_from_audio(wave, len(lip_aperture))
    return best_shift(clearness(mouth_changes(lip_aperture), predicted, seen, max_shift))


def mouth_changes(lip_aperture: np.ndarray) -> np.ndarray:
    """`quick_changes` of the lip aperture (F,), NaN where no face was found: gaps are bridged in straight lines."""
    frames, seen = np.arange(len(lip_aperture)), np.isfinite(lip_aperture)
    return quick_changes(np.interp(frames, frames[seen], lip_aperture[seen]))


def clearness(mouth: np.ndarray, predicted: np.ndarray, seen: np.ndarray, max_shift: int = MAX_SHIFT) -> np.ndarray:
    """atanh(r) sqrt(n) of the mouth of frame t and the sound of frame t - shift, at every shift: (2 max_shift + 1,).

    Args:
        mouth, predicted: (F,) quick changes of the lip aperture, and what the sound says of it.
        seen: (F,) bool, frames with a face; no others are compared.
        max_shift: the largest shift, frames. Where a shift cannot be judged it is 0.
    """
    return np.array([_clearness(mouth, predicted, seen, shift) for shift in range(-max_shift, max_shift + 1)])


def best_shift(clearness: np.ndarray) -> tuple[float, float]:
    """The shift of the highest clearness, to a fraction of a frame, and that clearness; 0, 0 at an end of the range."""
    best = int(clearness.argmax())
    if best in (0, len(clearness) - 1) or clearness[best] <= 0:
        return 0.0, 0.0
    before, peak, after = clearness[best - 1 : best + 2]
    fraction = (before - after) / (2 * (before - 2 * peak + after))  # the vertex of the parabola through the three
    return float(best - len(clearness) // 2 + fraction), float(peak)


def _clearness(mouth: np.ndarray, predicted: np.ndarray, seen: np.ndarray, shift: int) -> float:
    first, last = max(0, shift), min(len(mouth), len(mouth) + shift)
    kept = seen[first:last]
    a, b = mouth[first:last][kept], predicted[first - shift : last - shift][kept]
    if len(a) < MIN_FRAMES or min(a.std(), b.std()) < 1e-9:
        return 0.0
    return float(np.arctanh(np.clip(np.corrcoef(a, b)[0, 1], -0.999, 0.999)) * np.sqrt(len(a)))


def aperture_from_audio(wave: np.ndarray, frames: int) -> np.ndarray:
    """Linear prediction of the inner lip aperture from speech, in no unit.

    Args:
        wave: (samples,) float at 16 kHz; sample 0 sounds when the first frame is shown. Silence follows its end.
        frames: how many, at 25/s.

    Returns:
        (frames,) float64, high-pass filtered (`quick_changes`).
    """
    return quick_changes(predicted_aperture(Moonshine()(np.asarray(wave, np.float32)), frames, aperture_weights()))


def predicted_aperture(features: np.ndarray, frames: int, weights: np.ndarray) -> np.ndarray:
    """The regression itself: features (steps, D) at 50 Hz, weights (D, 10) of a frame's window -> (frames,) float64.

    Frame t sees the steps 2 t - 4 to 2 t + 5, as `feature_windows` has it; the first and the last step stand for what
    lies beyond them.
    """
    parts = features.astype(np.float32) @ weights  # (steps, 10)
    steps = 2 * np.arange(frames)[:, None] - BEFORE + np.arange(WINDOW_STEPS)
    return parts[steps.clip(0, len(parts) - 1), np.arange(WINDOW_STEPS)].sum(1, dtype=np.float64)


@lru_cache(maxsize=1)
def aperture_weights() -> np.ndarray:
    """The shipped regression, (D, 10) float32: of the features of the steps of a frame's window."""
    return load_file(WEIGHTS)["weights"].astype(np.float32)


def quick_changes(values: np.ndarray, rate_hz: float = FPS) -> np.ndarray:
    """Changes over time (first axis) that are quicker than 1.5 Hz, undelayed."""
    from scipy.signal import butter, sosfiltfilt

    high_pass = butter(2, SLOWEST_HZ, "highpass", fs=rate_hz, output="sos")
    return sosfiltfilt(high_pass, values, axis=0, padlen=min(len(values) - 1, 15))
