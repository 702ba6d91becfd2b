"""Thresholds with intervals that may be censored or open, and comparisons of two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.store import QUANTITIES, quantities, statuses
from figures.rows import CannotDraw, Setting, in_setting, models, of_model, pick, settings, where

PREDICTED = (quantities.K_GM, quantities.K_PRED)  # along the path of the linearised model; from the quadratic at the pretrained point


@dataclass(frozen=True)
class Interval:
    """A number of tuned parameters k: value (NaN if censored), interval ends (NaN if unknown), and its status (`statuses`).

    `why_open` states why an end or the value is unknown and which runs would close the interval. It is "" if all numbers are known or
    censoring explains the open end.
    """

    value: float
    low: float
    high: float
    target: float
    status: str = ""
    why_open: str = ""

    @property
    def censored(self) -> str:
        """The side on which k lies: "above", "below", "yes" (no value and no reason), or "" if k has a value."""
        if self.status in statuses.CENSORED:
            return self.status
        return "" if math.isfinite(self.value) else "yes"

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval. A censored interval is open on its censored side. An unknown end is NaN."""
        if self.censored == statuses.ABOVE:
            return self.low, math.inf
        if self.censored == statuses.BELOW:
            return 0.0, self.high
        return self.low, self.high

    def is_below(self, other: Interval) -> bool:
        """Return whether this whole interval lies below the other; False if an end is unknown."""
        return self.ends[1] < other.ends[0]

    def is_disjoint(self, other: Interval) -> bool:
        return self.is_below(other) or other.is_below(self)

    @property
    def is_closed(self) -> bool:
        """Whether both ends are known. An infinite end of a censored interval counts as known."""
        return not any(math.isnan(end) for end in self.ends)


def threshold(rows: pd.DataFrame, quantity: str) -> Interval | None:
    """Return the single `quantity` (such as `quantities.K_STAR`) in rows of one model and setting, or None without such a row.

    Raises CannotDraw for several rows, since different targets must not be drawn as one.
    """
    candidates = _of_threshold(rows, quantity)
    if len(candidates) > 1:
        model, task = candidates["model"].iloc[0], candidates["task"].iloc[0]
        targets = ", ".join(f"{target:.4g}" for target in candidates["target"])
        raise CannotDraw(f"{len(candidates)} rows of {quantity} for {model} on {task} (targets {targets}): select one target")
    return None if candidates.empty else _interval(candidates.iloc[0], rows)


def thresholds(rows: pd.DataFrame, quantity: str) -> dict[str, Interval]:
    """Return a dictionary from target (as in "below-full:0.01"; "" if the rows do not name it) to the threshold of one model and setting.

    Raises CannotDraw for several rows of one target.
    """
    candidates = _of_threshold(rows, quantity)
    groups = {str(group): where(candidates, candidates["group"] == group) for group in dict.fromkeys(candidates["group"])}
    intervals = {group: threshold(of_target, quantity) for group, of_target in groups.items()}
    return {group: interval for group, interval in intervals.items() if interval is not None}


def _of_threshold(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    candidates = pick(rows, quantity)
    return where(candidates, candidates["x"].isna())


def _interval(row: Any, rows: pd.DataFrame) -> Interval:
    value, low, high, target = (float(row[name]) for name in ("value", "low", "high", "target"))
    opened = pick(rows, row["quantity"] + quantities.OPEN)
    reasons = where(opened, opened["run_id"] == row["run_id"])["note"]
    undecided = f"no value: {row['note']}" if row["status"] == statuses.UNDECIDED else ""
    return Interval(value, low, high, target, str(row["status"]), str(reasons.iloc[0]) if len(reasons) else undecided)


def prediction(rows: pd.DataFrame) -> Interval | None:
    """Return the predicted k in rows of one model and setting: along the path if it was followed, else from the quadratic."""
    return next((predicted for name in PREDICTED if (predicted := threshold(rows, name)) is not None), None)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two k with its interval. An end is NaN if an end of either interval is unknown."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, one: Interval | None, other: Interval | None) -> Ratio | None:
        """Return `one` / `other`; None unless both have a value.

        The ends combine the distances of both intervals' ends on the log scale, as for independent numbers (Zou and Donner 2008, doi
        10.1002/sim.3095).
        """
        if one is None or other is None or one.censored or other.censored:
            return None
        value = one.value / other.value
        below = math.hypot(_apart(one.value, one.low), _apart(other.value, other.high))
        above = math.hypot(_apart(one.value, one.high), _apart(other.value, other.low))
        return cls(value, value * math.exp(-below), value * math.exp(above))

    def is_within(self, factor: float) -> bool | None:
        """Return whether the whole interval lies in [1 / factor, factor]; None if only a part lies in it or an end is unknown."""
        if 1 / factor <= self.low and self.high <= factor:
            return True
        return False if self.high < 1 / factor or self.low > factor else None


def _apart(value: float, end: float) -> float:
    """Return |log(value / end)|: infinite if the end is zero or infinite, NaN if it is unknown."""
    return abs(math.log(value / end)) if 0 < end < math.inf else math.nan if math.isnan(end) else math.inf


@dataclass(frozen=True)
class Pair:
    """The measured threshold of one model in one setting and its prediction. At least one of the two exists."""

    model: str
    parameters: int
    setting: Setting
    quantity: str  # quantity of the measured threshold
    measured: Interval | None
    predicted: Interval | None
    named: str = ""  # the target, as in "below-full:0.01", if the rows hold several targets of this kind

    @property
    def question(self) -> str:
        """The setting, and the kind of threshold unless it refers to the training loss."""
        kind = "" if self.quantity == quantities.K_STAR else QUANTITIES[self.quantity].label
        return ", ".join(filter(None, (self.setting.label, kind, self.named)))

    @property
    def ratio(self) -> Ratio | None:
        """Predicted k / measured k; None unless both have a value."""
        return Ratio.of(self.predicted, self.measured)

    @property
    def target(self) -> float:
        """The loss or metric value that the thresholds refer to; NaN if neither states it."""
        targets = [i.target for i in (self.measured, self.predicted) if i and math.isfinite(i.target)]
        return targets[0] if targets else math.nan


def pairs(rows: pd.DataFrame) -> list[Pair]:
    """Return the thresholds by kind, setting and model size. Models without thresholds are left out. `rows` come from `tidy`."""
    result = []
    for quantity in quantities.MEASURED:
        targets = list(dict.fromkeys(_of_threshold(rows, quantity)["group"])) or [""]
        for setting in settings(rows):
            for model, parameters in models(rows).items():
                chosen = in_setting(of_model(rows, model), setting)
                # Only thresholds of a training loss have predictions.
                of_loss = quantities.K_STAR if pick(chosen, quantities.K_LOSS).empty else quantities.K_LOSS
                for target in targets:
                    of_target = where(chosen, chosen["group"] == target) if len(targets) > 1 else chosen
                    predicted = prediction(of_target) if quantity == of_loss else None
                    named = target if len(targets) > 1 else ""
                    pair = Pair(model, parameters, setting, quantity, threshold(of_target, quantity), predicted, named)
                    if pair.measured or pair.predicted:
                        result.append(pair)
    return result
