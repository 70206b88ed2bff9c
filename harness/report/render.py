"""Pages to text. Whatever a service could have put into a page is escaped: control characters always."""

import re
from pathlib import Path

import jinja2

from holdfast.harness.report.page import Page

__all__ = ["cell", "plain", "render_markdown"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|])")


def plain(text: str) -> str:
    """One line without control or direction characters; each becomes its visible escape."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text.replace("\n", " ").replace("\t", " "))


def cell(text: str) -> str:
    """Plain, and nothing in it is Markdown."""
    return _MARKUP.sub(r"\\\1", plain(text))


def render_markdown(page: Page) -> str:
    """`results/SANDBOX-REPORT.md`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown, where the `cell` filter escapes; HTML pages autoescape
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    return environment.get_template("page.md.j2").render(page=page)
