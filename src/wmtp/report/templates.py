"""The templates of pages, and the style that they share."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def templates() -> Environment:
    """Return the templates of this package. What they are given is escaped."""
    return Environment(
        loader=PackageLoader("wmtp.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> Markup:
    """Return the style sheet of all pages."""
    return Markup(resources.files("wmtp.report").joinpath("page.css").read_text("utf-8"))
