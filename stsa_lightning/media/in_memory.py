"""Pictures and sound that a program holds in memory, and as files without loss, which every reader here takes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.media.video import MOST_CHANNELS
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.scratch import scratch_folder


@dataclass(frozen=True, eq=False)
class Pictures:
    """A video in memory.

    Attributes:
        frames: (H, W, 3) uint8 RGB, at least one, all of a size: an array of them, or whatever yields them, once.
        fps: frames a second.
    """

    frames: Iterable[np.ndarray]
    fps: float | Fraction

    def write(self, folder: Path) -> Path:
        """As a file in a folder that exists, to the bit.

        Raises:
            UserError: the frames, or their rate, are not as described.
        """
        import av

        if not 0 < self.fps < 1000:
            raise UserError(f"pictures: expected above 0 and below 1000 frames/s, got {self.fps}")
        path, shape = folder / "pictures.mkv", None
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("ffv1", rate=Fraction(self.fps).limit_denominator(1001))
            for number, frame in enumerate(self.frames):
                shape = frame.shape if shape is None else shape
                if frame.dtype != np.uint8 or frame.shape != shape or frame.shape[2:] != (3,) or not frame.size:
                    raise UserError(
                        f"pictures: expected frames (H, W, 3) of uint8, all of a size, got {frame.shape} of "
                        f"{frame.dtype} (frame {number})"
                    )
                if not number:
                    stream.height, stream.width, stream.pix_fmt = *shape[:2], "bgr0"
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format="bgr0")
                container.mux(stream.encode(picture))
            if shape is None:
                raise UserError("pictures: expected at least one frame, got none")
            container.mux(stream.encode())
        return path


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound in memory.

    Attributes:
        samples: (n,), or (channels, n), float in [-1, 1].
        rate_hz: samples a second.
    """

    samples: np.ndarray
    rate_hz: int

    def write(self, folder: Path) -> Path:
        """As a file in a folder that exists, in 32 bits a sample.

        Raises:
            UserError: the samples, or their rate, are not as described.
        """
        from scipy.io import wavfile

        channels = np.atleast_2d(self.samples)
        wrong = channels.ndim != 2 or not np.issubdtype(channels.dtype, np.floating)
        if wrong or not channels.size or len(channels) > MOST_CHANNELS:
            raise UserError(
                f"sound: expected (n,) or (channels, n) of float, 1 to {MOST_CHANNELS} channels, got "
                f"{self.samples.shape} of {self.samples.dtype}"
            )
        if not np.isfinite(channels).all():
            raise UserError("sound: expected finite samples, found NaN or infinity")
        if not 0 < self.rate_hz < 2**31:
            raise UserError(f"sound: expected a rate above 0 Hz, got {self.rate_hz}")
        wavfile.write(folder / "sound.wav", int(self.rate_hz), channels.T.astype(np.float32))
        return folder / "sound.wav"


def on_disk(given: str | Path | Pictures | Sound, opened: ExitStack) -> Path:
    """What is in memory as a file, which goes when `opened` is closed; the path of what is none."""
    if isinstance(given, (str, Path)):
        return Path(given)
    return given.write(opened.enter_context(scratch_folder("stsa-memory-")))
