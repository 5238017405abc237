"""`stsa faces`: who is seen in a video, when, and who speaks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stsa_lightning.cli.command import add_progress, command, progress_of


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "faces", _faces, "list the people of a video: when each is seen and speaks, and an id")
    parser.add_argument("video", type=Path, help="a video of any rate and size")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="people.json, or people.html, a page with pictures; their ids are for `stsa dub --face` and --segments",
    )
    parser.add_argument("--landmark-model", type=Path, help="a face_landmarker .task file in place of FaceMesh")
    parser.add_argument("--json", action="store_true", help="print the people as one JSON object, for scripts")
    add_progress(parser)


def _faces(arguments: argparse.Namespace) -> None:
    from stsa_lightning.dubbing.people_report import checked_out, find_people

    checked_out(arguments.out)
    report = find_people(arguments.video, progress_of(arguments), arguments.landmark_model)
    report.write(arguments.out)
    print(json.dumps(report.json()) if arguments.json else f"{report}\n{arguments.out}", flush=True)
