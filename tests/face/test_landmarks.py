"""Both detectors on a real clip."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.face.landmarks import landmark_detector

FRAMES = 12


@pytest.fixture(scope="module")
def frames(corpus: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(corpus / "clips" / "spk01_01.mp4"))
    return [np.ascontiguousarray(video.read()[1][:, :, ::-1]) for _ in range(FRAMES)]


@pytest.fixture(scope="module")
def task_file(weights_dir: Path) -> Path:
    pytest.importorskip("mediapipe")
    return next((weights_dir / "face_landmarker").glob("*.task"))


def _detect(frames: list[np.ndarray], **options: object) -> np.ndarray:
    detector = landmark_detector(**options)  # type: ignore[arg-type]
    found = [detector(frame) for frame in frames]
    detector.close()
    assert all(face is not None for face in found)
    return np.stack(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("static", [False, True])
def test_both_models_agree(frames: list[np.ndarray], task_file: Path, static: bool) -> None:
    mesh = _detect(frames, static=static)
    task = _detect(frames, model=task_file, static=static)
    assert mesh.shape == task.shape == (FRAMES, 131, 2)
    assert mesh.dtype == task.dtype == np.float32
    size = np.ptp(mesh, axis=1).max()
    assert np.linalg.norm(mesh - task, axis=-1).mean() / size < 0.02


def test_tracking_agrees_with_detecting_every_frame(frames: list[np.ndarray]) -> None:
    tracked, static = _detect(frames), _detect(frames, static=True)
    size = np.ptp(static, axis=1).max()
    assert np.linalg.norm(tracked - static, axis=-1).mean() / size < 0.02


@pytest.mark.parametrize("model", ["face_mesh", "task"])
def test_tracking_recovers_after_the_face_was_gone(
    frames: list[np.ndarray], model: str, request: pytest.FixtureRequest
) -> None:
    detector = landmark_detector(request.getfixturevalue("task_file") if model == "task" else None)
    dark = np.zeros_like(frames[0])
    assert detector(dark) is None
    before = detector(frames[0])
    assert all(detector(dark) is None for _ in range(3))
    # FaceLandmarker may need a frame to start following again.
    after = next(face for face in (detector(frames[0]) for _ in range(3)) if face is not None)
    detector.close()
    assert before is not None
    assert np.linalg.norm(after - before, axis=-1).mean() / np.ptp(before, axis=0).max() < 0.03


def test_nothing_on_the_error_stream(frames: list[np.ndarray], capfd: pytest.CaptureFixture[str]) -> None:
    _detect(frames)
    assert capfd.readouterr().err == ""


def test_landmark_detector_with_a_task_but_without_mediapipe_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (tmp_path / "face.task").touch()
    with pytest.raises(ImportError, match=r"pip install 'stsa_lightning\[mediapipe\]'"):
        landmark_detector(tmp_path / "face.task")


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.task"):
        landmark_detector(tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match="leave it out"):
        landmark_detector(tmp_path / "absent.task")
    detector = landmark_detector()
    with pytest.raises(ValueError, match="uint8 RGB"):
        detector(np.zeros((10, 10), np.uint8))
    detector.close()
