"""Face landmarks behind one small interface: FaceMesh, which comes with the package, or a FaceLandmarker task."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from stsa_lightning.face.face_landmarker import FaceLandmarkerDetector
from stsa_lightning.face.face_mesh import FaceMeshDetector
from stsa_lightning.media.shown_frame import Frame
from stsa_lightning.utils.errors import UserError


class LandmarkDetector(Protocol):
    """Finds the faces of one frame; in tracking mode, of the frames of one video in their order."""

    def __call__(self, frame: Frame) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB -> (131, 2) float32 x, y in pixels of the frame, as `LANDMARKS`; None: no face."""

    def all_faces(self, frame: Frame) -> list[np.ndarray]:
        """As a call, but every face found, as many as were asked for; their order means nothing."""

    def forget(self) -> None:
        """In tracking mode: the next frame has nothing to do with the last one; look for faces anew."""

    def close(self) -> None:
        """Frees the model."""


def landmark_detector(model: Path | str | None = None, static: bool = False, faces: int = 1) -> LandmarkDetector:
    """A detector of the clearest face, or of several.

    Args:
        model: None for FaceMesh; a `.task` file for MediaPipe's FaceLandmarker.
        static: True looks for faces anew in every frame, for unrelated pictures; False follows them from frame to
            frame, which is quicker and steadier, and looks anew once one is lost. Take a new detector for each video.
        faces: the most to find. While fewer than that are found, tracking looks for the others in every frame, which
            takes half as long again: ask for as many as there are.

    Raises:
        MissingPackageError: a `.task` file without mediapipe, which is an extra of the package; or no ONNX Runtime.
        FileNotFoundError: the model file does not exist.
        UserError: the model file is of another kind.
        ValueError: `faces` is below 1.
    """
    if faces < 1:
        raise ValueError(f"faces: expected at least 1, got {faces}")
    if model is None:
        return FaceMeshDetector(static, faces)
    path = Path(model)
    if path.suffix != ".task":
        raise UserError(f"model: expected a FaceLandmarker file ending in .task, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"model: the FaceLandmarker file {path} does not exist; leave it out to use FaceMesh")
    return FaceLandmarkerDetector(path, static, faces)
