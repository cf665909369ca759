"""The templates of pages, in which every text of a user is escaped."""

from importlib.resources import files

import jinja2
from markupsafe import Markup


def open_templates() -> jinja2.Environment:
    """Open the templates of `page_parts`, to which filters may be added."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report", "page_parts"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_part(name: str) -> Markup:
    """Return a file of `page_parts` that is no template."""
    part = files("tasks.report").joinpath("page_parts", name)
    return Markup(part.read_text(encoding="utf-8"))  # noqa: S704 our own file
