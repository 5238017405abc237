"""The one door: `stsa COMMAND` (also installed as `lightning`).

fit, validate, test and predict are Lightning's own commands on `STSA` and `STSADataModule`; the others
prepare corpora, dub videos, measure and handle weights. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stsa_lightning import __version__
from stsa_lightning.cli import ablate, app, dub, evaluate, experiments, faces, prepare, reproduce, syncnet, weights
from stsa_lightning.cli.help_cache import show_help
from stsa_lightning.cli.interruption import stopped_by
from stsa_lightning.cli.words import Parser, check_dashes, check_first, files_first, lightning_words
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.names import shown_text
from stsa_lightning.utils.own import allow_classes

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")
OWN_COMMANDS = (prepare, dub, faces, app, evaluate, reproduce, ablate, syncnet, experiments, weights)  # by their names
COMMANDS = (*LIGHTNING_COMMANDS, *(module.__name__.rpartition(".")[2] for module in OWN_COMMANDS))

TERMINATED = (["dub"], ["faces"])  # by SIGTERM as by Ctrl-C; Lightning answers it itself


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a user's error ends with one message and status 2, without a traceback.

    `STSA_TRACEBACK=1` shows where it came from.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    # Whatever a library asks for, no checkpoint's code is run in this process.
    os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    try:
        with stopped_by(signal.SIGINT, *([signal.SIGTERM] if words[:1] in TERMINATED else [])), flushed():
            run(words)
    except BrokenPipeError:  # whoever read the output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:  # such as a full disk, or a folder that may not be written to
        if os.environ.get("STSA_TRACEBACK"):
            raise
        print(f"stsa: {shown_text(str(error))}", file=sys.stderr)
        sys.exit(2)
    except pickle.UnpicklingError as error:  # Lightning reads the checkpoint that a run goes on from itself
        from stsa_lightning.utils.safe_load import refusal

        print(f"stsa: --ckpt_path: {refusal(str(error))}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def flushed() -> Iterator[None]:
    """What was printed is written here, where a reader that went away can be told, and not by the interpreter's end."""
    try:
        yield
    except SystemExit:  # as after a help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def run(words: Sequence[str]) -> None:
    check_dashes(words)
    check_first(words, COMMANDS)
    if words and words[0] in LIGHTNING_COMMANDS and words[1:] in (["--help"], ["-h"]):
        show_help(words, lambda: run_lightning(words))
    elif words and words[0] in LIGHTNING_COMMANDS:
        run_lightning(words)
    elif len(words) > 1 and words[0] == "syncnet":
        syncnet.run(words[1:])
    else:
        arguments = build_parser().parse_args(words)
        allow_classes(getattr(arguments, "allow_class", ()))
        arguments.run(arguments)


def run_lightning(words: Sequence[str]) -> None:
    """`fit`, `validate`, `test`, `predict`: settings from YAML files (`-c`) and from the command line.

    Raises:
        UserError: what Lightning calls a misconfiguration, such as a checkpoint that is past the last epoch.
    """
    # Lightning calls jsonargparse by names that it is going to drop; users cannot do anything about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from stsa_lightning.cli.training import STSACLI

    with lightning_words():
        STSACLI(args=[words[0], *files_first(words[1:])])


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="stsa",
        description="STSA visual dubbing. Training: stsa fit | validate | test | predict -c FILE.yaml "
        "(each has its own --help).",
    )
    parser.add_argument("--version", action="version", version=f"stsa {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in LIGHTNING_COMMANDS:
        commands.add_parser(
            name, help=f"Lightning's {name}, from YAML settings: stsa {name} -c experiments/sample.yaml"
        )
    for module in OWN_COMMANDS:
        module.add(commands)
    return parser
