"""Are pauses found, and nothing but pauses?

    python benchmarks/pauses.py SPEECH.wav SPEECH.wav ... [--music FILE] [--json FILE]

Each two recordings stand around a gap of two seconds, 4 s of either at one loudness. In the gap, or through all of it,
noise, breath (filtered noise that swells every 1.2 s), chords, and the given music are heard, so many dB below the
speech. Printed: the share of the gap (its middle 1.6 s) that `dubbing.pauses` takes for a pause, and the share of loud
speech (within 20 dB of the clip's loud parts) that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from common import parser, table, write_json
from scipy import signal

from stsa_lightning.constants import SAMPLE_RATE_HZ as RATE
from stsa_lightning.dubbing.pauses import pauses, step_levels_db
from stsa_lightning.media.audio import load_audio

SPEECH_S, GAP_S, RMS = 4, 2, 0.08
LEVELS_DB = (-15, -20, -30, -40)
Sound = Callable[[int], np.ndarray]


def at_level(wave: np.ndarray, db: float = 0.0) -> np.ndarray:
    return wave * (RMS * 10 ** (db / 20) / max(np.sqrt(np.square(wave).mean()), 1e-9))


def sounds(music: np.ndarray | None) -> dict[str, Sound]:
    """What is heard beside the speech, by its name: a function of the number of samples."""
    rng = np.random.default_rng(0)
    band = signal.butter(2, [400, 4000], "band", fs=RATE, output="sos")

    def breath(count: int) -> np.ndarray:
        swell = np.sin(2 * np.pi * np.arange(count) / RATE / 1.2).clip(0) ** 1.5
        return signal.sosfilt(band, rng.standard_normal(count)) * swell

    def chords(count: int) -> np.ndarray:
        seconds = np.arange(count) / RATE
        roots = np.array([220.0, 174.6, 261.6, 196.0])[(seconds // 0.5).astype(int) % 4]
        tones = (np.sin(2 * np.pi * roots * r * h * seconds) / h for r in (1, 1.26, 1.5) for h in (1, 2, 3))
        return sum(tones, np.zeros(count)) * np.exp(-3 * (seconds % 0.5))

    made: dict[str, Sound] = {"noise": rng.standard_normal, "breath": breath, "chords": chords}
    if music is not None:
        made["music"] = lambda count: np.resize(music, count)
    return made


def shares(speech: Sequence[np.ndarray], sound: Sound, db: float, everywhere: bool) -> tuple[float, float]:
    """Mean over pairs of recordings: of the gap that is found, of speech that is lost."""
    found = []
    for before, after in pairwise(speech):
        clean = np.concatenate([before, np.zeros(GAP_S * RATE), after])
        gap = slice(len(before), len(before) + GAP_S * RATE)
        wave = clean.copy()
        part = slice(None) if everywhere else gap
        wave[part] += at_level(sound(len(wave[part])), db)
        quiet = pauses(wave.astype(np.float32)) > 0.5
        level = step_levels_db(clean)
        loud = level > np.percentile(level, 90) - 20
        middle = slice((gap.start + RATE // 5) // 320, (gap.stop - RATE // 5) // 320)
        found.append((quiet[middle].mean(), quiet[loud].mean()))
    gap_found, speech_lost = np.mean(found, axis=0)
    return float(gap_found), float(speech_lost)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("speech", nargs="+", help="recordings of one voice each, 4 s or more")
    options.add_argument("--music", help="a recording without voices")
    arguments = options.parse_args()
    speech = [at_level(load_audio(path, RATE)[: SPEECH_S * RATE]) for path in arguments.speech]
    music = None if arguments.music is None else load_audio(arguments.music, RATE)
    rows, record = [], {}
    for name, sound in sounds(music).items():
        for everywhere in (False, True):
            found = [shares(speech, sound, db, everywhere) for db in LEVELS_DB]
            where = "throughout" if everywhere else "in the gap"
            rows.append([f"{name}, {where}", *(f"{gap:.0%} / {lost:.1%}" for gap, lost in found)])
            record[f"{name}, {where}"] = dict(zip(map(str, LEVELS_DB), found, strict=True))
    print(table(["gap found / speech lost", *(f"{db} dB" for db in LEVELS_DB)], rows))
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
