"""Pages for a browser: self-contained, no script, nothing fetched; everything that is said is escaped twice over.

Autoescape keeps text from becoming markup; `plain` keeps control and direction characters from being acted on.
"""

from pathlib import Path
from typing import Any

import jinja2

from holdfast.harness.report.dossier import Dossier, tone_of
from holdfast.harness.report.render import plain

__all__ = ["render_html", "render_page"]


def render_html(dossier: Dossier) -> str:
    """`results/SANDBOX-REPORT.html`."""
    return render_page("page.html.j2", dossier=dossier, page=dossier.page)


def render_page(template: str, **context: Any) -> str:
    """A template of this folder over values."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tone"] = tone_of
    return environment.get_template(template).render(**context)
