"""Predicted against measured thresholds of a study with several targets, a panel a subspace: the cells that a predictor is scored on.

A cell is a model, task, subspace and target. Where a prediction is over 30 % of the rank n (C - 1), which bounds it whatever the
model, its number is kept apart (quantities that end in `_over_rank`), and is drawn hollow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import style
from figures.plots.predictions import band
from figures.rows import CannotDraw, models, pick, tidy, where

PREDICTOR = "k_m1"  # of the linearised model's path
OVER_RANK, BRACKET = "_over_rank", "k_bracket_path"
HEIGHT = 3.9  # inches
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Cell:
    """One threshold: measured k* with its interval (nan: censored), and every prediction of it."""

    model: str
    task: str
    subspace: str
    target: float  # the share of full fine-tuning's improvement
    measured: float
    low: float
    high: float
    predicted: dict[str, float]  # by quantity, those over the rank with their suffix
    bracket: tuple[float, float]  # nan: none

    def value(self, name: str = PREDICTOR) -> float:
        """The prediction, over the rank or not; nan where there is none."""
        return next((self.predicted[each] for each in self._names(name)), math.nan)

    def error(self, name: str = PREDICTOR) -> float:
        """log of predicted over measured; nan where either is missing."""
        return math.log(self.value(name) / self.measured) if self.value(name) > 0 and self.measured > 0 else math.nan

    @property
    def over_rank(self) -> bool:
        return next(self._names(PREDICTOR), "").endswith(OVER_RANK)

    def _names(self, name: str) -> Iterator[str]:
        """The quantities of this predictor that have a number."""
        return (each for each in (name, name + OVER_RANK) if math.isfinite(self.predicted.get(each, math.nan)))


def cells(rows: pd.DataFrame) -> list[Cell]:
    """Every threshold of the training loss in the rows that has a share of the improvement as its target. `rows` as from `tidy`."""
    groups = where(rows, rows["run_id"].isin(pick(rows, "k_star")["run_id"]) & rows["x"].isna()).groupby("run_id")
    return [cell for _, own in groups if (cell := _cell(own)) is not None]


def _cell(own: pd.DataFrame) -> Cell | None:
    first: dict[str, dict[str, Any]] = {str(row["quantity"]): row for row in own.to_dict("records")}
    if "target_share" not in first:
        return None
    star, predicted = first["k_star"], {name: float(row["value"]) for name, row in first.items()}
    bracket = first.get(BRACKET, {"low": math.nan, "high": math.nan})
    return Cell(
        star["model"], star["task"], star["subspace"] or "coordinates", round(predicted["target_share"], 6), star["value"], star["low"],
        star["high"], predicted, (bracket["low"], bracket["high"]),
    )  # fmt: skip


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Predicted against measured k* on equal log axes with the band of a factor 2: a colour a model, a marker a task; hollow: over rank.

    Horizontal bars are the measured intervals. Raises CannotDraw without a cell that has both numbers.
    """
    rows = tidy(rows)
    known = [cell for cell in cells(rows) if math.isfinite(cell.error())]
    if not known:
        raise CannotDraw("no k* of a share of the improvement with a prediction beside it in the rows")
    subspaces, tasks = sorted({cell.subspace for cell in known}), sorted({cell.task for cell in known})
    colours, numbers = style.model_colours(models(rows)), [n for cell in known for n in (cell.measured, cell.value())] + _near_ends(known)
    figure = style.new_figure(style.TEXT_WIDTH if len(subspaces) > 1 else style.TEXT_WIDTH * 0.62, HEIGHT)
    for index, (axes, subspace) in enumerate(zip(figure.subplots(1, len(subspaces), squeeze=False)[0], subspaces, strict=True)):
        band(axes, numbers)
        for cell in (cell for cell in known if cell.subspace == subspace):
            marker, fill = MARKERS[tasks.index(cell.task) % len(MARKERS)], "none" if cell.over_rank else "full"
            axes.plot(cell.measured, cell.value(), color=colours[cell.model], marker=marker, fillstyle=fill, ls="none", zorder=3)
            style.bar_along(axes, cell.value(), cell.low, cell.high, colours[cell.model])
        if len(subspaces) > 1:
            style.letter(axes, index, subspace)
        axes.set(xlabel="measured k*", ylabel="predicted k" if index == 0 else "", aspect="equal")
    style.outside_legend(figure, _legend(known, tasks, colours))
    return style.finish(figure)


def _near_ends(known: list[Cell]) -> list[float]:
    """The ends of intervals that lie within a factor 4 of their value: further ones end in an arrow at the edge."""
    return [end for cell in known for end in (cell.low, cell.high) if 0.25 <= end / cell.measured <= 4]


def _legend(known: list[Cell], tasks: list[str], colours: dict[str, style.Colour]) -> dict[str, style.Key]:
    drawn = {cell.model for cell in known}
    keys: dict[str, style.Key] = {
        style.short_name(model): Line2D([], [], marker="o", ls="none", color=colour) for model, colour in colours.items() if model in drawn
    }
    for number, task in enumerate(tasks):
        keys[task] = Line2D([], [], marker=MARKERS[number % len(MARKERS)], ls="none", color=style.INK)
    if any(cell.over_rank for cell in known):
        keys["over 30 % of the rank"] = Line2D([], [], marker="o", ls="none", color=style.INK, fillstyle="none")
    return keys | {"factor 2": Patch(color=style.GREY, alpha=0.18, linewidth=0)}
