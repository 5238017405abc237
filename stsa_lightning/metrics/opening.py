"""The mouth's opening as one would guess it from the sound alone: what sync without a network compares the mouth with.

A fixed linear filter: the logarithmic energies of five bands, slow changes taken out, weighted over five frames. Open
vowels are strong where the first formant is high; consonants and closed mouths are not: the weights know it, plain
energy does not. They were found by ridge regression on 31 clips of 26 people (`python benchmarks/sync.py fit`).
"""

from __future__ import annotations

import numpy as np

SAMPLE_RATE_HZ = 16_000
FPS = 25
HOP = 160  # samples
STEPS = 4  # spectra to a frame
SPAN = 512  # samples of one spectrum
EDGES_HZ = (200, 500, 900, 1500, 2500, 4000)
FLOOR = 1e-3  # of the clip's loud moments (95th percentile): quieter sound counts as silence
SLOWEST_HZ = 1.5  # slower changes (pauses, loudness, posture) say little about a delay of some frames
BLOCK_STEPS = 6000  # spectra worked on at once: one minute

WEIGHTS = np.array(  # of the sound 2 frames later, 1 later, now, 1 earlier, 2 earlier; columns: bands
    [
        [-0.074, 0.023, -0.054, 0.056, 0.071],
        [-0.076, 0.093, 0.023, 0.128, 0.174],
        [-0.109, 0.112, 0.047, 0.115, 0.218],
        [-0.049, 0.057, 0.032, 0.061, 0.081],
        [-0.034, 0.016, 0.009, 0.019, -0.037],
    ]
)


def heard_opening(wave: np.ndarray, frames: int) -> np.ndarray:
    """The opening that the sound suggests, in no unit, with slow changes taken out.

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
