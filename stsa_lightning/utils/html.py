"""Pages that need nothing else: one HTML file, pictures within it."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

from stsa_lightning.utils.errors import MissingPackageError


def render(package: str | None, **values: Any) -> str:
    """The template `page.html.j2` of a package with these values, which are escaped; a missing one is an error.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingPackageError("a report's page needs jinja2: pip install jinja2") from error
    text = resources.files(package or __package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(**values)


def data_uri(jpeg: bytes) -> str:
    """A picture as a page holds it within itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
