"""Hooks of MkDocs: formulas become MathML when the pages are built, so that the documentation needs no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each LaTeX formula of a page (HTML) by MathML."""
    return FORMULA.sub(lambda match: convert(html.unescape(match[3]), display="inline" if match[2] == "(" else "block"), content)
