"""The report: one page that an engineer reads in a minute, rendered from what was judged and nothing else.

page_of(campaign, verdicts, ...) -> Page       pure: the sentences and tables
render_markdown(page) -> str                    a template over it, autoescaped
"""

from holdfast.harness.report.page import Page, page_of
from holdfast.harness.report.render import render_markdown

__all__ = ["Page", "page_of", "render_markdown"]
