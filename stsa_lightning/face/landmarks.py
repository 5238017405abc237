"""Face landmarks from MediaPipe, behind one small interface.

Two models give the same 478 points: the FaceMesh solution, whose weights come with mediapipe 0.10.21, and the newer
FaceLandmarker task, whose `.task` file is downloaded apart.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stsa_lightning.face.topology import LANDMARKS

_NO_FACE = np.zeros((64, 64, 3), np.uint8)
_FRAME_MS = 40  # the step of the time stamps that FaceLandmarker wants; only their order matters to it


class LandmarkDetector(Protocol):
    """Finds the faces of one frame; in tracking mode, of the frames of one video in their order."""

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB -> (131, 2) float32 x, y in pixels of the frame, as `LANDMARKS`; None: no face."""

    def all_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        """As a call, but every face found, as many as were asked for; their order means nothing."""

    def forget(self) -> None:
        """In tracking mode: the next frame has nothing to do with the last one; look for faces anew."""

    def close(self) -> None:
        """Frees the model."""


def landmark_detector(model: Path | str | None = None, static: bool = False, faces: int = 1) -> LandmarkDetector:
    """A detector of the clearest face, or of several.

    Args:
        model: None for the FaceMesh solution; a `.task` file for FaceLandmarker.
        static: True looks for faces anew in every frame, for unrelated pictures; False follows them from frame to
            frame, which is quicker and steadier, and looks anew once one is lost. Take a new detector for each video.
        faces: the most to find. While fewer than that are found, tracking looks for the others in every frame, which
            takes half as long again: ask for as many as there are.

    Raises:
        ImportError: mediapipe is not installed.
        FileNotFoundError: the model file does not exist.
        ValueError: the model file is of another kind, or `faces` is below 1.
    """
    if faces < 1:
        raise ValueError(f"faces: expected at least 1, got {faces}")
    if model is None:
        return FaceMeshDetector(static, faces)
    path = Path(model)
    if path.suffix != ".task":
        raise ValueError(f"model: expected a FaceLandmarker file ending in .task, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"model: the FaceLandmarker file {path} does not exist; leave it out to use FaceMesh")
    return FaceLandmarkerDetector(path, static, faces)


class _MediaPipeDetector(ABC):
    """What both models share. `_find` gives the points of every face, as shares of the picture."""

    _face_seen = False

    @abstractmethod
    def _find(self, frame: np.ndarray) -> Sequence[Any]: ...

    def all_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        frame = _checked(frame)
        with nullcontext() if self._face_seen else _native_log_silenced():
            faces = self._find(frame)
        self._face_seen |= bool(faces)
        return [_to_pixels(points, frame) for points in faces]

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        return next(iter(self.all_faces(frame)), None)

    def forget(self) -> None:
        # A picture without a face loses what was followed, in a fraction of the time that resetting the model takes.
        self._find(_NO_FACE)


class FaceMeshDetector(_MediaPipeDetector):
    """The FaceMesh solution with refined lips and eyes (478 points)."""

    def __init__(self, static: bool = False, faces: int = 1) -> None:
        mediapipe = _import_mediapipe()
        with _native_log_silenced():
            self._mesh = mediapipe.solutions.face_mesh.FaceMesh(
                static_image_mode=static, max_num_faces=faces, refine_landmarks=True
            )
            self._find(_NO_FACE)

    def _find(self, frame: np.ndarray) -> Sequence[Any]:
        return [face.landmark for face in self._mesh.process(frame).multi_face_landmarks or ()]

    def close(self) -> None:
        self._mesh.close()


class FaceLandmarkerDetector(_MediaPipeDetector):
    """The FaceLandmarker task (478 points)."""

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

    def _find(self, frame: np.ndarray) -> Sequence[Any]:
        if self._static:
            return self._landmarker.detect(self._image(frame)).face_landmarks
        self._time_ms += _FRAME_MS
        return self._landmarker.detect_for_video(self._image(frame), self._time_ms).face_landmarks

    def close(self) -> None:
        self._landmarker.close()


class FaceCounter:
    """How many faces a frame shows: MediaPipe's short-range detector alone, in half the time that landmarks take."""

    def __init__(self) -> None:
        mediapipe = _import_mediapipe()
        with _native_log_silenced():
            self._detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=0)
            self._detector.process(_NO_FACE)

    def __call__(self, frame: np.ndarray) -> int:
        """(H, W, 3) uint8 RGB -> number of faces."""
        return len(self.scores(frame))

    def scores(self, frame: np.ndarray) -> list[float]:
        """(H, W, 3) uint8 RGB -> how sure it is of each face, in [0.5, 1]."""
        return [float(found.score[0]) for found in self._detector.process(_checked(frame)).detections or ()]

    def close(self) -> None:
        self._detector.close()


def _import_mediapipe() -> Any:
    try:
        with _native_log_silenced():
            import mediapipe
    except ImportError as error:
        raise ImportError(
            "finding faces needs mediapipe: pip install mediapipe==0.10.21 (training on a prepared corpus does not)"
        ) from error
    return mediapipe


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    return np.ascontiguousarray(frame)


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
