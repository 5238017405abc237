"""Every benchmark runs, as small as it can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"common.py", "covers.py", "straightforward.py"}  # what the others import
SMALL = {
    "calibration.py": "CLIP --seconds 0.4 --skip LPIPS CSIM",
    "dataloader.py": "--data PREPARED --sizes 64 --workers 0 --windows 8 --runs 1",
    "dub.py": "--clip CLIP --size tiny --frames 2 --runs 1 --no-small",
    "dub_memory.py": "--minutes 0.05 --still",
    "encoding.py": "CLIP --frames 4 --runs 1",
    "guidance.py": "NETWORKS NETWORKS --data PREPARED --windows 4 --others 1 --json OUT/figures.json",
    "live.py": "--clip CLIP --speech OTHER --utterances 1 --seconds 0.4",
    "live_context.py": "--speech OTHER --clip CLIP --seconds 1",
    "metrics.py": "--frames 16 --runs 1",
    "mouth_motion.py": "measure --data PREPARED --json OUT/figures.json",
    "occlusion.py": "CLIP --frames 4 --covers",
    "pauses.py": "CLIP OTHER",
    "prepare.py": "VIDEOS --clips 1 --runs 1 --skip recipe scaling memory",
    "strip.py": "CLIP OTHER -o OUT/strip.png --count 2",
    "sync.py": "speed",
    "whole_dub.py": "CLIP OTHER --sides 96 --frames 4 --runs 1",
    "train_step.py": "--size tiny --batches 2 --steps 1 --warm 1 --variants fp32",
}


def test_no_benchmark_is_forgotten():
    assert {path.name for path in BENCHMARKS.glob("*.py")} - SHARED == SMALL.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(
    name: str,
    sample_root: Path,
    prepared_sample: Path,
    tiny_guidance: Guidance,
    tiny_synthesis: Synthesis,
    tmp_path: Path,
):
    clips = sorted(sample_root.rglob("*.mp4"))
    named = {"CLIP": clips[0], "OTHER": clips[-1], "VIDEOS": sample_root, "PREPARED": prepared_sample, "OUT": tmp_path}
    if "NETWORKS" in SMALL[name]:
        meta = {"features": "logmel", "num_frames": 5}
        named["NETWORKS"] = save_networks(tmp_path / "tiny.safetensors", tiny_guidance, tiny_synthesis, meta)
    words = [str(Path(str(named[head])) / rest) if rest else str(named.get(head, head)) for head, rest in split(name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(BENCHMARKS / name), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def split(name: str) -> list[tuple[str, str]]:
    """The words of a benchmark's small run, what stands for a folder apart from what is in it."""
    parts = [word.partition("/") for word in SMALL[name].split()]
    return [(head, rest) if head == "OUT" else (head + slash + rest, "") for head, slash, rest in parts]
