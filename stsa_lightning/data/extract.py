"""One video -> one clip file; a few frames are held at a time, however long the video is.

The frames go by once: everybody's faces are followed through them and cut out, and at the end one's are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import shorten
from typing import Any

import numpy as np

from stsa_lightning.constants import FPS, SAMPLES_PER_FRAME
from stsa_lightning.data.clip import ClipMeta, ClipWriter, WriteError, disk_blamed
from stsa_lightning.data.corpora import Source
from stsa_lightning.data.face_cutter import CutFaces, FaceCutter, SeenFrame
from stsa_lightning.data.index import clip_path
from stsa_lightning.data.measures import SyncReading, measure
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.data.sync_offset import _aperture_reading, _Face, _in_sync, _SyncNet
from stsa_lightning.face.tracks import FaceFollower
from stsa_lightning.face.upright_box import to_upright
from stsa_lightning.features.base import AudioFeatures
from stsa_lightning.features.build import audio_features
from stsa_lightning.media.audio import INAUDIBLE, load_audio, other_audible_tracks, probe_audio
from stsa_lightning.media.shown_frame import ShownFrame
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoInfo, probe
from stsa_lightning.utils.stage_times import StageTimes

_BLOCK_BYTES = 32 << 20  # most decoded frames at a time
_AT_ONCE = 8  # frames: to go on with one stage for a while costs less than to change with every frame
_MEASURED_FACES = 24  # faces of which sharpness and brightness are taken
_RANGE_ROUNDING_S = 1.0  # lists state whole seconds


class RejectedError(ValueError):
    """A video that cannot be part of a corpus; the message is the reason."""


def prepare_clip(source: Source, out: Path, settings: PrepareSettings, stages: StageTimes | None = None) -> ClipMeta:
    """Prepare one video, or a part of one, into its clip file below `out`.

    Args:
        source: the video.
        out: folder of the corpus.
        settings: resolved (`PrepareSettings.resolved`).
        stages: takes the times of the stages.

    Raises:
        RejectedError, VideoError, AudioError: it cannot be part of the corpus.
        WriteError: the disk does not take the clip.
    """
    stages = stages or StageTimes()
    info = probe(source.path)
    _check_range(source, info)
    path = clip_path(out, source.clip)
    with _temporary_file(path) as sound_file, _temporary_file(path) as picture_file:
        with stages.timed("sound"):
            wave = _load_sound(source, info, sound_file)
        stream, size = _stream(source, info)
        cutter = FaceCutter(size, picture_file, settings, stages)
        with disk_blamed(path):
            face, cut = _follow(stream, wave, cutter, settings, stages)
        wave = wave[: len(face.valid) * SAMPLES_PER_FRAME]
        with ClipWriter(path, len(source.clip.encode()) + len(source.relative.encode())) as writer:
            with stages.timed("write"):
                for picture in cutter.pictures(cut):
                    writer.face(picture)
                writer.frames(face.landmarks, face.boxes, face.valid)
            with stages.timed("sync"):
                sync = _sync(stream, size, face, wave, settings)
            with stages.timed("measures"):
                measures = measure(
                    landmarks=face.landmarks,
                    boxes=face.boxes,
                    valid=face.valid,
                    yaw=face.following.yaw,
                    wave=wave,
                    looks=cut.looks[_spread(face.valid)],
                    sync=sync,
                    cuts=face.following.cuts,
                    faces=face.following.faces,
                    correct=settings.correct_sync,
                )
            _write_sound(writer, _in_sync(wave, measures["sync_shift"]), settings, stages)
            with stages.timed("write"):
                return writer.finish(_meta(source, info, face, measures, settings))


def _check_range(source: Source, info: VideoInfo) -> None:
    """Raises `RejectedError` where the part is no part of the video."""
    end_s = info.duration_s if info.duration_s > 0 else float("inf")  # not every container states it
    start_s, stop_s = source.start_s or 0.0, end_s if source.stop_s is None else source.stop_s
    which = "begins" if start_s >= end_s else "ends" if stop_s > end_s + _RANGE_ROUNDING_S else ""
    if which:
        raise RejectedError(
            f"the time range {start_s:g}-{stop_s:g} s {which} after the video's end at {end_s:.1f} s; another version "
            f"of the video?"
        )


@contextmanager
def _temporary_file(path: Path) -> Iterator[Any]:
    """A nameless file beside the clip, which no crash leaves behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = TemporaryFile(dir=path.parent)  # noqa: SIM115
    except OSError as error:
        raise WriteError(f"{path.parent}: cannot be written to ({error.strerror})") from error
    try:
        yield file
    finally:
        with suppress(OSError):  # it tries once more to write what a full disk refused before
            file.close()


def _load_sound(source: Source, info: VideoInfo, out_file: Any) -> np.ndarray:
    """(samples,) float32, mapped from the file.

    Raises:
        RejectedError: there is none, or it is silent.
    """
    if source.audio is None and not info.has_audio:
        raise RejectedError("has no sound")
    path = source.audio or source.path
    try:
        wave = load_audio(path, start_s=source.start_s, stop_s=source.stop_s, out_file=out_file)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise RejectedError(str(error)) from error
        raise WriteError(
            f"the sound of {source.relative} cannot be written to disk ({error.strerror or error})"
        ) from error
    if max(np.abs(wave[i : i + 960_000]).max() for i in range(0, len(wave), 960_000)) < INAUDIBLE:
        others = other_audible_tracks(probe_audio(path))
        hint = f"; the default one of its sound tracks is taken, and track {others[0]} is not silent" if others else ""
        raise RejectedError(f"its sound is silent throughout{hint}")
    return wave


def _stream(source: Source, info: VideoInfo) -> tuple[VideoStream, tuple[int, int]]:
    """The frames of a source at 25/s, and their width and height."""
    crop = source.crop_box(info.width, info.height)
    whole = crop == (0, 0, info.width, info.height)
    return VideoStream(source.path, FPS, source.start_s, source.stop_s, None if whole else crop), (crop[2], crop[3])


def _block(size: tuple[int, int]) -> int:
    """How many frames of a width and height to decode at a time."""
    return max(1, _BLOCK_BYTES // (size[0] * size[1] * 3))


def _follow(
    stream: VideoStream, wave: np.ndarray, cutter: FaceCutter, settings: PrepareSettings, stages: StageTimes
) -> tuple[_Face, CutFaces]:
    """The face of every frame, and where its pictures are.

    Raises:
        RejectedError: too few frames, or too few with a face.
    """
    count, at_once = 0, min(_AT_ONCE, _block(cutter.size))
    with stages.timed("landmarks"):
        follower = FaceFollower(settings.landmark_model)
    with follower, closing(stream.frames()) as frames:
        while True:
            with stages.timed("decode"):
                some = list(islice(frames, at_once))
            if not some:
                break
            count += len(some)
            with stages.timed("landmarks"):
                seen = [_seen(follower, frame) for frame in some]
            cutter.update(seen)
        if count < settings.min_frames:
            raise RejectedError(f"too short: {count} frames at {FPS}/s, expected {settings.min_frames} or more")
        with stages.timed("landmarks"):
            following = follower.finish(wave)
    found = cutter.finish(count, following.kept)
    valid = np.any(found.boxes, axis=1)
    if valid.sum() < settings.min_frames:
        raise RejectedError(f"too few faces: {valid.sum()} of {count} frames, expected {settings.min_frames} or more")
    landmarks = to_upright(following.landmarks, found.degrees, cutter.size)
    landmarks[~valid] = np.nan  # also of faces that were tracked out of the frame
    return _Face(landmarks, found.boxes, found.degrees, valid, following), found


def _seen(follower: FaceFollower, frame: ShownFrame) -> SeenFrame:
    """Follow the next frame."""
    cut = follower.follow(frame)
    return SeenFrame(frame, [(track, track.landmarks[-1]) for track in follower.seen], cut)


def _spread(valid: np.ndarray) -> np.ndarray:
    """Numbers of some frames with a face, spread over the clip."""
    shown = np.flatnonzero(valid)
    return np.unique(shown[np.linspace(0, len(shown) - 1, _MEASURED_FACES).astype(int)])


def _sync(
    stream: VideoStream, size: tuple[int, int], face: _Face, wave: np.ndarray, settings: PrepareSettings
) -> SyncReading | None:
    """The offset of sound and lips; SyncNet alone, which looks at one face all the time, reads the video again."""
    if settings.sync == "lip_aperture":
        return _aperture_reading(face, wave)
    if settings.sync == "none":
        return None
    meter, number = _SyncNet(face), 0
    for block in stream.blocks(_block(size)):
        meter.update(block, number)
        number += len(block)
    return meter.finish(wave)


def _write_sound(writer: ClipWriter, wave: np.ndarray, settings: PrepareSettings, stages: StageTimes) -> None:
    with stages.timed("features"):
        for kind, extract in extractors(settings).items():
            writer.features(kind, extract.chunks(wave))
    with stages.timed("write"):
        pieces = (wave[i : i + 960_000] for i in range(0, len(wave), 960_000))
        writer.audio(np.clip(np.round(piece * 32768), -32768, 32767).astype(np.int16) for piece in pieces)


@lru_cache(maxsize=2)
def extractors(settings: PrepareSettings) -> dict[str, AudioFeatures]:
    """What makes the features of these settings; a network is loaded once for all clips.

    Raises:
        AudioError, ImportError: a model or a package is missing.
    """
    options = {"wav2vec2": {"model": settings.wav2vec2_model}} if settings.wav2vec2_model else {}
    return {kind: audio_features(kind, **options.get(kind, {})) for kind in settings.features}  # type: ignore[arg-type]


def _meta(
    source: Source, info: VideoInfo, face: _Face, measures: dict[str, Any], settings: PrepareSettings
) -> ClipMeta:
    valid = face.valid
    return ClipMeta(
        clip=source.clip,
        speaker=source.speaker,
        source=source.relative,
        source_sha256=source.sha256(),
        source_bytes=source.bytes,
        source_mtime_ns=source.mtime_ns,
        source_fps=float(info.fps),
        width=info.width,
        height=info.height,
        frames=len(valid),
        valid_frames=int(valid.sum()),
        longest_run=max((len(list(run)) for seen, run in groupby(valid.tolist()) if seen), default=0),
        face_size=settings.face_size,
        settings=settings.record(),
        settings_hash=settings.hash,
        part=source.part,
        split=source.split,
        language=source.language,
        face_choice=shorten(face.following.choice, 400),  # of a video with hundreds of shots it is long
        note=_note(source, info),
        measures=measures,
    )


def _note(source: Source, info: VideoInfo) -> str:
    """Which of several picture or sound tracks were taken, in words that follow the source's name."""
    path = source.audio or source.path
    notes = info.note.removeprefix(f"{source.path} "), probe_audio(path).note.removeprefix(f"{path} ")
    return "; ".join(filter(None, notes))
