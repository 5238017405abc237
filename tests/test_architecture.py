"""The rules that keep the package a house: rooms on floors, imports that run down, no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "stsa_lightning"
# From the ground up: a room may use those before it.
ROOMS = (
    *("constants", "utils", "media", "features", "face"),
    *("models", "losses", "metrics", "inference", "data"),
    *("dubbing", "evaluation", "training", "ablation", "app", "cli"),
)
WITHOUT_LIGHTNING = ("utils", "media", "features", "face", "models", "losses", "metrics", "inference", "dubbing")


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, at whatever place, as far as a name tells a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules() -> dict[str, Path]:
    files = {file: file.relative_to(PACKAGE.parent).with_suffix("").parts for file in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in files.items()}


def test_package_top_holds_rooms_alone():
    loose = {file.stem for file in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "constants"}
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*ROOMS} - {"constants"}


def test_imports_run_down_the_rooms():
    up = []
    for module, file in modules().items():
        room = module.split(".")[1] if "." in module else ""
        for name in imports(file):
            target = name.split(".")[1] if name.startswith("stsa_lightning.") else ""
            if room in ROOMS and target in ROOMS and ROOMS.index(target) > ROOMS.index(room):
                up.append(f"{module} -> {name}")
    assert up == []


def test_imports_make_no_circle_of_files():
    known = modules()
    graph = {module: {n for n in imports(file) if n in known and n != module} for module, file in known.items()}
    for module, used in graph.items():  # a package's face may gather what its files hold
        used -= {name for name in used if module.startswith(f"{name}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_what_is_below_training_knows_no_lightning():
    found = []
    for module, file in modules().items():
        if module.split(".")[1:2] and module.split(".")[1] in WITHOUT_LIGHTNING:
            found += [module for name in imports(file) if name.split(".")[0] == "lightning"]
    assert found == []
