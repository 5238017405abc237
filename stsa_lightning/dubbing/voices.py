"""The speech of segments: what the lips of each person follow, and what is heard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.segments import Segment
from stsa_lightning.dubbing.speech_features import Silence, decoded_sound, described, silent_row, written_channels
from stsa_lightning.features.base import HOP, AudioFeatures
from stsa_lightning.media.audio import AudioTrack, probe_audio
from stsa_lightning.utils.disk_array import DiskArray

Heard = tuple[DiskArray, int, str]  # a sound, its rate and its layout
Notes = tuple[str, ...]  # what the user should know
_BLOCK = 60  # seconds of sound in memory at a time


class Voices:
    """Audio features of all segments' speech, described once and kept on disk; a context manager.

    Args:
        segments: see `Segment`.
        extractor: of the features that the networks were trained on.
        silence: "close" replaces the pauses of each speech by silence.

    Attributes:
        seconds: length of each speech from its `offset_s` on.
        tracks: of the sound of each.

    Raises:
        FileNotFoundError, AudioError: as `load_audio`.
        DubError: an offset beyond the end of its speech.
    """

    def __init__(self, segments: Sequence[Segment], extractor: AudioFeatures, silence: Silence = "keep") -> None:
        self.segments = segments
        self.seconds: list[float] = []
        self.tracks: list[AudioTrack] = []
        self.silent = silent_row(extractor)
        self._features = DiskArray(extractor.dim)
        self._rows, self._steps = [0], list[int]()  # where the features of each lie, and the steps they begin at
        try:
            for segment in segments:
                self.tracks.append(probe_audio(segment.speech))
                with closing(decoded_sound(segment.speech, SAMPLE_RATE_HZ)) as whole:
                    self._describe(segment, whole, extractor, silence)
        except BaseException:
            self._features.close()
            raise

    def _describe(self, segment: Segment, whole: DiskArray, extractor: AudioFeatures, silence: Silence) -> None:
        first = round(segment.offset_s * SAMPLE_RATE_HZ)
        if first >= len(whole):
            segment.refuse("offset", f"less than the speech's {len(whole) / SAMPLE_RATE_HZ:.2f} s", segment.offset_s)
        self.seconds.append((len(whole) - first) / SAMPLE_RATE_HZ)
        # The speech begins between two steps of the features' clock: silence before it fills the first one.
        step, rest = divmod(round(segment.start_s * SAMPLE_RATE_HZ), HOP)
        with closing(DiskArray()) as wave:
            wave.append(np.zeros(rest, np.float32))
            for start in range(first, len(whole), _BLOCK * SAMPLE_RATE_HZ):
                wave.append(whole[start : start + _BLOCK * SAMPLE_RATE_HZ])
            for rows in described(wave, extractor, self.silent if silence == "close" else None):
                self._features.append(rows)
        self._steps.append(step)
        self._rows.append(len(self._features))

    def features(self, number: int) -> tuple[int, int, int]:
        """Of a segment's features the first step, the step after the last, and where on disk they begin."""
        first, row = self._steps[number], self._rows[number]
        return first, first + self._rows[number + 1] - row, row

    def read(self, row: int, count: int) -> np.ndarray:
        """(count, D) features from a place on disk on."""
        return self._features[row : row + count]

    def said_s(self, number: int) -> float:
        """When the speech of a segment ends, seconds."""
        return self.segments[number].start_s + self.seconds[number]

    def end_s(self, number: int) -> float:
        """When a segment ends: with its speech, or where it says, whichever is later."""
        return max(self.said_s(number), self.segments[number].end_s or 0.0)

    def close(self) -> None:
        self._features.close()

    def __enter__(self) -> Voices:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PersonSpeech:
    """What one person says in all of their segments, silent in between; `SpeechFeatures` for a `Renderer`.

    Args:
        voices: of all segments.
        numbers: of this person's segments, in the order of their starts. Where two overlap, the lips follow the later.
    """

    def __init__(self, voices: Voices, numbers: Sequence[int]) -> None:
        self._voices, self._numbers = voices, numbers

    def covers(self, time_s: float) -> bool:
        return True

    def rows(self, first: int, last: int) -> np.ndarray:
        found = np.tile(self._voices.silent, (last - first, 1)).astype(np.float32)
        for number in self._numbers:
            start, stop, row = self._voices.features(number)
            low, high = max(first, start), min(last, stop)
            if low < high:
                found[low - first : high - first] = self._voices.read(row + low - start, high - low)
        return found

    def spans(self) -> list[tuple[float, float]]:
        """When each segment begins and ends, seconds."""
        return [(self._voices.segments[n].start_s, self._voices.end_s(n)) for n in self._numbers]


def mixed(voices: Voices, seconds: float) -> tuple[Heard, Notes]:
    """All speech at its place, one over another where they overlap.

    Args:
        voices: of all segments.
        seconds: length of the result.

    Returns:
        The sound, mono or, where any speech has more channels, stereo; its rate, the highest of all; its layout; what
        the user should know: where the sum is louder than full scale, all of it is made softer.
    """
    rate_hz = max(written_channels(track)[0] for track in voices.tracks)
    channels = 2 if any(track.channels > 1 for track in voices.tracks) else 1
    sound = DiskArray(channels if channels > 1 else 0)
    sound.resize(max(1, round(seconds * rate_hz)))
    total = np.memmap(sound.file, np.float32, "r+", shape=(len(sound), channels))
    for segment, track in zip(voices.segments, voices.tracks, strict=True):
        wide = track.channels == 2 == channels
        with closing(decoded_sound(segment.speech, rate_hz, track.number, 2 if wide else 1)) as speech:
            _add(total, speech, segment, rate_hz)
    peak = max(float(np.abs(part).max()) for part in _parts(total, rate_hz))
    notes: Notes = ()
    if peak > 1:
        for part in _parts(total, rate_hz):
            part /= peak
        notes = (f"the segments' speech together is too loud: it was made {20 * np.log10(peak):.1f} dB softer",)
    return (sound, rate_hz, "stereo" if channels == 2 else "mono"), notes


def _add(total: np.memmap, speech: DiskArray, segment: Segment, rate_hz: int) -> None:
    place, first = round(segment.start_s * rate_hz), round(segment.offset_s * rate_hz)
    gain = np.float32(10 ** (segment.gain_db / 20))
    for start in range(first, len(speech), _BLOCK * rate_hz):
        at = place + start - first
        part = speech[start : start + _BLOCK * rate_hz][: max(0, len(total) - at)]
        total[at : at + len(part)] += gain * part.reshape(len(part), -1)


def _parts(total: np.memmap, rate_hz: int) -> list[np.ndarray]:
    return [total[i : i + _BLOCK * rate_hz] for i in range(0, len(total), _BLOCK * rate_hz)]


def laid_under(path: Path) -> tuple[Heard, Notes]:
    """A file's sound as it is; as `mixed`."""
    track = probe_audio(path)
    rate_hz, channels, layout = written_channels(track)
    return (decoded_sound(path, rate_hz, track.number, channels), rate_hz, layout), tuple(filter(None, [track.note]))
