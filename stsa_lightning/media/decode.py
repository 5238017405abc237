"""The picture of a file, decoded forward from its beginning or from a key frame; a still is a video of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stsa_lightning.media.container import VideoError, open_input, picture_stream, picture_streams, reason
from stsa_lightning.media.joins import Shifts, carried_on, shifts_of
from stsa_lightning.media.rgb_converter import Colours, RGBConverter
from stsa_lightning.media.shown_frame import Crop, ShownFrame
from stsa_lightning.media.stills import Still, open_still
from stsa_lightning.utils.examine import check_file, fault_of_contents

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

STILL_FPS = 25
_FASTEST_FPS = 1000  # an average beyond is no rate, but the clock of the file, as raw DV has it
_STILL_CODECS = "_pipe"  # how FFmpeg calls the formats of single pictures: jpegxl_pipe
_MISSING = 0.05  # the share of the stated frames that may be absent before a file counts as cut short
_LEADING = 16  # frames that may be shown before their key frame; a stream may also do without key frames
_UNSOUGHT = ("mpeg",)  # after a seek, frames get the time stamps of their neighbours
_JUMP_BACK_S = 0.5  # time stamps that fall by more begin anew, as where recordings were put end to end
_HDR = {16: "PQ (HDR10)", 18: "HLG"}  # FFmpeg's numbers of the transfer curves


Opened = TypeVar("Opened", bound="Decoder")


class Decoder:
    """A file opened for its picture; a context manager.

    Frames come with rising stamps, in units of `base`. Damaged packets are holes, whose neighbours are shown longer. A
    frame that is shown at no time of its own is left out; time stamps that begin anew go on where the others ended.

    Args:
        path: a video or a picture.
        threads: of the decoder; 0 for as many as there are cores.

    Attributes:
        size: width and height of the frames as shown.
        fps: frames a second, as the file says.
        stated_rates: all that it says of its rate: the average, and the one that its time stamps fit.
        base: seconds of a stamp's unit.
        codec, container: as FFmpeg calls them; empty for a still picture.
        hdr: name of the transfer curve of a high-dynamic-range video; None of others.
        has_audio: whether the file has sound.
        tracks: how many streams of moving pictures the file has, and which of them this is, from 1 on.
        has_one_picture: whether it has a single stream of pictures, covers counted.
        is_plain: whether other readers show its picture as this one does, see `RGBConverter.is_plain`.
        origin: stamp of time 0: when the first packet is to be shown, whether or not it can be decoded.
        sought: whether stamps tell where to seek; not so in files without time stamps, or with several beginnings.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file cannot be read, or holds no picture.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self.path, self._threads = Path(path), threads
        check_file(self.path, "video file", VideoError)
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._still: Still | None = None
        self._frames: Iterator[tuple[int, VideoFrame]] = iter(())
        self._shifts = Shifts()
        self._unshown = 0  # packets that are not to give a frame
        self._key: int | None = None  # stamp of the first key frame since opening or seeking, shown or not
        self.sought = True
        try:
            self._open()
            self._shown: RGBConverter | None = None
            first = next(self._frames, None)
            if first is None:
                raise VideoError(f"{path}: no frame could be decoded; is it damaged?")
            self._shown = RGBConverter(self._stream, first[1])
            self.is_plain = self._stream is not None and self._shown.is_plain(first[1])
        except BaseException:
            self.close()
            raise
        self._frames = chain([first], self._frames)
        start = None if self._stream is None else self._stream.start_time
        self.origin = first[0] if start is None else min(start, first[0])

    def _open(self) -> None:
        import av

        try:
            self._still = open_still(self.path)
            if self._still is None:
                if fault := fault_of_contents(self.path):
                    raise VideoError(f"{self.path}: {fault}")
                self._container = open_input(self.path)
                self._stream = picture_stream(self._container)
        except (PermissionError, av.error.PermissionError) as error:
            raise VideoError(f"{self.path}: may not be read ({error.strerror}); change its permissions") from error
        except (OSError, av.error.FFmpegError) as error:
            raise VideoError(f"{self.path}: cannot be read as video ({reason(error)}); is it damaged?") from error
        if self._still is None and self._stream is None:
            raise VideoError(f"{self.path}: has no video stream; give a file with a moving picture")
        if self._stream is not None and self._stream.codec_context is None:
            raise VideoError(f"{self.path}: has a picture that FFmpeg has no decoder for; convert it to H.264")
        if self._container is not None and self._stream is not None:
            self._shifts = shifts_of(self.path, self._container, self._stream)
            self.sought &= self._container.format.name not in _UNSOUGHT and not self._shifts
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = self._threads
        self._describe()
        self._frames = self._decoded()

    # ------------------------------------------------------------------------------------------------------- what it is

    @property
    def size(self) -> tuple[int, int]:
        assert self._shown is not None
        return self._shown.size

    @property
    def colours(self) -> Colours:
        """In which a result looks as this does; see `RGBConverter`."""
        assert self._shown is not None
        return self._shown.colours

    @property
    def note(self) -> str:
        """What to say where the file has several streams of moving pictures; empty elsewhere."""
        count, number = self.tracks
        return f"{self.path} has {count} picture tracks: track {number}, its default, was taken" if count > 1 else ""

    @property
    def is_still(self) -> bool:
        """Whether it is a picture, not a video."""
        if self._still is not None:
            return self._still.frames == 1
        return self._container is not None and self._container.format.name.endswith(_STILL_CODECS)

    def _describe(self) -> None:
        """Note what the file says, which outlives the stream that says it."""
        stream, still = self._stream, self._still
        transfer = 0 if stream is None else int(stream.codec_context.color_trc or 0)
        self.hdr = _HDR.get(transfer)
        self.codec = "" if stream is None else stream.codec_context.name
        self.container = "" if self._container is None else self._container.format.name
        self.base = (None if stream is None else stream.time_base) or Fraction(1, 1000)
        self.has_audio = self._container is not None and bool(self._container.streams.audio)
        moving = [] if self._container is None else [s.index for s in picture_streams(self._container)]
        self.tracks = len(moving), 1 if stream is None else moving.index(stream.index) + 1
        self.has_one_picture = self._container is not None and len(self._container.streams.video) == 1
        self.fps = Fraction(STILL_FPS)
        self.stated_rates = [self.fps]
        if self.is_still:
            return
        if still is not None:
            self.fps = Fraction(1000 * still.frames, still.duration_ms)
        elif stream is not None:
            average, guessed = stream.average_rate, stream.guessed_rate
            believable = average if average and average <= _FASTEST_FPS else guessed
            self.fps = Fraction(believable or average or STILL_FPS)
        base = None if stream is None else stream.base_rate
        self.stated_rates = [self.fps, *([Fraction(base)] if base else [])]

    def stated(self) -> tuple[int, float]:
        """Number of frames and seconds that the file states; where it is silent on one of them, all of it is read.

        Raises:
            VideoError: it cannot be.
        """
        import av

        if self._still is not None:
            return self._still.frames, self._still.duration_ms / 1000
        assert self._stream is not None
        assert self._container is not None
        if self.is_still:
            return 1, 1 / STILL_FPS
        seconds = 0.0
        if self._stream.duration and not self._shifts:
            seconds = float(self._stream.duration * self.base)
        elif self._container.duration and not self._shifts:
            seconds = self._container.duration / 1e6
        stated = self._stated_frames()
        if stated and seconds > 0:
            return stated, seconds
        try:
            frames, counted_s = _counted(self.path, self.fps, self._shifts)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be decoded ({reason(error)}); is it damaged?") from error
        return stated or frames, max(seconds, counted_s)

    def _stated_frames(self) -> int:
        """As the file states, less those that an edit list cuts away; 0 where it does not say."""
        assert self._stream is not None
        stated = self._stream.frames
        if not stated or "mp4" not in self.container:
            return stated
        # The index is without those that lie before the last key frame before the cut.
        return min(stated, sum(not entry.is_discard for entry in self._stream.index_entries))

    # ----------------------------------------------------------------------------------------------------------- frames

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """Stamps and frames, from where it stands.

        Raises:
            VideoError: the file cannot be decoded.
        """
        return self._frames

    def missing(self, count: int) -> str:
        """What to say where the frames that came, all of them, are far fewer than the file states; else empty."""
        stated = 0 if self._stream is None or self.is_still else self._stated_frames()
        if count + self._unshown >= (1 - _MISSING) * stated:
            return ""
        return f"{self.path}: holds {count} of the {stated} frames it states; is it cut short?"

    def check_whole(self, count: int) -> None:
        """Raises VideoError where anything is `missing`."""
        if missing := self.missing(count):
            raise VideoError(missing)

    def pixels(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB as shown, contiguous."""
        assert self._shown is not None
        return self._shown(frame)

    def shown(self, frame: VideoFrame, crop: Crop | None = None) -> ShownFrame:
        """The same, or a part of it (see `ShownFrame`), turned into RGB where it is looked at."""
        assert self._shown is not None
        return ShownFrame(frame, self._shown, crop)

    def seek(self, stamp: int) -> None:
        """Stand at the key frame at or before a stamp, as far as the file's index is right.

        Raises:
            VideoError: the file cannot be sought.
        """
        import av

        if self._container is None or not self.sought:
            self.restart()
            return
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be sought ({error.strerror})") from error
        self._frames = self._decoded()

    def restart(self) -> None:
        """Stand at the beginning."""
        self.close()
        self._open()

    def _decoded(self) -> Iterator[tuple[int, VideoFrame]]:
        import av

        last, ahead = None, 0
        step = max(1, round(1 / (self.fps * self.base)))
        try:
            for frame in self._from_key(self._raw()):
                if frame.pts is None:
                    self.sought = False
                    stamp = 0 if last is None else last + step
                else:
                    stamp = frame.pts + ahead
                if last is not None and (last - stamp) * self.base > _JUMP_BACK_S:
                    self.sought = False
                    ahead, stamp = ahead + last + step - stamp, last + step
                if last is None or stamp > last:
                    last = stamp
                    yield stamp, frame
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be decoded ({reason(error)}); is it damaged?") from error

    def _raw(self) -> Iterator[Any]:
        import av

        if self._still is not None:
            for time_ms, pixels in self._still:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = time_ms
                yield frame
            return
        assert self._container is not None
        self._key = None
        for packet in carried_on(self._container, self._stream, self._shifts):
            if self._key is None and packet.is_keyframe and packet.size:
                self._key = packet.pts
            self._unshown += not packet.size and packet.dts is not None  # "the same again"
            try:
                frames = packet.decode()
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:  # whatever is amiss, later packets may be well
                continue
            yield from frames

    def _from_key(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Without those shown before the first key frame: what they came from was cut off, or lies before a seek."""
        early = list(islice(frames, 1))
        while early and not self._follows_key(early[-1]) and len(early) < _LEADING:
            more = next(frames, None)
            if more is None:
                break
            early.append(more)
        return chain(early[-1:] if early and self._follows_key(early[-1]) else early, frames)

    def _follows_key(self, frame: Any) -> bool:
        """An edit list may hide the key frame, and not what follows it."""
        return frame.key_frame or (None not in (frame.pts, self._key) and frame.pts >= self._key)

    def close(self) -> None:
        """Free the file, and the decoder with its threads, which lives for as long as anything refers to it."""
        if self._stream is not None and self._stream.codec_context is not None:
            # PyAV frees a decoder with the interpreter's lock held, and waits for its threads, which wait for the lock
            # where they have an error to log and somebody (older torchvision) switched PyAV's log on. Flushing lets
            # the lock go until the threads are idle.
            self._stream.codec_context.flush_buffers()
        for opened in (self._container, self._still):
            if opened is not None:
                opened.close()
        self._container = self._stream = None
        self._frames = iter(())

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


def _counted(path: Path, fps: Fraction, shifts: Shifts) -> tuple[int, float]:
    """Packets with content, and seconds from the first to the end of the last, of a file that does not say."""
    with open_input(path) as container:
        stream = picture_stream(container)
        stamps = [p.pts for p in carried_on(container, stream, shifts) if p.size]
        known = [stamp for stamp in stamps if stamp is not None]
        base = (stream.time_base if stream is not None else None) or Fraction(1, 1000)
    if len(known) < len(stamps) or not known:
        return len(stamps), len(stamps) / float(fps)
    return len(stamps), float((max(known) - min(known)) * base + 1 / fps)
