"""Figures have the widths and font sizes of the venue, and no two series of a figure differ in colour alone."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import FIGURES, Columns, Style, draw_all, page_of
from figures.style import METHOD_MARKERS, method_looks, model_colours, model_looks
from figures.venues import drawn_for
from tests.figures.synthetic import ONE, TWO, findings, placements, quadratics, study, thresholds_of_metric

POINTS = 72  # per inch
# Widths of a column and of the text in inches, from the style files of the venues.
WIDTHS = {
    "neurips": (2.75, 5.5),
    "icml": (3.25, 6.75),
    "iclr": (2.75, 5.5),
    "acl": (3.031, 6.299),
    "aaai": (3.3, 6.975),
    "jmlr": (3.0, 6.0),
}


def width_of(pdf: Path) -> float:
    """Return the width of the page of a PDF in inches."""
    box = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", pdf.read_bytes())
    assert box is not None
    return float(box[1]) / POINTS


@pytest.mark.parametrize("style", WIDTHS)
def test_the_page_of_a_pdf_is_as_wide_as_the_column(style: Any, tmp_path: Path):
    widths = []
    for columns in get_args(Columns):
        written = draw_all(study(ONE), tmp_path / columns, ["crossing"], page=page_of(style, columns)).written["crossing"]
        widths.append(width_of(written[0]))
        assert re.search(rb"/FontName /[A-Z]+\+STIXGeneral", written[0].read_bytes())
    assert widths == pytest.approx(WIDTHS[style], abs=0.01)


@pytest.mark.parametrize("style", get_args(Style))
def test_every_style_has_a_page_with_readable_fonts(style: Any):
    page = page_of(style)
    assert 2 < page.narrow <= page.wide / 2 < 4
    assert 7 <= page.small <= page.large <= 10
    assert page_of(style, "half").wide == page.narrow and page_of(style, "full").narrow == page.wide


def test_a_style_holds_only_while_its_figures_are_drawn():
    with drawn_for(page_of("icml", "half")):
        assert FIGURES["crossing"](study(ONE)).get_figwidth() == 3.25
    assert FIGURES["crossing"](study(ONE)).get_figwidth() == 3.3


ROWS = pd.concat(
    [study(TWO), findings(TWO), thresholds_of_metric(TWO, censored=("mini-t5-240k",)), placements().assign(task="sst2"), quadratics()]
)


def look(handle: Artist | tuple) -> tuple:
    """Return all properties of a legend's sample except its colours."""
    if isinstance(handle, Line2D):
        hollow = np.allclose(to_rgb(handle.get_markerfacecolor()), 1)
        return (
            str(handle.get_marker()),
            handle.get_linestyle(),
            str(handle._dash_pattern),
            hollow,
            handle.get_fillstyle(),
            handle.get_linewidth(),
        )
    if isinstance(handle, Patch):
        return ("patch", handle.get_hatch())
    return tuple(map(look, getattr(handle, "get_children", lambda: handle)()))


@pytest.mark.parametrize("figure", [name for name in FIGURES if name not in ("contours", "ratios", "relief", "layers", "surfaces")])
def test_the_entries_of_a_legend_differ_in_more_than_colour(figure: str, monkeypatch: pytest.MonkeyPatch):
    keys: dict[str, Any] = {}
    monkeypatch.setattr("figures.layout.outside_legend", lambda _, handles: keys.update(handles))
    FIGURES[figure](ROWS)
    assert keys
    for (one, a), (other, b) in combinations(keys.items(), 2):
        assert look(a) != look(b), f"{one} and {other}"


def test_methods_and_models_have_a_marker_each():
    for looks, most in ((method_looks(METHOD_MARKERS), 15), (model_looks(map(str, range(15))), 15)):
        markers = [look.marker for look in list(looks.values())[:most]]
        assert len(set(markers)) == most
    grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in model_colours("abcdef").values()]
    assert min(np.diff(grey)) > 0.05  # from dark to light also in grey
