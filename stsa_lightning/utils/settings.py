"""Typed settings that may also come as names and values, as a checkpoint or plain Python gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from stsa_lightning.utils.errors import UserError

Settings = TypeVar("Settings")


def settled(kind: type[Settings], value: Any) -> Settings:
    """`value` as the dataclass `kind`, of which it is one already or whose fields it maps to values.

    Raises:
        UserError: a name that `kind` does not have.
    """
    if isinstance(value, Mapping):
        known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
        if unknown := value.keys() - set(known):
            raise UserError(f"{kind.__name__}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
        return kind(**value)
    return value
