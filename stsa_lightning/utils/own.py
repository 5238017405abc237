"""Parts of one's own by class path: found where settings name them, never because a checkpoint does."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from stsa_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn

ALLOWED = "STSA_ALLOW_CLASSES"  # of the environment: class paths, with commas between them

Kind = TypeVar("Kind")


def imported(class_path: str, base: type[Kind], option: str) -> type[Kind]:
    """The class at `class_path`, such as `mine.losses.Sharpness`, which `option` asks for.

    Raises:
        UserError: there is no such class, or it is no `base`.
    """
    module, _, name = class_path.rpartition(".")
    expected = f"the path of a {base.__name__}, such as mine.{base.__name__}"
    if not module:
        raise UserError(f"{option}: expected {expected}, got {class_path!r}")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{option}: expected {expected}; {class_path} cannot be imported ({error}). Install its package, or add "
            "its folder to PYTHONPATH"
        ) from error
    if not isinstance(found, type) or not issubclass(found, base):
        raise UserError(f"{option}: expected {expected}; {class_path} is {found!r}")
    return found


def class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def is_own(said: object) -> bool:
    """Whether settings name a class."""
    return isinstance(said, Mapping) and "class_path" in said


def description(network: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of a network: its settings, and its class where that is not the package's."""
    kind = type(network)
    settings = cast(dict[str, Any], network.settings)
    if kind.__module__.split(".")[0] == __name__.split(".")[0]:
        return settings
    return {"class_path": class_path(kind), "init_args": settings}


def allow_classes(paths: Collection[str]) -> None:
    """Let checkpoints be read that name these classes, in this process and in those that it starts."""
    if paths:
        os.environ[ALLOWED] = ",".join([*_allowed(), *paths])


def _allowed() -> list[str]:
    return [path.strip() for path in os.environ.get(ALLOWED, "").split(",") if path.strip()]


def allowed(class_path: str, base: type[Kind], source: str, also: Collection[str] = ()) -> type[Kind]:
    """A class that a checkpoint names, imported if the user has named it, too.

    Those of `allow_classes` are allowed, and `also` these.

    Raises:
        UserError: the user has not named it, or there is no such class.
    """
    if class_path not in {*_allowed(), *also}:
        raise UserError(
            f"{source}: its networks are {class_path}, code that does not come with this package and is not run "
            f"unasked. If you trust it: --allow-class {class_path} (or {ALLOWED}={class_path})"
        )
    return imported(class_path, base, source)
