"""``stsa evaluate``: measure networks on held-out clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from stsa_lightning.cli.command import command
from stsa_lightning.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "evaluate", _evaluate, "measure a checkpoint on held-out clips beside trivial answers and the truth"
    )
    parser.add_argument("--checkpoint", type=Path, help="trained networks: .ckpt of a run, or .safetensors")
    parser.add_argument("--data", type=Path, help="prepared corpus")
    parser.add_argument("--speakers", help="held-out speakers, separated by commas; the checkpoint's own when left out")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of generated frames (.png)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    parser.add_argument("--show", type=Path, help="print the table of an earlier --out file and do nothing else")


def _evaluate(arguments: argparse.Namespace) -> None:
    from stsa_lightning.benchmark import evaluate, load_report

    if arguments.show is not None:
        load_report(arguments.show).print()
        return
    for option in ("checkpoint", "data"):
        if getattr(arguments, option) is None:
            raise UserError(f"evaluate needs --{option} (see stsa evaluate --help)")
    speakers = arguments.speakers.split(",") if arguments.speakers else None
    report = evaluate(arguments.checkpoint, arguments.data, speakers, arguments.device, arguments.sheet)
    report.print()
    if arguments.out is not None:
        report.save(arguments.out)
