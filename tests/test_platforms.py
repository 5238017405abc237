"""Other systems, as far as this one can show: what Windows, macOS and ARM lack is taken away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.media.video import VideoReader
from stsa_lightning.training.callbacks import smoke

PACKAGE = Path(__file__).parents[1] / "stsa_lightning"
ELSEWHERE = """
import os, signal, sys
for name in ("fcntl", "resource", "decord", "pwd", "grp"):
    sys.modules[name] = None
del os.pread, os.getuid, signal.SIGUSR1, os.O_DIRECTORY, os.O_NOFOLLOW
"""


def elsewhere(code: str, before: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", before + ELSEWHERE + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_module_imports_without_what_other_systems_lack():
    pytest.importorskip("gradio")
    files = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    modules = sorted(".".join(parts) for parts in files if parts[-1] not in ("__init__", "__main__"))
    assert len(modules) > 150
    # Other packages have guards of their own, and are imported before.
    others = "import av, cv2, filelock, gradio, lightning.pytorch.cli, onnxruntime, pandas, rich, scipy.signal, wandb"
    elsewhere(f"import importlib\nfor name in {modules}: importlib.import_module(name)", others)


def test_disk_array_without_pread_reads_what_was_written():
    code = """
import numpy as np
from stsa_lightning.utils.disk_array import DiskArray
rows = np.arange(30, dtype=np.float32).reshape(10, 3)
array = DiskArray(3)
array.append(rows[:6])
np.testing.assert_array_equal(array[2:4], rows[2:4])
array.append(rows[6:])
np.testing.assert_array_equal(array[:], rows)
"""
    elsewhere(code)


def test_scratch_folder_without_fcntl_goes_with_its_block():
    code = """
from stsa_lightning.utils.scratch import scratch_folder
with scratch_folder("stsa-test-") as folder:
    (folder / "file").write_text("x")
print(folder.exists())
"""
    assert elsewhere(code).strip() == "False"


def test_memory_of_a_dry_run_without_resource_is_not_a_number(monkeypatch: pytest.MonkeyPatch):
    assert 2**24 < smoke.peak_bytes() < 2**40
    monkeypatch.setattr(smoke, "resource", None)
    assert np.isnan(smoke.peak_bytes())


def test_frames_without_decord_are_pyavs(sample_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    video = next(sample_root.rglob("*.mp4"))
    with VideoReader(video, exact=False) as reader:
        numbers = [0, 7, 3, len(reader) - 1]
        frames = reader.get(numbers)
    with VideoReader(video) as exact:
        np.testing.assert_array_equal(frames, exact.get(numbers))
