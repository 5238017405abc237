"""Frames of ordinary videos by Decord, which serves any order in one call and needs no pass over the file first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.media.container import VideoError
from stsa_lightning.media.decode import Decoder

READ_AHEAD_BYTES = 512 * 2**20  # decoded frames that may wait in memory, beside those asked for
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # as FFmpeg calls them
_SMALLEST_PX = 128  # it pads rows of smaller ones and fails
_CODECS = ("h264", "hevc", "mpeg4")


class DecordFrames:
    """Frames by number of an opened file; up to 3 levels from those of `Frames`, 1 darker on average.

    Attributes:
        times_s: (F,) float64, when each frame is shown; the first at 0.

    Raises:
        VideoError: the file cannot be decoded.
    """

    def __init__(self, decoder: Decoder) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.path, self.rate = decoder.path, decoder.fps
        with _errors_with_name(self.path):
            self._reader: Any = decord.VideoReader(str(self.path), ctx=decord.cpu(0))
            starts_s = self._reader.get_frame_timestamp(range(len(self._reader))).astype(np.float64)[:, 0]
        times_s = starts_s - starts_s[0]
        even = np.arange(len(times_s)) / float(self.rate)
        # Decord's stamps are of single precision; those of a constant rate are known exactly.
        self.times_s = even if np.abs(times_s - even).max() < 2e-3 else times_s
        # It decodes ahead without a limit for as long as nobody reads. A seek makes it stop, at the price of decoding
        # from the last key frame again: worth it where a whole video does not fit.
        self._stops = len(times_s) * decoder.size[0] * decoder.size[1] * 3 > READ_AHEAD_BYTES

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames by number, (H, W, 3) uint8 RGB each."""
        with _errors_with_name(self.path):
            frames = self._reader.get_batch(numbers).asnumpy() if len(numbers) else ()
            if self._stops:
                self._reader.seek(0)
        yield from frames

    def close(self) -> None:
        """Free the file."""
        self._reader = None


def decord_frames(decoder: Decoder) -> DecordFrames | None:
    """The frames of an opened file by Decord; None where it is not installed, or might count or show them otherwise."""
    # Names with a colon are addresses to Decord; of an edit list, or of frames that cannot be shown, it does not know.
    usual = decoder.codec in _CODECS and decoder.container in _CONTAINERS and decoder.origin == 0
    if not usual or not decoder.has_one_picture or not decoder.is_plain or min(decoder.size) < _SMALLEST_PX:
        return None
    if not decoder.sought:  # several recordings, of which it reads the first
        return None
    if ":" in str(decoder.path) or not str(decoder.path).isprintable():
        return None
    try:
        frames = DecordFrames(decoder)
    except (ImportError, VideoError):
        return None
    return frames if len(frames.times_s) == decoder.stated()[0] else None


@contextmanager
def _errors_with_name(path: Path) -> Iterator[None]:
    import decord

    try:
        yield
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"{path}: cannot be decoded; is it damaged or cut short?") from error
