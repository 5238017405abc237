"""Media files opened by PyAV, whatever their names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stsa_lightning.media.matroska import RecordingsDifferError, as_one_recording
from stsa_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer, OutputContainer
    from av.error import FFmpegError


class VideoError(UserError):
    """A video or picture that cannot be read or written as asked."""


def open_input(path: str | Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        VideoError: recordings put end to end that differ in form.
        what `av.open` raises.
    """
    import av

    joined = None
    with suppress(OSError):  # FFmpeg meets and tells it
        try:
            joined = as_one_recording(Path(path))
        except RecordingsDifferError as error:
            raise VideoError(str(error)) from error
    if joined is not None:
        return av.open(joined, "r", metadata_errors="replace")
    # Without the prefix FFmpeg takes `take:2.wav` for a protocol's name. The list keeps it off the network, whatever
    # addresses a file (a playlist) names.
    # Tags in another encoding are no reason not to read the rest.
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")


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
