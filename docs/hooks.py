"""Hooks of MkDocs.

Formulas become MathML when the pages are built, so that the documentation needs no script and no network. The words after a language,
which tell the tests how to treat a block, are left out.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
WORDS = re.compile(r"^(```(?:console|python))( long| data)+$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out the words after the language of each code block."""
    return WORDS.sub(r"\1", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each LaTeX formula of a page (HTML) by MathML."""
    return FORMULA.sub(lambda match: _mathml(html.unescape(match[3]), "inline" if match[2] == "(" else "block"), content)


def _mathml(latex: str, display: str) -> str:
    """Return a formula as MathML, with braces where the converter leaves the escaped braces of sized delimiters."""
    return convert(latex, display=display).replace(r">\{<", ">{<").replace(r">\}<", ">}<")
