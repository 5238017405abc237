"""The one base class of everything a user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: the message names the file or option, what was expected, what was found, and what to do.

    The command line prints it alone, without a traceback.
    """


class MissingPackageError(UserError, ImportError):
    """A package that an option needs is not installed: the message says how to install it."""
