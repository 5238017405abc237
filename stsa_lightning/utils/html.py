"""Pages that need nothing else: one HTML file, pictures within it."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

from stsa_lightning.utils.errors import required


def render(package: str | None, **values: Any) -> str:
    """The template `page.html.j2` of a package, which extends `base.html.j2`, with these values, which are escaped.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    jinja2 = required("jinja2", "a report's page needs jinja2: pip install jinja2")
    places = {"base.html.j2": __package__, "page.html.j2": package}
    texts = {name: resources.files(str(place)).joinpath(name).read_text("utf-8") for name, place in places.items()}
    options: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=jinja2.DictLoader(texts), trim_blocks=True, lstrip_blocks=True, **options)
    return environment.get_template("page.html.j2").render(**values)


def data_uri(jpeg: bytes) -> str:
    """A picture as a page holds it within itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
