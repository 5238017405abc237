"""MediaPipe's FaceLandmarker tasks, whose `.task` file and package are installed apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.face.face_detector import checked_frame
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.media.shown_frame import Frame
from stsa_lightning.utils.errors import MissingPackageError

_NO_FACE = np.zeros((64, 64, 3), np.uint8)
_FRAME_MS = 40  # the step of the time stamps that the task wants; only their order matters to it


class FaceLandmarkerDetector:
    """Finds landmarks (478 points); see `landmark_detector`."""

    _face_seen = False

    def __init__(self, model: Path, static: bool = False, faces: int = 1) -> None:
        mediapipe = _import_mediapipe()
        tasks = mediapipe.tasks
        mode = tasks.vision.RunningMode.IMAGE if static else tasks.vision.RunningMode.VIDEO
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=model.read_bytes()), running_mode=mode, num_faces=faces
        )
        self._image = lambda frame: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=frame)
        self._static = static
        self._time_ms = 0
        with _native_log_silenced():
            self._landmarker = tasks.vision.FaceLandmarker.create_from_options(options)
            self._find(_NO_FACE)

    def all_faces(self, frame: Frame) -> list[np.ndarray]:
        frame = np.ascontiguousarray(checked_frame(frame))
        with nullcontext() if self._face_seen else _native_log_silenced():
            faces = self._find(frame)
        self._face_seen |= bool(faces)
        return [_to_pixels(points, frame) for points in faces]

    def __call__(self, frame: Frame) -> np.ndarray | None:
        return next(iter(self.all_faces(frame)), None)

    def forget(self) -> None:
        # A picture without a face loses what was followed, in a fraction of the time that resetting the model takes.
        self._find(_NO_FACE)

    def close(self) -> None:
        self._landmarker.close()

    def _find(self, frame: np.ndarray) -> Any:
        """The points of every face, as shares of the picture."""
        if self._static:
            return self._landmarker.detect(self._image(frame)).face_landmarks
        self._time_ms += _FRAME_MS
        return self._landmarker.detect_for_video(self._image(frame), self._time_ms).face_landmarks


def _import_mediapipe() -> Any:
    try:
        with _native_log_silenced():
            import mediapipe
    except ImportError as error:
        raise MissingPackageError(
            "landmarks by a .task file need MediaPipe: pip install 'stsa_lightning[mediapipe]', or leave the file out"
        ) from error
    return mediapipe


def _to_pixels(points: Any, frame: np.ndarray) -> np.ndarray:
    xy = np.array([(points[i].x, points[i].y) for i in LANDMARKS.tolist()], dtype=np.float32)
    return xy * np.array([frame.shape[1], frame.shape[0]], dtype=np.float32)


@contextmanager
def _native_log_silenced() -> Iterator[None]:
    # MediaPipe's native code writes lines to the standard error stream for every model it loads and has no switch
    # for it: while it loads, which it does in the background until the first answer, and at the first face it finds.
    stderr = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(sink)
