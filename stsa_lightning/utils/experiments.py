"""The settings that come with the package: experiments, ablations, sweeps, protocols and published rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = Path("experiments")


def experiments_dir() -> Path:
    """The folder of the package's own settings: within an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def experiment_path(word: str | Path, kind: str = "") -> Path:
    """The file or folder that a user names, from the package where the working folder lacks it, which is said.

    `hdtf`, `experiments/hdtf.yaml` and `ablations/no_cil` all name settings that come along. A file that exists is
    taken as it is, and so is whatever is not found, for its reader to complain. Plain ones stand in `experiments/KIND`.
    """
    given = Path(word)
    try:
        if given.is_file():
            return given
        name = given.relative_to(_HERE) if given.parts[:1] == _HERE.parts else Path(kind, given)
        if (here := _within(_HERE, name)) is not None:
            return here
        found = None if given.exists() else _within(experiments_dir(), name)
    except OSError:  # settings themselves rather than the name of a file, too long for one
        return given
    if found is None:
        return given
    if "LOCAL_RANK" not in os.environ:  # once, of all the processes of a training
        print(f"stsa: {word} is not in this folder; the package's is used: {found}", file=sys.stderr)
    return found


def protocol_path(word: str | Path) -> Path:
    """As `experiment_path`, of a protocol."""
    return experiment_path(word, "protocols")


def _within(folder: Path, name: Path) -> Path | None:
    paths = (folder / f"{name}.yaml", folder / name)
    return next((path for path in paths if path.exists()), None)
