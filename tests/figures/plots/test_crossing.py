"""The figure of crossings: every run, the line through the zero, and what lies beyond the axis."""

from __future__ import annotations

import numpy as np
import pytest

from figures import FIGURES
from figures.rows import CannotDraw
from tests.figures.synthetic import ONE, TWO, study


def test_the_crossing_shows_every_run_and_the_line_through_its_zero():
    panel = FIGURES["crossing"](study(ONE)).axes[0]
    assert sum(np.size(line.get_xdata()) for line in panel.lines if line.get_linestyle() == "None") == 12
    assert [line.get_marker() for line in panel.lines].count("x") == 1
    fit = panel.lines[-1]
    x, y = np.log(np.asarray(fit.get_xdata(), float)), np.asarray(fit.get_ydata(), float)
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(0.41)
    assert np.interp(0, y, x) == pytest.approx(np.log(44))
    assert {text.get_text() for text in FIGURES["crossing"](study(TWO)).legends[0].get_texts()} >= {
        "robust line",
        "failed training, set aside",
    }


def test_a_far_run_does_not_flatten_those_at_the_crossing():
    rows = study(ONE)
    far = (rows["quantity"] == "gap") & (rows["x"] == 256)
    rows.loc[far, ["value", "status"]] = [9.0, "far"]
    panel = FIGURES["crossing"](rows).axes[0]
    assert panel.get_ylim()[1] < 1
    assert [line.get_marker() for line in panel.lines].count("^") == 1


def test_a_crossing_out_of_reach_has_an_arrow_and_no_line():
    panel = FIGURES["crossing"](study(ONE, censored=tuple(ONE))).axes[0]
    assert [line.get_marker() for line in panel.lines].count(">") == 1
    assert all(np.size(line.get_xdata()) != 2 or line.get_linestyle() == ":" for line in panel.lines)


def test_rows_without_gaps_have_no_crossing():
    with pytest.raises(CannotDraw, match="no gap"):
        FIGURES["crossing"](study(ONE).query("quantity != 'gap'"))
