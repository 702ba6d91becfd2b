"""Cells: a measured threshold and every prediction of it. Predictors of k* are scored on the cells of a study with several targets.

Where a prediction is over 30 % of the rank n (C - 1), which bounds it whatever the model, its number is kept apart: in quantities that end
in `quantities.OVER_RANK`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyses.store import quantities

if TYPE_CHECKING:
    import pandas as pd

PREDICTOR = quantities.K_M1  # the chosen one


@dataclass(frozen=True)
class Cell:
    """A model, task, subspace and target: the measured k* with its interval (NaN: censored or not known), and every prediction of it."""

    model: str
    task: str
    subspace: str
    target: float  # the share of full fine-tuning's improvement
    measured: float
    low: float
    high: float
    predicted: dict[str, float]  # by quantity, those over the rank with their suffix
    bracket: tuple[float, float]  # NaN: none

    def value(self, name: str = PREDICTOR) -> float:
        """Return the prediction by the quantity `name`, over the rank or not; NaN where there is none."""
        return next((self.predicted[quantity] for quantity in self._quantities(name)), math.nan)

    def error(self, name: str = PREDICTOR) -> float:
        """Return log(predicted / measured); NaN where either is missing."""
        return math.log(self.value(name) / self.measured) if self.value(name) > 0 and self.measured > 0 else math.nan

    @property
    def over_rank(self) -> bool:
        """Whether the chosen predictor's number is over 30 % of the rank."""
        return next(self._quantities(PREDICTOR), "").endswith(quantities.OVER_RANK)

    def _quantities(self, name: str) -> Iterator[str]:
        """The quantities of this predictor that have a number."""
        return (each for each in (name, name + quantities.OVER_RANK) if math.isfinite(self.predicted.get(each, math.nan)))


def cells(rows: pd.DataFrame) -> list[Cell]:
    """Return the cell of every k* in `rows` whose target is a share of full fine-tuning's improvement.

    `rows` is a DataFrame of rows (`analyses.store.frame`).
    """
    runs = rows.loc[rows["quantity"] == quantities.K_STAR, "run_id"]
    groups = rows.loc[rows["run_id"].isin(runs) & rows["x"].isna()].groupby("run_id")
    return [cell for _, threshold in groups if (cell := _cell(threshold)) is not None]


def _cell(threshold: pd.DataFrame) -> Cell | None:
    by_quantity: dict[str, dict[str, Any]] = {str(row["quantity"]): row for row in threshold.to_dict("records")}
    if "target_share" not in by_quantity:
        return None
    star, predicted = by_quantity[quantities.K_STAR], {name: float(row["value"]) for name, row in by_quantity.items()}
    bracket = by_quantity.get(quantities.K_BRACKET_PATH, {"low": math.nan, "high": math.nan})
    return Cell(
        star["model"], star["task"], star["subspace"] or "coordinates", round(predicted["target_share"], 6), star["value"], star["low"],
        star["high"], predicted, (bracket["low"], bracket["high"]),
    )  # fmt: skip
