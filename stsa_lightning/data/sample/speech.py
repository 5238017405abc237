"""Synthetic speech for the embedded sample: random sentences, lip articulation and a source-filter voice.

One set of trajectories drives both the mouth and the sound (formants, loudness), so that the mouth can be told from
about 200 ms of sound around a frame, as in real speech: loud sounds with a high first formant are open, /m b p/ and
pauses are closed, /o u/ round the lips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import signal

from stsa_lightning.constants import SAMPLE_RATE_HZ

CONTROL_RATE_HZ = 200
"""Rate of the trajectories: 5 ms, the usual frame of a formant synthesiser."""
SENTENCES = 500
"""Number of different sentences; an id below this always means the same phones."""

PAUSE = "_"
_BLOCK = SAMPLE_RATE_HZ // CONTROL_RATE_HZ
_LIP_KERNEL_S = 0.10  # coarticulation: lips and the first formants move over about 100 ms
_LEVEL_KERNEL_S = 0.03
_CLOSING_S = 0.045  # time in which lips shut before, and part after, a full closure
_FORMANT_BANDWIDTHS_HZ = (70.0, 95.0, 140.0, 220.0)

Noise = Literal["", "s", "S", "f", "burst"]
_NOISE_BANDS_HZ: dict[str, tuple[float, float]] = {
    "s": (4200, 7600),
    "S": (2000, 5200),
    "f": (900, 7600),
    "burst": (300, 2500),
}


@dataclass(frozen=True)
class Phone:
    """Lips (aperture, rounding in [0, 1], width in [-1, 1]) and sound (formants in Hz, levels in [0, 1]) of a phone."""

    lip_aperture: float
    width: float
    rounding: float
    formants_hz: tuple[float, float, float]
    voice: float
    noise: Noise = ""
    noise_level: float = 0.0
    duration_s: float = 0.1
    closed: bool = False


PHONES: dict[str, Phone] = {
    PAUSE: Phone(0.0, 0.0, 0.0, (450, 1500, 2500), 0.0, duration_s=0.3, closed=True),
    "a": Phone(1.0, 0.2, 0.0, (780, 1250, 2550), 1.0, duration_s=0.19),
    "e": Phone(0.58, 0.6, 0.0, (520, 1850, 2550), 0.85, duration_s=0.17),
    "i": Phone(0.30, 1.0, 0.0, (290, 2250, 3000), 0.6, duration_s=0.16),
    "o": Phone(0.62, -0.4, 0.7, (470, 850, 2450), 0.85, duration_s=0.18),
    "u": Phone(0.26, -0.9, 1.0, (310, 720, 2300), 0.6, duration_s=0.17),
    "m": Phone(0.0, 0.0, 0.0, (250, 1000, 2200), 0.30, duration_s=0.12, closed=True),
    "b": Phone(0.0, 0.0, 0.0, (220, 900, 2200), 0.10, "burst", 0.3, 0.11, closed=True),
    "p": Phone(0.0, 0.0, 0.0, (400, 900, 2200), 0.0, "burst", 0.5, 0.12, closed=True),
    "f": Phone(0.06, 0.1, 0.0, (350, 1200, 2400), 0.0, "f", 0.16, 0.11),
    "s": Phone(0.14, 0.5, 0.0, (350, 1700, 2600), 0.0, "s", 0.35, 0.12),
    "S": Phone(0.20, -0.4, 0.5, (350, 1800, 2500), 0.0, "S", 0.40, 0.12),
    "n": Phone(0.24, 0.2, 0.0, (280, 1500, 2450), 0.35, duration_s=0.08),
    "l": Phone(0.36, 0.1, 0.0, (380, 1100, 2600), 0.5, duration_s=0.08),
}
VOWELS = "aeiou"
CONSONANTS = "".join(name for name in PHONES if name not in VOWELS + PAUSE)


@dataclass(frozen=True)
class Voice:
    """A speaker's voice: mean pitch, scale of all formants (short vocal tract > 1), pace and breath noise."""

    pitch_hz: float = 140.0
    formant_scale: float = 1.0
    pace: float = 1.0
    breath: float = 0.02


@dataclass(frozen=True)
class Segment:
    phone: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Articulation:
    """Lip trajectories at `CONTROL_RATE_HZ`, value k at the time (k + 0.5) / rate; each float64 (steps,)."""

    lip_aperture: np.ndarray
    width: np.ndarray
    rounding: np.ndarray

    def at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lip aperture, width, rounding at the given times, by linear interpolation."""
        grid = (np.arange(len(self.lip_aperture)) + 0.5) / CONTROL_RATE_HZ
        return (
            np.interp(times_s, grid, self.lip_aperture),
            np.interp(times_s, grid, self.width),
            np.interp(times_s, grid, self.rounding),
        )


def sentence(number: int) -> list[str]:
    """Phones of sentence `number` in [0, `SENTENCES`): two to four words of one to three syllables."""
    if not 0 <= number < SENTENCES:
        raise ValueError(f"number must be in [0, {SENTENCES}), got {number}")
    rng = np.random.default_rng([20_250_323, number])
    phones: list[str] = []
    for _ in range(rng.integers(2, 5)):
        for _ in range(rng.integers(1, 4)):
            phones += [str(rng.choice(list(CONSONANTS))), str(rng.choice(list(VOWELS)))]
        if rng.random() < 0.35:
            phones.append(str(rng.choice(list("mnlsSf"))))
    return phones


def script(seconds: float, voice: Voice, rng: np.random.Generator) -> tuple[list[Segment], list[int]]:
    """Segments that fill `seconds` with sentences between pauses, and the numbers of these sentences."""
    segments: list[Segment] = []
    numbers: list[int] = []
    last_s = seconds - 0.2  # the clip ends in a pause
    clock_s = 0.0

    def add(phone: str, duration_s: float) -> None:
        nonlocal clock_s
        segments.append(Segment(phone, clock_s, clock_s + duration_s))
        clock_s += duration_s

    add(PAUSE, min(rng.uniform(0.12, 0.25), seconds))
    while clock_s < last_s:
        numbers.append(int(rng.integers(SENTENCES)))
        for phone in sentence(numbers[-1]):
            duration_s = PHONES[phone].duration_s * rng.uniform(0.85, 1.25) / voice.pace
            if clock_s + duration_s > last_s:
                return _end_with_pause(segments, seconds), numbers
            add(phone, duration_s)
        add(PAUSE, rng.uniform(0.22, 0.45))
    return _end_with_pause(segments, seconds), numbers


def _end_with_pause(segments: list[Segment], seconds: float) -> list[Segment]:
    if segments[-1].phone == PAUSE:
        return [*segments[:-1], Segment(PAUSE, segments[-1].start_s, seconds)]
    return [*segments, Segment(PAUSE, segments[-1].end_s, seconds)]


def articulate(segments: list[Segment]) -> Articulation:
    """Lip trajectories: phone targets blurred by coarticulation, then full closures imposed where lips must meet."""
    lip_aperture = _smooth(_track(segments, "lip_aperture"), _LIP_KERNEL_S) * (1 - _closures(segments))
    return Articulation(
        lip_aperture,
        _smooth(_track(segments, "width"), 1.3 * _LIP_KERNEL_S),
        _smooth(_track(segments, "rounding"), 1.3 * _LIP_KERNEL_S),
    )


def phones_at(segments: list[Segment], times_s: np.ndarray) -> list[str]:
    """The phone at each time; times past the end give the last one."""
    ends = np.array([segment.end_s for segment in segments])
    return [segments[min(k, len(segments) - 1)].phone for k in np.searchsorted(ends, times_s, side="right")]


def synthesise(segments: list[Segment], lips: Articulation, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Sound of the segments: float32 (samples,) in [-1, 1] at 16 kHz, as long as the segments."""
    samples = round(segments[-1].end_s * SAMPLE_RATE_HZ)
    level = _smooth(_track(segments, "voice"), _LEVEL_KERNEL_S) * (0.3 + 0.7 * np.sqrt(lips.lip_aperture))
    pitch_hz = _pitch(segments, voice, rng)
    source = _glottal_source(pitch_hz, rng) + voice.breath * rng.standard_normal(len(pitch_hz) * _BLOCK)
    formants = np.stack([_smooth(_track(segments, "formants_hz", k), _LIP_KERNEL_S) for k in range(3)])
    formants = np.vstack([formants, np.full(formants.shape[1], 3600.0)]) * voice.formant_scale
    wave = 0.9 * _resonate(source * _to_samples(level), formants)
    wave += _fricatives(segments, voice, rng)
    wave = 0.8 * wave[:samples] / max(np.abs(wave).max(), 1e-3)
    wave += 2e-4 * rng.standard_normal(samples)  # a quiet room, not digital zero
    return wave.astype(np.float32)


def _times(segments: list[Segment]) -> np.ndarray:
    return (np.arange(int(np.ceil(segments[-1].end_s * CONTROL_RATE_HZ))) + 0.5) / CONTROL_RATE_HZ


def _track(segments: list[Segment], field: str, part: int | None = None) -> np.ndarray:
    """Piecewise constant targets of one field of the phones."""
    values = {name: getattr(phone, field) for name, phone in PHONES.items()}
    return np.array([values[p] if part is None else values[p][part] for p in phones_at(segments, _times(segments))])


def _smooth(track: np.ndarray, seconds: float) -> np.ndarray:
    size = max(3, 2 * round(seconds * CONTROL_RATE_HZ / 2) + 1)
    kernel = np.hanning(size + 2)[1:-1]
    return np.convolve(np.pad(track, size // 2, mode="edge"), kernel / kernel.sum(), mode="valid")


def _closures(segments: list[Segment]) -> np.ndarray:
    """1 where the lips are shut, falling smoothly to 0 around."""
    times = _times(segments)
    shut = np.zeros_like(times)
    for segment in segments:
        if PHONES[segment.phone].closed:
            inside = np.minimum(times - segment.start_s, segment.end_s - times)
            ramp = np.clip(1 + (inside - 0.01) / _CLOSING_S, 0, 1)
            shut = np.maximum(shut, ramp * ramp * (3 - 2 * ramp))
    return shut


def _to_samples(track: np.ndarray) -> np.ndarray:
    at = (np.arange(len(track) * _BLOCK) + 0.5) / _BLOCK - 0.5
    return np.interp(at, np.arange(len(track)), track)


def _pitch(segments: list[Segment], voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Pitch in Hz per control step: falls along each phrase, with slow accents and a little jitter."""
    times = _times(segments)
    since = np.zeros_like(times)
    for segment in segments:
        if segment.phone == PAUSE:
            since[times >= segment.start_s] = segment.end_s
    fall = 1.12 - 0.1 * np.clip(times - since, 0, 2.5)
    accents = 1 + 0.07 * np.sin(2 * np.pi * (rng.uniform(1.3, 2.2) * times + rng.random()))
    return voice.pitch_hz * fall * accents * (1 + 0.006 * rng.standard_normal(len(times)))


def _glottal_source(pitch_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Derivative of a smooth glottal pulse (open for 60 % of the period, closing fast), about unit amplitude."""
    phase = np.cumsum(_to_samples(pitch_hz)) / SAMPLE_RATE_HZ + rng.random()
    turn = phase % 1
    rise, fall = turn / 0.42, (turn - 0.42) / 0.18
    flow = np.where(turn < 0.42, 0.5 - 0.5 * np.cos(np.pi * rise), np.where(fall < 1, np.cos(np.pi / 2 * fall), 0.0))
    return 6 * np.diff(flow, prepend=flow[0])


def _resonate(source: np.ndarray, formants_hz: np.ndarray) -> np.ndarray:
    """Cascade of two-pole resonators of unit gain at 0 Hz, their coefficients renewed every control step."""
    radius = np.exp(-np.pi * np.array(_FORMANT_BANDWIDTHS_HZ) / SAMPLE_RATE_HZ)[:, None]
    first = -2 * radius * np.cos(2 * np.pi * np.minimum(formants_hz, 7500) / SAMPLE_RATE_HZ)  # (4, steps)
    second = np.broadcast_to(radius**2, first.shape)
    zero = np.zeros_like(first)
    sections = np.stack([1 + first + second, zero, zero, zero + 1, first, second], -1).transpose(1, 0, 2)
    state = np.zeros((len(formants_hz), 2))
    blocks = []
    for step, block in zip(np.ascontiguousarray(sections), source.reshape(-1, _BLOCK), strict=True):
        out, state = signal.sosfilt(step, block, zi=state)
        blocks.append(out)
    return np.concatenate(blocks)


def _fricatives(segments: list[Segment], voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Noise of /s S f/ over their length, of /b p/ in a burst of 20 ms at the release."""
    times = _times(segments)
    total = np.zeros(len(times) * _BLOCK)
    for kind, (low_hz, high_hz) in _NOISE_BANDS_HZ.items():
        level = np.zeros_like(times)
        for segment in segments:
            phone = PHONES[segment.phone]
            if phone.noise == kind:
                start_s = segment.end_s - 0.02 if kind == "burst" else segment.start_s
                level[(times >= start_s) & (times < segment.end_s)] = phone.noise_level
        band = np.minimum(np.array([low_hz, high_hz]) * voice.formant_scale, 7800)
        noise = signal.sosfilt(
            signal.butter(2, band, "bandpass", fs=SAMPLE_RATE_HZ, output="sos"), rng.standard_normal(len(total))
        )
        total += 0.5 * noise * _to_samples(_smooth(level, 0.5 * _LEVEL_KERNEL_S))
    return total
