"""`stsa reproduce`: a corpus's protocol from its videos to the table, in one command that can be stopped."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from stsa_lightning.cli.command import add_allow_class, command, parts, resolution, warnings_said


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "reproduce",
        _reproduce,
        "a corpus's protocol end to end: prepare, generate, measure, table; resumable",
    )
    parser.formatter_class = argparse.HelpFormatter  # defaults are the protocol's
    parser.add_argument("corpus", choices=("hdtf", "lrs2", "cmlr"), help="whose protocol")
    parser.add_argument("--root", type=Path, required=True, help="where the corpus lies, in its authors' layout")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="trained networks: .ckpt of a run, or .safetensors"
    )
    add_allow_class(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of all results; the same command goes on there")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with its hours, and write nothing")
    parser.add_argument(
        "--metrics", type=parts, help="fast (needs no weights), all, or names separated by commas (default: all)"
    )
    parser.add_argument("--clips", type=int, help="measure this many, spread evenly (default: the protocol's)")
    parser.add_argument("--speakers", type=parts, help="who is measured where the corpus has no split, "
                        "separated by commas, or all (default: whom the checkpoint held out)")  # fmt: skip
    parser.add_argument("--lists", type=Path, help="folder of the authors' lists, where they are not found")
    parser.add_argument("--resolution", type=resolution, default="network", help="largest side at which faces are "
                        "rendered and measured besides: network (default, as published), auto, or pixels")  # fmt: skip
    parser.add_argument("--name", default="STSA", help="of the system in the table")
    parser.add_argument("--workers", type=int, default=1, help="processes of the preparation")
    parser.add_argument("--weights-dir", type=Path, help="folder to look for metric weights in first")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (never tried), or auto (default)")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"),
                        help="folder with protocols/ and published/ (default: experiments)")  # fmt: skip


def _reproduce(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.corpora import MissingVideosWarning
    from stsa_lightning.evaluation.reproduction import Reproduction, describe, make_plan, reproduce

    job = Reproduction(**{field.name: getattr(arguments, field.name) for field in fields(Reproduction)})
    with warnings_said(MissingVideosWarning):
        plan = make_plan(job)
    print(describe(job, plan), flush=True)
    if not arguments.dry_run:
        print(reproduce(job, plan).text("markdown"))
