"""``stsa prepare``: videos in, a corpus for training out."""

from __future__ import annotations

import argparse
from pathlib import Path

from stsa_lightning.cli.command import command


def add(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="turn videos into a corpus for training").add_subparsers(
        title="corpora", metavar="CORPUS", required=True
    )
    folder = command(prepare, "folder", _prepare_folder, "any tree of videos; the first folder level names the speaker")
    folder.add_argument("--root", type=Path, required=True, help="folder with the videos")
    folder.add_argument("--speaker-pattern", help="regular expression on the path: its first group names the speaker")
    folder.add_argument("--limit", type=int, help="prepare the first videos only")
    sample = command(prepare, "sample", _prepare_sample, "the embedded sample: rendered speakers with synthetic speech")
    sample.add_argument("--speakers", type=int, default=6, help="rendered speakers")
    sample.add_argument("--clips", type=int, default=2, help="clips of each")
    sample.add_argument("--seconds", type=float, default=4.0, help="length of each clip")
    sample.add_argument("--seed", type=int, default=0, help="of looks, motion and sentences")
    for parser in (folder, sample):
        parser.add_argument("--out", type=Path, required=True, help="folder for clip files and index")
        parser.add_argument("--face-size", type=int, default=128, help="side of the stored faces, pixels")
        parser.add_argument("--features", default="logmel", help="audio features to store, separated by commas")
        parser.add_argument("--landmark-model", help="a face_landmarker .task file in place of MediaPipe's FaceMesh")


def _settings(arguments: argparse.Namespace):
    from stsa_lightning.data.prepare import PrepareSettings

    return PrepareSettings(
        face_size=arguments.face_size,
        features=tuple(arguments.features.split(",")),
        landmark_model=arguments.landmark_model,
    )


def _prepare_folder(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.prepare import prepare_folder

    settings, pattern = _settings(arguments), arguments.speaker_pattern
    print(prepare_folder(arguments.root, arguments.out, settings, speaker_pattern=pattern, limit=arguments.limit))


def _prepare_sample(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.prepare import prepare_folder
    from stsa_lightning.data.sample import render_sample

    videos = arguments.out / "videos"
    render_sample(videos, arguments.speakers, arguments.clips, arguments.seconds, seed=arguments.seed, progress=True)
    print(prepare_folder(videos, arguments.out, _settings(arguments)))
