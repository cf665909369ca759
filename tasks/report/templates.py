"""The templates of pages, in which every text of a user is escaped."""

import jinja2


def open_templates() -> jinja2.Environment:
    """Open the templates of `page_parts`, to which filters may be added."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report", "page_parts"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
