"""``stsa dub``: a video and new speech in, a dubbed video out."""

from __future__ import annotations

import argparse
from pathlib import Path

from stsa_lightning.cli.command import command
from stsa_lightning.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "dub", _dub, "redraw the mouth of a video so that it says new speech")
    parser.add_argument("video", type=Path, help="video of a speaking face; any frame rate and size")
    parser.add_argument("audio", type=Path, help="new speech: sound file, or a video's sound")
    parser.add_argument("-o", "--out", type=Path, required=True, help="dubbed video (.mp4)")
    parser.add_argument("--checkpoint", type=Path, help="trained networks: .ckpt of a run, or .safetensors")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    parser.add_argument("--block", type=int, default=16, help="frames per batch; memory grows with it")
    parser.add_argument("--landmark-model", type=Path, help="a face_landmarker .task file in place of FaceMesh")


def _dub(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None:
        raise UserError(
            "dub needs trained networks: --checkpoint RUN/last.ckpt (train one: stsa fit -c experiments/sample.yaml, "
            "or make demo) or --checkpoint released.safetensors (import the authors' two .pth files: "
            "stsa weights import GUIDANCE.pth SYNTHESIS.pth -o released.safetensors)"
        )
    from stsa_lightning.dubbing import Dubber
    from stsa_lightning.face.landmarks import landmark_detector

    dubber = Dubber.from_checkpoint(
        arguments.checkpoint,
        device=arguments.device,
        detector=landmark_detector(arguments.landmark_model) if arguments.landmark_model else None,
        block=arguments.block,
    )
    print(dubber.dub(arguments.video, arguments.audio, arguments.out))
