"""What every command of the parser has in common."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stsa_lightning.models import BUNDLED

if TYPE_CHECKING:
    from stsa_lightning.dubbing.progress import ProgressCallback


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Which networks dub, and where they run."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=BUNDLED,
        help="trained networks: .ckpt of a run, or .safetensors; without it, those that come with the package",
    )
    add_allow_class(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (never tried), or auto")


def add_allow_class(parser: argparse.ArgumentParser) -> None:
    """The option by which users allow a checkpoint to name networks of their own; `main` acts on it."""
    parser.add_argument(
        "--allow-class",
        action="append",
        default=[],
        metavar="CLASS",
        help="class path of a network of your own that the checkpoint may use; its code is imported",
    )


def add_progress(parser: argparse.ArgumentParser) -> None:
    """The option that says how a command tells how far it is; see `progress_of`."""
    parser.add_argument(
        "--progress",
        choices=("bar", "json", "none"),
        help="how far it is: a bar on the terminal (none with --json), JSON lines with stage, frame and total on "
        "standard error, or nothing",
    )


def progress_of(arguments: argparse.Namespace) -> bool | ProgressCallback:
    """What a dub takes as its progress."""
    if arguments.progress == "json":
        from stsa_lightning.dubbing.progress import ProgressLines

        return ProgressLines()
    return arguments.progress == "bar" or (arguments.progress is None and not arguments.json)


def command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """A command, or an action of one, that calls `run` with its arguments."""
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


@contextmanager
def warnings_said(*kinds: type[Warning]) -> Iterator[None]:
    """Warnings of these kinds, all of them, as the program's own messages."""
    with warnings.catch_warnings(record=True) as caught:
        for kind in kinds:
            warnings.simplefilter("always", kind)
        yield
    for warning in caught:
        print(f"stsa: {warning.message}", file=sys.stderr)


def parts(text: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def resolution(text: str) -> int | str:
    """Of a rendered face: pixels, or a word that `Dubber` knows."""
    return int(text) if text.isdecimal() else text
