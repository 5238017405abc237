"""Peak memory of a dub against its length: 20 seconds and 20 minutes, each in a process of its own.

    python benchmarks/dub_memory.py                       # real landmarks; some ten minutes on two cores
    python benchmarks/dub_memory.py --minutes 5 --still   # the same face everywhere, without a landmark model

The video is a rendered speaker of 160 x 160 pixels, repeated; the speech is as long as the video. The networks are
replaced by a grey patch: what they hold does not depend on the length, and their time would be most of the run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import write_json

from stsa_lightning.data.sample import render_sample
from stsa_lightning.dubbing import Dubber
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.media.shown_frame import Frame
from stsa_lightning.media.video import VideoReader, VideoWriter
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis

FPS, SIDE, RATE_HZ = 25, 160, 44_100


class GreyEngine:
    """Paints the hidden half grey."""

    def encode(self, references: ReferenceInputs) -> None:
        return None

    def guide(self, frames: FrameInputs, references: None, calibrate: Calibrate | None = None) -> Guided:
        return Guided(frames.masked_heatmaps[:, 0], torch.zeros(len(frames), 2, 57))

    def render(self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: None) -> Rendered:
        faces = torch.where(frames.masked_faces == 0, 0.5, frames.masked_faces)
        flow = faces.new_zeros(*chosen.numbers.shape, 2, *faces.shape[-2:])
        return Rendered(faces, flow, torch.ones_like(flow[:, :, :1]))


class StillFace:
    """Finds the same face in every frame."""

    def __init__(self, frame: np.ndarray) -> None:
        detector = landmark_detector(static=True)
        self.landmarks = detector(frame)
        detector.close()

    def __call__(self, frame: Frame) -> np.ndarray | None:
        return self.landmarks

    def all_faces(self, frame: Frame) -> list[np.ndarray]:
        return [] if self.landmarks is None else [self.landmarks]

    def forget(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        """Nothing is open."""


def clip_frames(folder: Path) -> np.ndarray:
    """(50, SIDE, SIDE, 3) of a rendered speaker."""
    render_sample(folder, speakers=1, clips=1, seconds=2.0)
    with VideoReader(next(folder.rglob("*.mp4"))) as reader:
        frames = reader.get(range(len(reader)))
    return np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])


def sound(seconds: float) -> np.ndarray:
    """Noise that comes and goes."""
    rng = np.random.default_rng(0)
    second = (0.2 * rng.standard_normal(RATE_HZ) * np.hanning(RATE_HZ)).astype(np.float32)
    return np.tile(second, int(np.ceil(seconds)))[: round(seconds * RATE_HZ)]


def write_input(path: Path, frames: np.ndarray, seconds: float) -> None:
    count = round(seconds * FPS)
    order = np.concatenate([np.arange(len(frames)), np.arange(len(frames))[-2:0:-1]])
    with VideoWriter(path, FPS, (SIDE, SIDE), sound(seconds), RATE_HZ, crf=23) as writer:
        for k in range(count):
            writer.write(frames[order[k % len(order)]][None])


def measure(video: Path, still: bool) -> dict[str, Any]:
    """Dub a video with its own sound in this process."""
    torch.manual_seed(0)
    with VideoReader(video) as reader:
        detector = StillFace(reader.get([0])[0]) if still else None
    networks = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    dubber = Dubber(*networks, LogMel(), detector=detector, engine=GreyEngine(), check=False)
    begun = time.perf_counter()
    report = dubber.dub(video, video, video.with_name("out.mp4"), progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"frames": report.frames, "peak_mb": round(peak, 1), "seconds": round(time.perf_counter() - begun, 1)}


def children(minutes: float, still: bool) -> Iterator[dict[str, Any]]:
    """The short video and the long one, each made here and dubbed in a new process."""
    for seconds in (20.0, minutes * 60):
        with tempfile.TemporaryDirectory() as name:
            video = Path(name) / "in.mp4"
            maker = [sys.executable, __file__, "--make", str(video), "--seconds", str(seconds)]
            subprocess.run(maker, check=True)
            command = [sys.executable, __file__, "--child", str(video), *(["--still"] if still else [])]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            yield {"length_s": seconds, **json.loads(found.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument(
        "--still", action="store_true", help="no landmark model: the face of the first frame everywhere"
    )
    parser.add_argument("--json", type=Path)
    for hidden in ("--child", "--make"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        with tempfile.TemporaryDirectory() as name:
            write_input(arguments.make, clip_frames(Path(name)), arguments.seconds)
        return
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.still)))
        return
    rows = []
    print("length_s   frames   peak_mb   seconds")
    for row in children(arguments.minutes, arguments.still):
        rows.append(row)
        print(f"{row['length_s']:8.0f} {row['frames']:8d} {row['peak_mb']:9.1f} {row['seconds']:9.1f}", flush=True)
    grown = round(rows[1]["peak_mb"] - rows[0]["peak_mb"], 1)
    print(f"the long one takes {grown} MB more")
    if arguments.json:
        write_json(arguments.json, {"rows": rows, "grown_mb": grown})


if __name__ == "__main__":
    main()
