"""The words of a command line, put right or refused before a parser misreads them."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.experiments import experiment_path

_CONFIG = ("-c", "--config")
_WHOLE = ("--model", "--data", "--trainer")  # a class, or a file of settings: what follows a dot is set in it


class Parser(argparse.ArgumentParser):
    """A parser that hints at names with a leading dash, which it takes for options."""

    def error(self, message: str) -> NoReturn:
        if re.search(r"(?<![\w./-])-{1,2}[^\s=-][^\s=]*\.\w{2,5}\b", message) or "expected one argument" in message:
            message += "\n(a name that begins with a dash: write it with its folder, as in ./-take1.mp4)"
        super().error(message)


def check_dashes(words: Sequence[str]) -> None:
    """Raises UserError for a word that would be read as an option, but is the name of a file that is there."""
    for word in words[: words.index("--")] if "--" in words else words:
        if len(word) > 2 and word.startswith("-") and "." in word and os.path.exists(word):
            raise UserError(
                f"{word}: a file whose name begins with a dash is read as an option: write it with its folder, ./{word}"
            )


def check_first(words: Sequence[str], commands: Collection[str]) -> None:
    """Raises UserError where options stand before the command."""
    if not words or not words[0].startswith("-") or words[0] in {"-h", "--help", "--version"}:
        return
    for place, word in enumerate(words):
        if word in commands:
            rest = " ".join((*words[:place], *words[place + 1 :]))
            raise UserError(f"the command comes first: stsa {word} {rest}")
    raise UserError(f"expected a command before {words[0]}: one of {', '.join(commands)} (see stsa --help)")


def files_first(words: Sequence[str]) -> list[str]:
    """Options of a Lightning command so that those said one by one hold, wherever they stand.

    Settings are read from left to right and the last one holds: a file of settings after an option would undo it.
    Files come first, in their order, then what sets a whole group, then all others as they are. Files that the
    working folder lacks are those of the package.
    """
    files: list[str] = []
    groups: list[str] = []
    others: list[str] = []
    left = [part for word in words for part in _detached(word)]
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        taken = files if name in _CONFIG else groups if name in _WHOLE else others
        taken.append(word)
        if taken is not others and not equals and left:
            value = left.pop(0)
            taken.append(str(experiment_path(value)) if taken is files else value)
    return [*files, *groups, *others]


def _detached(word: str) -> list[str]:
    if word.startswith("-c") and word != "-c":
        return ["-c", word[2:].removeprefix("=")]
    name, equals, value = word.partition("=")
    return [name, value] if equals and name in _CONFIG else [word]


@contextmanager
def lightning_words() -> Iterator[None]:
    """Lightning's complaints about settings, in one line."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    # The words are handed over in another order than they were given in, which Lightning takes for a mistake.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    try:
        yield
    except MisconfigurationException as error:
        words = " ".join(str(error).split())
        hint = "; raise --trainer.max_epochs to go on" if "max_epochs" in words else ""
        raise UserError(f"{words.rstrip('.')}{hint}") from error
