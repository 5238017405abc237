"""Experimental: audio-visual offset without a network, from lip aperture and band energies. Prefer SyncNet.

This is a home-made measure, not a published one; nothing but this project has validated it. The lip aperture is
compared with a linear prediction of it from the audio: the logarithmic energies of five bands, high-pass filtered,
weighted over five frames. Open vowels are strong where the
first formant is high; consonants and closed mouths are not: the weights know it, plain energy does not. They were found
by ridge regression on 31 clips of 26 people (`python benchmarks/sync.py fit`).

The sign of an offset, everywhere in this project: **positive, k: the sound is k frames early** (what is heard at frame
t belongs to the mouth of frame t + k); negative: it is late. `shift_sound` with the offset corrects it. Frames
are of 25/s: 640 samples.
"""

from __future__ import annotations

import numpy as np

from stsa_lightning.constants import FPS, SAMPLE_RATE_HZ

MAX_SHIFT = 15  # frames
HOP = 160  # samples
STEPS = 4  # spectra to a frame
SPAN = 512  # samples of one spectrum
EDGES_HZ = (200, 500, 900, 1500, 2500, 4000)
FLOOR = 1e-3  # of the clip's loud moments (95th percentile): quieter sound counts as silence
SLOWEST_HZ = 1.5  # slower changes (pauses, loudness, posture) say little about a delay of some frames
BLOCK_STEPS = 6000  # spectra worked on at once: one minute

# Of lip_aperture_sync. Measured (`benchmarks/sync.py trials`, 31 clips, weights fitted without the speaker): of 398
# delayed clips 83 % reach it, and their offsets are within two frames in 95.5 %, within three in all; of 434 pairs with
# the sound of another clip 4.4 % reach it. At 7: 56 %, 97.8 %, 0.5 %.
CLEAR_CONFIDENCE = 5.5
MIN_FRAMES = 25  # that lip_aperture_sync compares at any shift
# Bias of the best shift of lip_aperture_sync, frames: half-way between that of 22 clips in sync (mean -0.2) and that
# of SyncNet's own example (3.8 for an offset of 3).
APERTURE_BIAS = 0.3

WEIGHTS = np.array(  # of the sound 2 frames later, 1 later, now, 1 earlier, 2 earlier; columns: bands
    [
        [-0.074, 0.023, -0.054, 0.056, 0.071],
        [-0.076, 0.093, 0.023, 0.128, 0.174],
        [-0.109, 0.112, 0.047, 0.115, 0.218],
        [-0.049, 0.057, 0.032, 0.061, 0.081],
        [-0.034, 0.016, 0.009, 0.019, -0.037],
    ]
)


def lip_aperture_sync(lip_aperture: np.ndarray, wave: np.ndarray, max_shift: int = MAX_SHIFT) -> tuple[int, float]:
    """Offset of a clip from its lip aperture (experimental): for use without SyncNet's weights.

    The lip aperture is correlated with its prediction from the audio (`aperture_from_audio`) at every shift; slow
    changes are removed from both. The confidence is Fisher's z of the best correlation in units of its error for
    independent frames, atanh(r) sqrt(n): it needs speech, movement and seconds. From `CLEAR_CONFIDENCE` on, the offset
    may be believed to within two frames: an offset of three or more is worth putting right, a smaller one is not.

    Args:
        lip_aperture: (F,) distance of the inner lips at 25/s, in any unit that does not change with the face's
            distance; NaN where no face was found.
        wave: (samples,) float at 16 kHz; sample 0 sounds when the first frame is shown.
        max_shift: the largest offset looked for, frames.

    Returns:
        Frames by which the sound is early (negative: late), and the confidence. 0.0 where nothing can be said: a mouth
        that does not move, silence, too few frames, or a best shift at the very end of the range.
    """
    lip_aperture = np.asarray(lip_aperture, np.float64)
    if lip_aperture.ndim != 1:
        raise ValueError(f"lip_aperture must be (F,), got shape {lip_aperture.shape}")
    seen = np.isfinite(lip_aperture)
    if seen.sum() < MIN_FRAMES or len(lip_aperture) < max_shift + MIN_FRAMES:
        return 0, 0.0
    frames = np.arange(len(lip_aperture))
    mouth = quick_changes(np.interp(frames, frames[seen], lip_aperture[seen]))
    predicted = aperture_from_audio(wave, len(lip_aperture))
    clearness = np.array([_clearness(mouth, predicted, seen, shift) for shift in range(-max_shift, max_shift + 1)])
    best = int(clearness.argmax())
    if best in (0, 2 * max_shift) or clearness[best] <= 0:
        return 0, 0.0
    before, peak, after = clearness[best - 1 : best + 2]
    fraction = (before - after) / (2 * (before - 2 * peak + after))  # the vertex of the parabola through the three
    return round(best - max_shift + fraction - APERTURE_BIAS), float(peak)


def _clearness(mouth: np.ndarray, predicted: np.ndarray, seen: np.ndarray, shift: int) -> float:
    """atanh(r) sqrt(n) of the mouth of frame t and the sound of frame t - shift; 0 where it cannot be computed."""
    first, last = max(0, shift), min(len(mouth), len(mouth) + shift)
    kept = seen[first:last]
    a, b = mouth[first:last][kept], predicted[first - shift : last - shift][kept]
    if len(a) < MIN_FRAMES or min(a.std(), b.std()) < 1e-9:
        return 0.0
    return float(np.arctanh(np.clip(np.corrcoef(a, b)[0, 1], -0.999, 0.999)) * np.sqrt(len(a)))


def aperture_from_audio(wave: np.ndarray, frames: int) -> np.ndarray:
    """Linear prediction of the lip aperture from the audio, in no unit, high-pass filtered.

    Args:
        wave: (samples,) float at 16 kHz; sample 0 sounds when the first frame is shown. Silence follows its end.
        frames: how many, at 25/s.

    Returns:
        (frames,) float64; zeros for digital silence.
    """
    return neighbours(quick_changes(band_energies(wave, frames))) @ WEIGHTS.reshape(-1)


def band_energies(wave: np.ndarray, frames: int) -> np.ndarray:
    """(frames, 5) logarithmic energies of the bands, mean over each frame's 40 ms."""
    steps = frames * STEPS
    before = (SPAN - HOP) // 2  # each spectrum is centred on its 10 ms
    padded = np.zeros(before + (steps - 1) * HOP + SPAN, np.float32)
    kept = min(len(wave), len(padded) - before)
    padded[before : before + kept] = wave[:kept]
    spans = np.lib.stride_tricks.sliding_window_view(padded, SPAN)[::HOP][:steps]  # (steps, 512), a view
    edges = np.searchsorted(np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE_HZ), EDGES_HZ)
    window = np.hanning(SPAN)
    blocks = []
    for start in range(0, steps, BLOCK_STEPS):
        power = np.abs(np.fft.rfft(spans[start : start + BLOCK_STEPS] * window)) ** 2
        blocks.append(np.add.reduceat(power, edges, axis=1)[:, :-1])
    energies = np.concatenate(blocks)
    floor = FLOOR * np.percentile(energies.sum(axis=1), 95) / energies.shape[1]
    return np.log(energies + floor + 1e-9).reshape(frames, STEPS, -1).mean(axis=1)


def quick_changes(values: np.ndarray) -> np.ndarray:
    """Changes over time (first axis, 25/s) that are quicker than 1.5 Hz, undelayed."""
    from scipy.signal import butter, sosfiltfilt

    high_pass = butter(2, SLOWEST_HZ, "highpass", fs=FPS, output="sos")
    return sosfiltfilt(high_pass, values, axis=0, padlen=min(len(values) - 1, 15))


def neighbours(bands: np.ndarray) -> np.ndarray:
    """(frames, bands) -> (frames, 5 x bands): the sound of frames t + 2 to t - 2, zeros beyond the ends."""
    reach = len(WEIGHTS) // 2
    padded = np.pad(bands, ((reach, reach), (0, 0)))
    return np.concatenate([padded[2 * reach - i : 2 * reach - i + len(bands)] for i in range(len(WEIGHTS))], axis=1)
