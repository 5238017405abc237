from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stsa_lightning.face.face_detector import FACE_MESH_ASSETS

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_face_mesh.py"


def test_convert_face_mesh_makes_the_files_that_are_shipped(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    mediapipe = pytest.importorskip("mediapipe")
    if mediapipe.__version__ != "0.10.21":
        pytest.skip("later releases of mediapipe carry no models")
    subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], check=True)
    for name in ("face_mesh.onnx", "face_detector.onnx"):
        assert (tmp_path / name).read_bytes() == (FACE_MESH_ASSETS / name).read_bytes()
