"""A bar on the terminal, for whatever takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: str | ProgressColumn, shown: bool = True, stays: bool = False) -> Progress:
    """A bar of rich's `columns`, on standard error, for a `with` statement.

    Results alone belong on standard output, on which older versions of rich end a bar with an empty line.

    Args:
        columns: what it shows; none: rich's own.
        shown: whether there is a bar at all.
        stays: whether its last state is left on the terminal.
    """
    # Imported here: whoever shows no bar need not wait for rich.
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), disable=not shown, transient=not stays)
