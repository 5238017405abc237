"""Audio features of the new speech, from a file or as it comes in, in bounded memory."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.growing_features import GrowingFeatures
from stsa_lightning.dubbing.pauses import pauses
from stsa_lightning.features.base import WINDOW_STEPS, AudioFeatures, feature_windows
from stsa_lightning.media.audio import INAUDIBLE, AudioTrack, load_audio, other_audible_tracks, probe_audio
from stsa_lightning.media.video import AAC_RATES_HZ, MOST_CHANNELS
from stsa_lightning.utils.disk_array import DiskArray

Silence = Literal["keep", "close"]

_MINUTE = 60 * SAMPLE_RATE_HZ
_SAME_LENGTH_S = 0.1


class SpeechFeatures(Protocol):
    """Audio features of speech, step by step."""

    def covers(self, time_s: float) -> bool:
        """Whether there is speech at (or after) a time; waits for it where it is still coming in."""

    def rows(self, first: int, last: int) -> np.ndarray:
        """Feature steps first ... last - 1: (n, D) float32, zeros where there is no sound."""


def audio_windows(speech: SpeechFeatures, centres: np.ndarray) -> np.ndarray:
    """`feature_windows` of speech around times (n,) in frames of 25/s: (n, D, 10) float32."""
    # As `feature_windows` counts, and no step more: live speech would be waited for.
    low, last = (int(np.floor((centre - 2) * 2 + 1e-4)) for centre in (centres.min(), centres.max()))
    low, high = low - low % 2, last + WINDOW_STEPS  # from a whole number of frames on
    return feature_windows(speech.rows(low, high), centres - low / 2)


class Speech:
    """A file's speech, decoded and described once, then read from disk; a context manager.

    Args:
        path: a sound file, or a video whose sound is taken.
        extractor: of the features that the networks were trained on.
        silence: "close" replaces the pauses of the speech (`pauses`) by silence.
        track: which of several sound tracks, from 1 on; None: the file's default track.
        sound: what is heard in place of the speech, such as its mix with music; the speech is then taken to be silent
            after its end, and counts no further than the sound.

    Attributes:
        seconds: its length, or that of `sound`.
        sound, rate_hz, layout: the result's sound track: the file's own channels, and its rate where AAC has it.
        audible: whether the speech is more than silence.
        notes: what the user should know.

    Raises:
        FileNotFoundError, AudioError: as `load_audio`.
    """

    def __init__(
        self,
        path: str | Path,
        extractor: AudioFeatures,
        silence: Silence = "keep",
        track: int | None = None,
        sound: str | Path | None = None,
    ) -> None:
        self._open = ExitStack()
        try:
            self._describe(path, extractor, silence, track, sound)
        except BaseException:
            self._open.close()
            raise

    def _describe(
        self,
        path: str | Path,
        extractor: AudioFeatures,
        silence: Silence,
        track: int | None,
        sound: str | Path | None,
    ) -> None:
        probed = probe_audio(path, track)
        wave = self._decode(path, SAMPLE_RATE_HZ, probed.number)
        self.audible = any(np.abs(wave[i : i + _MINUTE]).max() > INAUDIBLE for i in range(0, len(wave), _MINUTE))
        heard = probed if sound is None else probe_audio(sound)
        self.rate_hz, channels, self.layout = written_channels(heard)
        as_heard = sound is None and channels == 1 and self.rate_hz == SAMPLE_RATE_HZ
        self.sound = wave if as_heard else self._decode(heard.path, self.rate_hz, heard.number, channels)
        notes = [probed.note, "" if self.audible else _silent_note(probed)]
        if sound is not None:
            notes += [heard.note, _length_note(probed, len(wave) / SAMPLE_RATE_HZ, heard, self._sound_s)]
            wave.resize(round(self._sound_s * SAMPLE_RATE_HZ))
        self.seconds = len(wave) / SAMPLE_RATE_HZ
        self.notes = tuple(filter(None, notes))
        self._features = DiskArray(extractor.dim)
        self._open.callback(self._features.close)
        for rows in described(wave, extractor, silent_row(extractor) if silence == "close" else None):
            self._features.append(rows)

    def _decode(self, path: str | Path, rate_hz: int, track: int, channels: int = 1) -> DiskArray:
        samples = decoded_sound(path, rate_hz, track, channels)
        self._open.callback(samples.close)
        return samples

    @property
    def _sound_s(self) -> float:
        return len(self.sound) / self.rate_hz

    def cut(self, seconds: float) -> DiskArray:
        """The sound track, no longer than `seconds`."""
        self.sound.claim(min(len(self.sound), round(seconds * self.rate_hz)))
        return self.sound

    def covers(self, time_s: float) -> bool:
        return time_s < self.seconds - 1e-6

    def rows(self, first: int, last: int) -> np.ndarray:
        low, high = (min(max(step, 0), len(self._features)) for step in (first, last))
        found = np.zeros((last - first, self._features.width), np.float32)
        found[low - first : high - first] = self._features[low:high]
        return found

    def __enter__(self) -> Speech:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


class LiveSpeech:
    """Speech that comes in chunks, see `GrowingFeatures`; a context manager.

    Args:
        chunks: (n,) float32 mono in [-1, 1] at 16 kHz, of any lengths; taken in a thread of their own, at most a minute
            ahead. What they raise is raised again where the speech is used.
        extractor: of the features that the networks were trained on.
    """

    def __init__(self, chunks: Iterable[np.ndarray], extractor: AudioFeatures) -> None:
        self._features = GrowingFeatures(extractor)
        self._error: BaseException | None = None
        self._news = threading.Condition()
        threading.Thread(target=self._take, args=(iter(chunks),), name="speech", daemon=True).start()

    def _take(self, chunks: Iterator[np.ndarray]) -> None:
        error: BaseException | None = None
        try:
            for chunk in chunks:
                with self._news:
                    self._news.wait_for(lambda: self._features.ended or self._features.held < _MINUTE)
                    if self._features.ended:
                        return
                    self._features.push(chunk)
                    self._news.notify_all()
        except BaseException as raised:
            error = raised
        with self._news:
            self._features.ended, self._error = True, error
            self._news.notify_all()

    def _wait(self, samples: int) -> None:
        """Until there are so many samples, or no more will come."""
        self._news.wait_for(lambda: self._features.ended or self._features.samples >= samples)
        if self._error is not None:
            raise self._error

    def covers(self, time_s: float) -> bool:
        with self._news:
            self._wait(round(time_s * SAMPLE_RATE_HZ) + 1)
            return time_s < self._features.samples / SAMPLE_RATE_HZ - 1e-6

    def rows(self, first: int, last: int) -> np.ndarray:
        with self._news:
            self._wait(self._features.wanted(last))
            found = self._features.rows(first, last)
            self._news.notify_all()  # there is room
            return found

    def close(self) -> None:
        """Take no more chunks."""
        with self._news:
            self._features.ended = True
            self._news.notify_all()

    def __enter__(self) -> LiveSpeech:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decoded_sound(path: str | Path, rate_hz: int, track: int | None = None, channels: int = 1) -> DiskArray:
    """A sound track on disk, (samples,), or (samples, channels) where they are several. Raises as `load_audio`."""
    samples = DiskArray(channels if channels > 1 else 0)
    try:
        samples.claim(len(load_audio(path, rate_hz, out_file=samples.file, track=track, mono=channels == 1)))
    except BaseException:
        samples.close()
        raise
    return samples


def written_channels(track: AudioTrack) -> tuple[int, int, str]:
    """Rate, number and layout of the channels in which a track is written: its own where AAC has them."""
    rate_hz = track.rate_hz if track.rate_hz in AAC_RATES_HZ else 48_000
    return (rate_hz, track.channels, track.layout) if track.channels <= MOST_CHANNELS else (rate_hz, 1, "mono")


def described(wave: DiskArray, extractor: AudioFeatures, silent: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Features of speech that lies on disk, (n, D) float32 at a time.

    Args:
        wave: (samples,) at 16 kHz.
        extractor: of the features.
        silent: (D,) what takes the place of the pauses; None: they are left as they are.
    """
    quiet = None if silent is None else pauses(wave)[:, None]
    mapped, done = np.memmap(wave.file, np.float32, "r", shape=(len(wave),)), 0
    for rows in extractor.chunks(mapped):
        if quiet is not None:
            share = quiet[done : done + len(rows)]
            rows = (1 - share) * rows + share * silent
        done += len(rows)
        yield rows
        _let_go(mapped)


def _silent_note(track: AudioTrack) -> str:
    """What to say of a silent track: whether another one speaks."""
    note = "the speech is silent throughout"
    if others := other_audible_tracks(track):
        listed = " and ".join(map(str, others))
        note += f", but its sound track {listed} is not: choose one with --audio-track"
    return note


def _length_note(speech: AudioTrack, speech_s: float, sound: AudioTrack, sound_s: float) -> str:
    """What to say of speech and sound that are not of one length; a few frames more or less are no matter."""
    if abs(speech_s - sound_s) < _SAME_LENGTH_S:
        return ""
    rest = "its end is not shown" if speech_s > sound_s else "the mouth is as in silence after it"
    return (
        f"{speech.path} lasts {speech_s:.2f} s, {sound.path} {sound_s:.2f} s: the result lasts as long as the latter; "
        f"of the speech, {rest}"
    )


def silent_row(extractor: AudioFeatures) -> np.ndarray:
    """(D,) a step in the midst of digital silence."""
    rows = extractor(np.zeros(SAMPLE_RATE_HZ, np.float32))
    return rows[len(rows) // 2]


def _let_go(mapped: np.memmap) -> None:
    """Pages of a file that were read count as this process's memory until they are let go."""
    pages = getattr(mapped, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
