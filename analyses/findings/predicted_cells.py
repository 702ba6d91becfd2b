"""Cells: a measured threshold with all its predictions. Predictors of k* are scored on the cells of a study with several targets.

The rank n (C - 1) bounds a prediction for any model. A prediction above 30 % of the rank has a separate quantity, whose name ends in
`quantities.OVER_RANK`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyses.store import quantities

if TYPE_CHECKING:
    import pandas as pd

PREDICTOR = quantities.K_M1  # the default predictor


@dataclass(frozen=True)
class Cell:
    """The measured k* of a model, task, subspace and target with its interval (NaN: censored or unknown), and all predictions of it."""

    model: str
    task: str
    subspace: str
    target: float  # share of full fine-tuning's improvement
    measured: float
    low: float
    high: float
    predicted: dict[str, float]  # by quantity; names of predictions above 30 % of the rank have the suffix OVER_RANK
    bracket: tuple[float, float]  # NaN without a bracket

    def value(self, name: str = PREDICTOR) -> float:
        """Return the prediction by the quantity `name`, even above 30 % of the rank; NaN without a prediction."""
        return next((self.predicted[quantity] for quantity in self._quantities(name)), math.nan)

    def error(self, name: str = PREDICTOR) -> float:
        """Return log(predicted / measured); NaN if either is missing."""
        return math.log(self.value(name) / self.measured) if self.value(name) > 0 and self.measured > 0 else math.nan

    @property
    def over_rank(self) -> bool:
        """Whether the default predictor's value is above 30 % of the rank."""
        return next(self._quantities(PREDICTOR), "").endswith(quantities.OVER_RANK)

    def _quantities(self, name: str) -> Iterator[str]:
        """Yield the quantities of the predictor `name` that have a finite value."""
        candidates = (name, name + quantities.OVER_RANK)
        return (quantity for quantity in candidates if math.isfinite(self.predicted.get(quantity, math.nan)))


def cells(rows: pd.DataFrame) -> list[Cell]:
    """Return the cells of all k* in `rows` whose target is a share of full fine-tuning's improvement.

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
