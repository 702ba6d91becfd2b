"""Cells: the thresholds that are scored, and the quantity of a prediction that the rank bounds."""

import math

import pytest

from analyses.findings import cells
from figures.rows import tidy
from tests.analyses.cell_cases import ROWS


def test_a_cell_has_its_error_and_knows_whether_the_rank_bounds_it() -> None:
    found = {(cell.target, cell.task): cell for cell in cells(tidy(ROWS))}
    free, bound, censored, text = (found[key] for key in ((0.5, "sst2"), (0.75, "sst2"), (0.9, "sst2"), (0.5, "mini-qa")))
    assert (free.subspace, free.over_rank, free.error()) == ("coordinates", False, pytest.approx(math.log(2)))
    assert (bound.subspace, bound.over_rank, bound.error()) == ("fastfood", True, pytest.approx(-math.log(2)))
    assert math.isnan(censored.error())
    assert (text.error("k_pred"), math.isnan(text.error())) == (0, True)
    assert free.bracket == (5.0, 20.0)
