"""A threshold with its interval, possibly censored: what may be said of two of them without guessing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from figures.rows import CannotDraw, Setting, in_setting, models, of_model, pick, settings, where


@dataclass(frozen=True)
class Interval:
    """A number of tunable parameters k: value (NaN where censored), interval ends (NaN where unknown), and its note."""

    value: float
    low: float
    high: float
    target: float
    note: str

    @property
    def censored(self) -> str:
        """The side it lies on: "above", "below", "yes" (no value, no reason given), or "" where it has a value."""
        for side in ("above", "below"):
            if self.note.startswith(f"censored: {side}"):
                return side
        return "" if math.isfinite(self.value) else "yes"

    @property
    def ends(self) -> tuple[float, float]:
        """The interval's ends; a censored one is open on its censored side. NaN where an end is not known."""
        if self.censored == "above":
            return self.low, math.inf
        if self.censored == "below":
            return 0.0, self.high
        return self.low, self.high

    def is_below(self, other: Interval) -> bool:
        """Whether this whole interval lies below the other; False where an end is not known."""
        return self.ends[1] < other.ends[0]

    def is_disjoint(self, other: Interval) -> bool:
        return self.is_below(other) or other.is_below(self)

    @property
    def is_closed(self) -> bool:
        """Whether both ends are known (infinity counts: censoring says which side is open)."""
        return not any(math.isnan(end) for end in self.ends)


def threshold(rows: pd.DataFrame, quantity: str) -> Interval | None:
    """The one `quantity` ("k_star" or "k_pred") in rows of one model and setting; None where there is none.

    Raises CannotDraw where there are several: two targets must not be drawn as one.
    """
    found = pick(rows, quantity)
    found = where(found, found["x"].isna())
    if found.empty:
        return None
    if len(found) > 1:
        model, task = found["model"].iloc[0], found["task"].iloc[0]
        targets = ", ".join(f"{target:.4g}" for target in found["target"])
        raise CannotDraw(f"{len(found)} rows of {quantity} for {model} on {task} (targets {targets}): select one")
    row = found.iloc[0]
    value, low, high, target = (float(row[name]) for name in ("value", "low", "high", "target"))
    return Interval(value, low, high, target, str(row["note"]))


@dataclass(frozen=True)
class Pair:
    """Both thresholds of one model in one setting; at least one of them is there."""

    model: str
    parameters: int
    setting: Setting
    measured: Interval | None
    predicted: Interval | None

    @property
    def ratio(self) -> float:
        """Predicted over measured k; NaN unless both have a value."""
        if not self.measured or not self.predicted or self.measured.censored or self.predicted.censored:
            return math.nan
        return self.predicted.value / self.measured.value

    @property
    def within_factor_two(self) -> bool | None:
        """Whether the ratio lies in [1/2, 2]; None where there is no ratio."""
        return None if math.isnan(self.ratio) else 0.5 <= self.ratio <= 2.0

    @property
    def target(self) -> float:
        """The train loss that the thresholds refer to; NaN if neither states it."""
        targets = [i.target for i in (self.measured, self.predicted) if i and math.isfinite(i.target)]
        return targets[0] if targets else math.nan


def pairs(rows: pd.DataFrame) -> list[Pair]:
    """Thresholds by setting, then by model size; models without any are left out. `rows` as from `tidy`."""
    found = []
    for setting in settings(rows):
        for model, parameters in models(rows).items():
            own = in_setting(of_model(rows, model), setting)
            pair = Pair(model, parameters, setting, threshold(own, "k_star"), threshold(own, "k_pred"))
            if pair.measured or pair.predicted:
                found.append(pair)
    return found
