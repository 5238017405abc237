"""The file that a dub becomes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import Bars
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.media.video import VideoWriter
from stsa_lightning.media.video_source import KnownFrames
from stsa_lightning.utils.disk_array import DiskArray

# Half the work of x264's own preset at 16; files up to a sixth larger, 0.1 to 0.6 dB of 41 to 45 less (benchmarks).
_ENCODING: dict[str, Any] = {"preset": "veryfast", "crf": 15}


def check_no_input(out: Path, inputs: Iterable[str | Path]) -> None:
    """Raises DubError where the result would take the place of something that it is made from."""
    if os.path.realpath(out) in map(os.path.realpath, inputs):  # unlike Path.resolve it takes links in a circle
        raise DubError(f"{out}: is an input; choose another name for the result")


def write_frames(
    out: Path,
    frames: Callable[[Pipeline], Iterable[np.ndarray]],
    source: KnownFrames,
    schedule: Schedule,
    sound: tuple[DiskArray, int, str],
    times: Pipeline,
    bars: Bars,
) -> None:
    """Dubbed frames and sound (samples, rate, layout) into a file that appears whole or not at all."""
    samples, rate_hz, layout = sound
    fps = source.out_fps
    with (
        disk_errors_named(out),
        times,
        VideoWriter(
            out,
            fps,
            source.size,
            samples,
            rate_hz,
            layout=layout,
            timestamps=schedule.varying_times_s(fps),
            colours=source.colours,
            **_ENCODING,
        ) as writer,
    ):
        for frame in bars.track(frames(times), len(schedule), description="re-rendering"):
            with times.timed("encode"):
                writer.write(frame[None])


@contextmanager
def disk_errors_named(out: Path) -> Iterator[None]:
    """Turn errors of the disk into a UserError with the file's name and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DubError(f"{out}: the disk is full; make room or write elsewhere. Nothing was left behind") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DubError(f"{out}: may not be written ({error.strerror}); choose another folder") from error
        raise DubError(f"{out}: cannot be written ({error.strerror or error})") from error
