"""What every command of the parser has in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_allow_class(parser: argparse.ArgumentParser) -> None:
    """The option by which users allow a checkpoint to name networks of their own; `main` acts on it."""
    parser.add_argument(
        "--allow-class",
        action="append",
        default=[],
        metavar="CLASS",
        help="class path of a network of your own that the checkpoint may use; its code is imported",
    )


def command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """A command, or an action of one, that calls `run` with its arguments."""
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def resolution(text: str) -> int | str:
    """Of a rendered face: pixels, or a word that `Dubber` knows."""
    return int(text) if text.isdecimal() else text
