"""The one base class of everything a user can put right."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Any


class UserError(ValueError):
    """Bad input: the message names the file or option, what was expected, what was found, and what to do.

    The command line prints it alone, without a traceback.
    """


class MissingPackageError(UserError, ImportError):
    """A package that an option needs is not installed: the message says how to install it."""


def required(module: str, message: str) -> Any:
    """A module of an optional package.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(message) from error


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises UserError for what is none of the choices."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises UserError for what is less, or no number (NaN)."""
    if not value >= least:
        raise UserError(f"{name} must be {least:g} or more, got {value}")


def check_share(name: str, value: float) -> None:
    """Raises UserError for what is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} must be a share from 0 to 1, got {value}")
