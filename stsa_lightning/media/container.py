"""Media files opened by PyAV, whatever their names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stsa_lightning.media.end_to_end import second_recording
from stsa_lightning.media.matroska import RecordingsDifferError, as_one_recording
from stsa_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer, OutputContainer
    from av.error import FFmpegError
    from av.stream import Stream


class VideoError(UserError):
    """A video or picture that cannot be read or written as asked."""


def open_input(path: str | Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        VideoError: recordings put end to end that are not read as one.
        what `av.open` raises.
    """
    joined = None
    with suppress(OSError):  # FFmpeg meets and tells it
        try:
            joined = as_one_recording(Path(path))
        except RecordingsDifferError as error:
            raise VideoError(str(error)) from error
        if (offset := second_recording(Path(path))) is not None:
            raise VideoError(
                f"{path}: expected one recording, found another from byte {offset:,} on, as where files were copied "
                "end to end; join the files themselves, with `ffmpeg -f concat`, or give them one by one"
            )
    if joined is not None:
        return _opened(joined)
    # Without the prefix FFmpeg takes `take:2.wav` for a protocol's name. The list keeps it off the network, whatever
    # addresses a file (a playlist) names.
    return _opened(f"file:{path}", options={"protocol_whitelist": "file"})


def _opened(file: Any, **options: Any) -> InputContainer:
    import av

    # Tags in another encoding are no reason not to read the rest. From 19 on PyAV takes them as they are, unasked.
    if int(av.__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "surrogateescape"
    return av.open(file, "r", **options)


def tag(stream: Stream, key: str) -> str | None:
    """What the file says of a stream, such as its `language` or `title`; bytes of another encoding replaced."""
    value = stream.metadata.get(key)
    return None if value is None else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def open_output(path: str | Path, format: str, **options: Any) -> OutputContainer:
    """Open a file for writing in a container format of FFmpeg's, whatever its suffix. Raises what `av.open` raises."""
    import av

    return av.open(f"file:{path}", "w", format=format, **options)


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """The streams of moving pictures; covers are none."""
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def picture_stream(container: InputContainer) -> VideoStream | None:
    """Of the streams of moving pictures the default one, else the first; None where there is none."""
    from av.stream import Disposition

    moving = picture_streams(container)
    return next((s for s in moving if s.disposition & Disposition.default), moving[0] if moving else None)


def reason(error: OSError | FFmpegError) -> str:
    """Why FFmpeg or the system refuses a file, in words for whoever has it."""
    import av

    if isinstance(error, av.error.InvalidDataError):
        return "its contents have no form that FFmpeg knows"
    return error.strerror or str(error)
