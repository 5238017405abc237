"""Videos in, a prepared corpus out: one clip file for each video, and an index of what was found.

A run can be stopped and started again at any point: it does what is missing, and what changed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np

from stsa_lightning.audio import SAMPLE_RATE_HZ, AudioFeatures, FeatureKind, audio_features, load_audio
from stsa_lightning.data.clip import FORMAT_VERSION, FPS, Clip, ClipError, ClipMeta, encode_face, write_clip
from stsa_lightning.data.index import clip_path, load_index, save_index
from stsa_lightning.data.sources import Source, find_sources
from stsa_lightning.errors import UserError
from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.video import VideoInfo, VideoReader, probe

_BLOCK_BYTES = 64 << 20  # decoded frames held at a time
_SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class PrepareSettings:
    """What decides the contents of a clip file; another setting makes another corpus.

    Args:
        face_size: side of the stored faces, pixels.
        margin_px: added on each side of the landmarks' box, pixels of the video.
        features: kinds of audio features to store.
        min_frames: fewest frames with a face, at 25/s; a video with fewer is rejected.
        landmark_model: a FaceLandmarker `.task` file; None for MediaPipe's FaceMesh.
        wav2vec2_model: name or folder of another wav 2 vec 2.0 model; None for the usual one.
    """

    face_size: int = 128
    margin_px: int = 5
    features: tuple[str, ...] = ("logmel",)
    min_frames: int = 25
    landmark_model: str | None = None
    wav2vec2_model: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"face_size": 16, "margin_px": 0, "min_frames": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        kinds = get_args(FeatureKind)
        if not self.features or set(self.features) - set(kinds):
            raise UserError(f"features: expected one or more of {list(kinds)}, got {list(self.features)}")

    def record(self) -> dict[str, Any]:
        """The settings as kept in clip files; of model files the name alone, so that they may move."""
        models = {k: v and Path(v).name for k, v in asdict(self).items() if k.endswith("_model")}
        return {**asdict(self), "features": list(self.features), **models}

    @property
    def hash(self) -> str:
        """Identifies the settings and the clip format."""
        text = json.dumps([FORMAT_VERSION, self.record()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class PrepareReport:
    """What a run did. `rejected` holds (source, reason), whether found now or in an earlier run."""

    prepared: int = 0
    reused: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        speed = f", {self.frames / self.seconds:.0f} frames/s" if self.frames else ""
        lines = [
            f"prepared {self.prepared}, kept {self.reused}, rejected {len(self.rejected)} ({self.seconds:.1f} s{speed})"
        ]
        return "\n".join(lines + [f"  rejected {source}: {reason}" for source, reason in self.rejected])


class RejectedError(ValueError):
    """A video that cannot be part of a corpus; the message is the reason."""


def prepare_folder(
    root: Path | str,
    out: Path | str,
    settings: PrepareSettings | None = None,
    *,
    speaker_pattern: str | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Prepare every video below a folder; what an earlier run prepared under the same settings is kept.

    A frame without a face is marked. A video that cannot be read, has no sound or too few frames with a face is listed
    in the index with the reason, and the run goes on.

    Args:
        root: folder with videos at any depth.
        out: folder for the corpus: `clips/SPEAKER/...` and the index.
        settings: see `PrepareSettings`.
        speaker_pattern: says who speaks; see `find_sources`. By default the first folder below `root`.
        limit: only the first so many videos, in the order of their paths.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: `root`, or a model of the settings, does not exist.
        UserError: no video below `root`.
        ImportError: a package that preparation needs is missing.
    """
    settings = settings or PrepareSettings()
    sources = find_sources(root, speaker_pattern)[:limit]
    run = _Run(Path(root), Path(out), settings)
    try:
        for source in _tracked(sources, progress):
            run.do(source)
    finally:
        run.finish()
    return run.report


class _Run:
    """One pass over the sources: the index so far and the report."""

    def __init__(self, root: Path, out: Path, settings: PrepareSettings) -> None:
        self.out, self.settings = out, settings
        self.features = _feature_extractors(settings)
        landmark_detector(settings.landmark_model).close()  # what is amiss with the model shows before the work begins
        self.rows = _standing_rows(root, out, settings.hash)
        self.report = PrepareReport()
        self._started = self._saved = time.monotonic()

    def do(self, source: Source) -> None:
        row = _reusable(source, self.out, self.rows.get(source.clip), self.settings.hash)
        if row is None:
            row = self._prepare(source)
        elif row["status"] == "ok":
            self.report.reused += 1
        if row["status"] == "rejected":
            self.report.rejected.append((source.relative, row["reason"]))
        self.rows[source.clip] = row
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self._save()

    def _prepare(self, source: Source) -> dict[str, Any]:
        try:
            meta = prepare_clip(source, self.out, self.settings, self.features)
        except (ValueError, RuntimeError, EOFError) as error:  # of the decoders and the detector, about this one file
            reason = str(error).removeprefix(f"{source.path}: ")
            return {**_empty_row(source, self.settings.hash), "status": "rejected", "reason": reason}
        self.report.prepared += 1
        self.report.frames += meta.frames
        return _row(source, meta)

    def _save(self) -> None:
        save_index(self.out, list(self.rows.values()))
        self._saved = time.monotonic()

    def finish(self) -> None:
        self._save()
        self.report.seconds = time.monotonic() - self._started


def prepare_clip(source: Source, out: Path, settings: PrepareSettings, features: dict[str, AudioFeatures]) -> ClipMeta:
    """Prepare one video into its clip file.

    Raises:
        RejectedError, VideoError, AudioError: it cannot be part of the corpus.
    """
    info = probe(source.path)
    if not info.has_audio:
        raise RejectedError("has no sound")
    wave = load_audio(source.path)
    with VideoReader(source.path, fps=FPS) as reader, closing(landmark_detector(settings.landmark_model)) as detect:
        if len(reader) < settings.min_frames:
            raise RejectedError(f"too short: {len(reader)} frames at {FPS}/s, expected {settings.min_frames} or more")
        block = max(1, _BLOCK_BYTES // (info.width * info.height * 3))
        found = [_find_face(frame, detect, settings) for frames in reader.blocks(block) for frame in frames]
    valid = np.array([picture != b"" for picture, _, _ in found])
    if valid.sum() < settings.min_frames:
        raise RejectedError(
            f"too few faces: {valid.sum()} of {len(valid)} frames, expected {settings.min_frames} or more"
        )
    wave = wave[: len(found) * SAMPLE_RATE_HZ // FPS]
    meta = _meta(source, info, valid, settings)
    write_clip(
        clip_path(out, source.clip),
        meta,
        faces=[picture for picture, _, _ in found],
        landmarks=np.stack([landmarks for _, landmarks, _ in found]),
        boxes=np.stack([box for _, _, box in found]),
        valid=valid,
        audio=np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16),
        features={kind: extract(wave) for kind, extract in features.items()},
    )
    return meta


def _find_face(
    frame: np.ndarray, detect: LandmarkDetector, settings: PrepareSettings
) -> tuple[bytes, np.ndarray, np.ndarray]:
    """JPEG (empty without a face), landmarks and box of a frame."""
    landmarks = detect(frame)
    if landmarks is not None:
        try:
            box = face_box(landmarks, (frame.shape[1], frame.shape[0]), settings.margin_px)
        except ValueError:  # tracked out of the frame
            landmarks = None
    if landmarks is None:
        return b"", np.full((len(LANDMARKS), 2), np.nan, np.float32), np.zeros(4, np.int32)
    return encode_face(crop_face(frame, box, settings.face_size)), landmarks, box


def _meta(source: Source, info: VideoInfo, valid: np.ndarray, settings: PrepareSettings) -> ClipMeta:
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
        longest_run=max((len(list(run)) for face, run in groupby(valid.tolist()) if face), default=0),
        face_size=settings.face_size,
        settings=settings.record(),
        settings_hash=settings.hash,
    )


def _feature_extractors(settings: PrepareSettings) -> dict[str, AudioFeatures]:
    options = {"wav2vec2": {"model": settings.wav2vec2_model}} if settings.wav2vec2_model else {}
    return {kind: audio_features(kind, **options.get(kind, {})) for kind in settings.features}  # type: ignore[arg-type]


def _standing_rows(root: Path, out: Path, settings_hash: str) -> dict[str, dict[str, Any]]:
    """Lines of an earlier run under the same settings that still hold, by clip."""
    try:
        rows = [{str(name): value for name, value in row.items()} for row in load_index(out).to_dict("records")]
    except (FileNotFoundError, UserError):  # none yet, or one to be written anew
        return {}
    return {
        row["clip"]: row
        for row in rows
        if row["settings_hash"] == settings_hash
        and (clip_path(out, row["clip"]) if row["status"] == "ok" else root / row["source"]).is_file()
    }


def _reusable(source: Source, out: Path, row: dict[str, Any] | None, settings_hash: str) -> dict[str, Any] | None:
    """The line of a source that was dealt with before and has not changed since; None if there is work to do."""
    if row is not None and (row["source_bytes"], row["source_mtime_ns"]) == (source.bytes, source.mtime_ns):
        return row
    path = clip_path(out, source.clip)
    if not path.is_file():
        return None
    try:
        meta = Clip.open(path).meta
    except ClipError:
        return None
    if meta.settings_hash != settings_hash or meta.source_bytes != source.bytes:
        return None
    if meta.source_mtime_ns != source.mtime_ns and meta.source_sha256 != source.sha256():
        return None
    return _row(source, meta)


def _row(source: Source, meta: ClipMeta) -> dict[str, Any]:
    return {
        **_empty_row(source, meta.settings_hash),
        "frames": meta.frames,
        "valid_frames": meta.valid_frames,
        "longest_run": meta.longest_run,
        "duration_s": meta.frames / FPS,
        "width": meta.width,
        "height": meta.height,
        "fps": meta.source_fps,
        "features": ",".join(meta.settings["features"]),
        "status": "ok",
    }


def _empty_row(source: Source, settings_hash: str) -> dict[str, Any]:
    return {
        "clip": source.clip,
        "speaker": source.speaker,
        "source": source.relative,
        **dict.fromkeys(("frames", "valid_frames", "longest_run", "width", "height"), 0),
        **dict.fromkeys(("duration_s", "fps"), 0.0),
        **dict.fromkeys(("features", "reason"), ""),
        "settings_hash": settings_hash,
        "source_bytes": source.bytes,
        "source_mtime_ns": source.mtime_ns,
    }


def _tracked(sources: list[Source], progress: bool) -> Iterator[Source]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("", total=len(sources))
        for source in sources:
            bar.update(task, description=source.relative)
            yield source
            bar.advance(task)
