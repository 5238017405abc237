from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest

from stsa_lightning.face.face_detector import FACE_MESH_ASSETS
from stsa_lightning.utils.onnx_session import onnx_session

MODEL = FACE_MESH_ASSETS / "face_detector.onnx"


def test_onnx_session_of_one_file_is_loaded_once() -> None:
    assert onnx_session(MODEL) is onnx_session(MODEL)


def test_onnx_session_is_made_after_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append("telemetry off"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: calls.append("session"))
    onnx_session.__wrapped__(MODEL)
    assert calls == ["telemetry off", "session"]


def test_onnx_session_without_onnx_runtime_says_what_to_install() -> None:
    script = """
import sys
sys.modules["onnxruntime"] = None
from stsa_lightning.face.landmarks import landmark_detector
try:
    landmark_detector()
except ImportError as error:
    assert "pip install onnxruntime" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
