"""The figure of cells: a panel a subspace, hollow marks over the rank."""

import math

import pytest

from figures.plots.cells import draw
from figures.rows import CannotDraw
from tests.analyses.cell_cases import ROWS, frame, threshold_rows


def test_a_panel_a_subspace_and_hollow_marks_over_the_rank() -> None:
    figure = draw(ROWS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["(a) coordinates", "(b) fastfood"]
    left, right = ([line for line in axes.lines if line.get_marker() not in ("None", None, "")] for axes in figure.axes)
    left, right = ([line for line in lines if len(line.get_xdata()) == 1] for lines in (left, right))
    assert [line.get_markerfacecolor() == "white" for line in left + right] == [False, True]
    assert [float(line.get_xdata()[0]) for line in right] == [12.0]


def test_without_both_numbers_there_is_nothing_to_draw() -> None:
    with pytest.raises(CannotDraw, match="share of the improvement"):
        draw(frame(threshold_rows("c", 0.9, math.nan, {"k_m1": 9.0})))
