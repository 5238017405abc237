"""`stsa experiments`: list the settings that come with the package, or copy them to change them."""

from __future__ import annotations

import argparse
import filecmp
from pathlib import Path

from stsa_lightning.cli.command import command
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.experiments import experiments_dir


def add(commands: argparse._SubParsersAction) -> None:
    text = "the settings that come along: experiments, ablations, sweeps, protocols, published rows"
    actions = commands.add_parser("experiments", help=text, description=text).add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    command(actions, "list", _list, "names, as -c takes them, each with its first line")
    copy = command(actions, "copy", _copy, "copy them into a folder; what lies there is not overwritten")
    copy.add_argument("folder", type=Path, help="where to, such as experiments")
    copy.add_argument("names", nargs="*", metavar="NAME", help="these alone, as `stsa experiments list` names them")
    copy.add_argument("--overwrite", action="store_true", help="replace files that were changed")


def settings() -> dict[str, Path]:
    """The files that come along, by name: `hdtf`, `ablations/no_cil`."""
    root = experiments_dir()
    files = sorted(root.rglob("*.yaml"), key=lambda path: (len(path.relative_to(root).parts), path))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def _list(arguments: argparse.Namespace) -> None:
    found = settings()
    width = max(map(len, found))
    for name, path in found.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<{width}}  {first.lstrip('# ')}")


def _copy(arguments: argparse.Namespace) -> None:
    root, found = experiments_dir(), settings()
    if unknown := sorted({*arguments.names} - found.keys()):
        raise UserError(f"experiments copy: expected names of `stsa experiments list`, got {', '.join(unknown)}")
    sources = [found[name] for name in arguments.names] or [root / "README.md", *found.values()]
    targets = {source: arguments.folder / source.relative_to(root) for source in sources}
    changed = [str(to) for source, to in targets.items() if to.exists() and not filecmp.cmp(source, to, shallow=False)]
    if changed and not arguments.overwrite:
        raise UserError(
            f"{', '.join(changed)}: there already, and different; nothing was copied. Choose another folder, name the "
            "files to copy, or say --overwrite"
        )
    for source, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    print(f"{len(targets)} files: {arguments.folder}/")
