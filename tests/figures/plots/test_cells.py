"""Cells: which thresholds are scored, and where a number that the rank bounds is kept."""

import math

import pandas as pd
import pytest

from analyses.findings import cells
from analyses.store import COLUMNS
from figures.plots.cells import draw
from figures.rows import CannotDraw, tidy


def threshold_rows(run: str, share: float, k_star: float, predicted: dict[str, float], **columns) -> list[dict]:
    """The rows of one threshold; `predicted` by quantity."""
    common = {"model": "mini-t5-130k", "parameters": 126368, "task": "sst2", "target": 0.3, "run_id": run, "method": "apet", **columns}
    values = {"k_star": k_star, "target_share": share, **predicted}
    rows = [{**common, "quantity": name, "value": value} for name, value in values.items()]
    rows += [{**common, "quantity": "k_bracket_path", "value": 10.0, "low": 5.0, "high": 20.0}]
    return rows + [{**common, "quantity": "gap", "x": 3.0, "value": 0.1}]


def frame(*rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for each in rows for row in each]).reindex(columns=list(COLUMNS))


ROWS = frame(
    threshold_rows("a", 0.5, 10.0, {"k_m1": 20.0}),
    threshold_rows("b", 0.75, 12.0, {"k_m1": math.nan, "k_m1_over_rank": 6.0}, subspace="fastfood"),
    threshold_rows("c", 0.9, math.nan, {"k_m1": 9.0}),
    threshold_rows("d", 0.5, 4.0, {"k_pred": 4.0}, task="mini-qa"),
)


def test_a_cell_has_its_error_and_knows_whether_the_rank_bounds_it() -> None:
    found = {(cell.target, cell.task): cell for cell in cells(tidy(ROWS))}
    free, bound, censored, text = (found[key] for key in ((0.5, "sst2"), (0.75, "sst2"), (0.9, "sst2"), (0.5, "mini-qa")))
    assert (free.subspace, free.over_rank, free.error()) == ("coordinates", False, pytest.approx(math.log(2)))
    assert (bound.subspace, bound.over_rank, bound.error()) == ("fastfood", True, pytest.approx(-math.log(2)))
    assert math.isnan(censored.error())
    assert (text.error("k_pred"), math.isnan(text.error())) == (0, True)
    assert free.bracket == (5.0, 20.0)


def test_a_panel_a_subspace_and_hollow_marks_over_the_rank() -> None:
    figure = draw(ROWS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["(a) coordinates", "(b) fastfood"]
    left, right = ([line for line in axes.lines if line.get_marker() not in ("None", None, "")] for axes in figure.axes)
    assert [line.get_fillstyle() for line in left + right] == ["full", "none"]
    assert [float(line.get_xdata()[0]) for line in right] == [12.0]


def test_without_both_numbers_there_is_nothing_to_draw() -> None:
    with pytest.raises(CannotDraw, match="share of the improvement"):
        draw(frame(threshold_rows("c", 0.9, math.nan, {"k_m1": 9.0})))
