"""The help of Lightning's commands, kept: making it imports Lightning and builds a parser of hundreds of options."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path

from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.weights import cache_dir


def show_help(words: Sequence[str], command: Callable[[], object]) -> None:
    """Print what `command` says to `words`, `... --help`: as it was kept, if nothing that it depends on has changed.

    Raises:
        SystemExit: afterwards, as parsers do.
    """
    kept = cache_dir() / "help" / f"{_key(words)}.txt"
    with suppress(OSError):
        print(kept.read_text(encoding="utf-8"), end="")
        sys.exit(0)
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            command()
    except SystemExit as end:
        if not end.code:
            _keep(kept, text.getvalue())
        raise
    finally:
        print(text.getvalue(), end="")


def _key(words: Sequence[str]) -> str:
    """Changes with the words, the packages, this package's files, the terminal's width, and settings in variables."""
    package = Path(__file__).parents[1]
    files = [(str(path), path.stat().st_mtime_ns) for path in sorted(package.rglob("*.py"))]
    packages = [(name, version(name)) for name in ("lightning", "torch", "jsonargparse")]
    variables = sorted(item for item in os.environ.items() if item[0].startswith("STSA_"))
    said = repr((*words, sys.version, shutil.get_terminal_size().columns, packages, files, variables))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _keep(path: Path, text: str) -> None:
    with suppress(OSError):  # a cache that cannot be written to
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
