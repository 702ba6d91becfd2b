"""Page sizes and fonts of the venues for which figures are drawn. The numbers of most venues come from the library tueplots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

SMALLEST = 7.0  # pt; some of the fonts of tueplots are smaller, and hard to read in print


@dataclass(frozen=True)
class Page:
    """The widths (inches) of a small figure (`narrow`) and of a large one (`wide`), and the font with its sizes (pt)."""

    narrow: float
    wide: float
    font: str = "DejaVu Sans"  # part of matplotlib: the same file on every machine
    maths: str = "dejavusans"
    large: float = 7.5  # labels and titles
    small: float = 7.0  # ticks and legends
    spacing: float = 1.2  # of the lines of one text, relative to the height of the font

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of matplotlib."""
        small = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), self.small)
        large = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), self.large)
        return {**small, **large, "font.family": self.font, "mathtext.fontset": self.maths, "axes.unicode_minus": True}


DEFAULT = Page(3.3, 6.9)
Style = Literal["aaai", "acl", "aistats", "colm", "cvpr", "eccv", "iclr", "icml", "jmlr", "neurips", "tmlr", "uai"]
Columns = Literal["half", "full"]
# Venue -> name in tueplots. There, venues with two columns have sizes with the suffixes "_half" and "_full".
TUEPLOTS: dict[str, str] = {
    "aaai": "aaai2024", "aistats": "aistats2025", "colm": "colm2026", "cvpr": "cvpr2024", "eccv": "eccv2024", "iclr": "iclr2024",
    "icml": "icml2024", "jmlr": "jmlr2001", "neurips": "neurips2024", "tmlr": "tmlr2023", "uai": "uai2023",
}  # fmt: skip
ACL = (7.7 / 2.54, 16.0 / 2.54, "aaai2024")  # acl.sty: A4 with margins of 2.5 cm, 0.6 cm between columns, captions of 10 pt as in AAAI
_page: ContextVar[Page] = ContextVar("page", default=DEFAULT)


def page_of(style: Style | None = None, columns: Columns | None = None) -> Page:
    """Return the page of a venue (None: the default look).

    A half figure is as wide as a column of a venue with two columns, and as half of the text of any other venue. A full figure is as wide
    as the text. Without `columns`, each figure has the width that suits its panels.
    """
    page = DEFAULT if style is None else _of_venue(style)
    if columns is None:
        return page
    width = {"half": page.narrow, "full": page.wide}[columns]
    return replace(page, narrow=width, wide=width)


def _of_venue(style: Style) -> Page:
    from tueplots import figsizes, fontsizes

    if style == "acl":
        narrow, wide, name = ACL
    else:
        name = TUEPLOTS[style]
        halves = [getattr(figsizes, f"{name}_{columns}", None) for columns in ("half", "full")]
        both = [size() for size in halves if size] or [getattr(figsizes, name)(rel_width=share) for share in (0.5, 1.0)]
        narrow, wide = (size["figure.figsize"][0] for size in both)
    fonts = getattr(fontsizes, name)()
    large, small = (max(SMALLEST, fonts[key]) for key in ("axes.labelsize", "legend.fontsize"))
    return Page(narrow, wide, "STIXGeneral", "stix", large, small, 0.95)  # STIX resembles Times and is part of matplotlib


def page() -> Page:
    """Return the page for which figures are drawn now."""
    return _page.get()


@contextmanager
def drawn_for(page: Page) -> Iterator[None]:
    """Draw figures for `page` inside the context."""
    token = _page.set(page)
    try:
        yield
    finally:
        _page.reset(token)
