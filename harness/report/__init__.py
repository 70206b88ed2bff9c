"""The report: one page that an engineer reads in a minute, rendered from what was judged and nothing else.

page_of(campaign, verdicts, ...) -> Page       pure: the sentences and tables
dossier_of(campaign, page, ...) -> Dossier     pure: and the evidence of each cell
render_markdown(page), render_html(dossier)    templates over them, escaped
"""

from holdfast.harness.report.dossier import Dossier, dossier_of
from holdfast.harness.report.html import render_html, render_page
from holdfast.harness.report.page import Page, page_of
from holdfast.harness.report.render import render_markdown

__all__ = ["Dossier", "Page", "dossier_of", "page_of", "render_html", "render_markdown", "render_page"]
