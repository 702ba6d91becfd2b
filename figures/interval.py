"""A threshold with its interval, possibly censored: what may be said of two of them without guessing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analyses.store import QUANTITIES, quantities, statuses
from figures.rows import CannotDraw, Setting, in_setting, models, of_model, pick, settings, where

PREDICTED = (quantities.K_GM, quantities.K_PRED)  # along the path of the linearised model; of the quadratic at the pretrained point


@dataclass(frozen=True)
class Interval:
    """A number of tunable parameters k: value (NaN where censored), interval ends (NaN where unknown), and its status (`statuses`).

    `why_open` says why an end or the value is not known and what would close it, "" where all are known or censoring says it.
    """

    value: float
    low: float
    high: float
    target: float
    status: str = ""
    why_open: str = ""

    @property
    def censored(self) -> str:
        """The side it lies on: "above", "below", "yes" (no value, no reason given), or "" where it has a value."""
        if self.status in statuses.CENSORED:
            return self.status
        return "" if math.isfinite(self.value) else "yes"

    @property
    def ends(self) -> tuple[float, float]:
        """The interval's ends; a censored one is open on its censored side. NaN where an end is not known."""
        if self.censored == statuses.ABOVE:
            return self.low, math.inf
        if self.censored == statuses.BELOW:
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
    """The one `quantity` (such as `quantities.K_STAR`) in rows of one model and setting; None where there is none.

    Raises CannotDraw where there are several: two targets must not be drawn as one.
    """
    candidates = pick(rows, quantity)
    candidates = where(candidates, candidates["x"].isna())
    if candidates.empty:
        return None
    if len(candidates) > 1:
        model, task = candidates["model"].iloc[0], candidates["task"].iloc[0]
        targets = ", ".join(f"{target:.4g}" for target in candidates["target"])
        raise CannotDraw(f"{len(candidates)} rows of {quantity} for {model} on {task} (targets {targets}): select one")
    row = candidates.iloc[0]
    value, low, high, target = (float(row[name]) for name in ("value", "low", "high", "target"))
    reasons = pick(rows, quantity + quantities.OPEN)["note"]
    undecided = f"no value: {row['note']}" if row["status"] == statuses.UNDECIDED else ""
    return Interval(value, low, high, target, str(row["status"]), str(reasons.iloc[0]) if len(reasons) else undecided)


def prediction(rows: pd.DataFrame) -> Interval | None:
    """The predicted k in rows of one model and setting: along the path where that was followed, else of the quadratic."""
    return next((predicted for name in PREDICTED if (predicted := threshold(rows, name)) is not None), None)


@dataclass(frozen=True)
class Ratio:
    """One k over another with its interval; NaN ends where an interval end is not known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, one: Interval | None, other: Interval | None) -> Ratio | None:
        """`one` over `other`; None unless both have a value.

        The ends combine the distances of both intervals on the log scale as those of independent numbers (Zou and Donner 2008,
        doi 10.1002/sim.3095).
        """
        if one is None or other is None or one.censored or other.censored:
            return None
        value = one.value / other.value
        below = math.hypot(_apart(one.value, one.low), _apart(other.value, other.high))
        above = math.hypot(_apart(one.value, one.high), _apart(other.value, other.low))
        return cls(value, value * math.exp(-below), value * math.exp(above))

    def is_within(self, factor: float) -> bool | None:
        """Whether the whole interval lies in [1 / factor, factor]; None where part of it does, or an end is not known."""
        if 1 / factor <= self.low and self.high <= factor:
            return True
        return False if self.high < 1 / factor or self.low > factor else None


def _apart(value: float, end: float) -> float:
    """|log(value / end)|: infinite where the end lies at zero or infinity, NaN where it is not known."""
    return abs(math.log(value / end)) if 0 < end < math.inf else math.nan if math.isnan(end) else math.inf


@dataclass(frozen=True)
class Pair:
    """A measured threshold of one model in one setting and the prediction of it; at least one of them is there."""

    model: str
    parameters: int
    setting: Setting
    quantity: str  # of the measured threshold
    measured: Interval | None
    predicted: Interval | None

    @property
    def question(self) -> str:
        """The setting, and the kind of threshold where it is not of the training loss."""
        kind = "" if self.quantity == quantities.K_STAR else QUANTITIES[self.quantity].label
        return ", ".join(filter(None, (self.setting.label, kind)))

    @property
    def ratio(self) -> Ratio | None:
        """Predicted over measured k; None unless both have a value."""
        return Ratio.of(self.predicted, self.measured)

    @property
    def target(self) -> float:
        """The score that the thresholds refer to; NaN if neither states it."""
        targets = [i.target for i in (self.measured, self.predicted) if i and math.isfinite(i.target)]
        return targets[0] if targets else math.nan


def pairs(rows: pd.DataFrame) -> list[Pair]:
    """Thresholds by kind and setting, then by model size; models without any are left out. `rows` as from `tidy`."""
    result = []
    for quantity in quantities.MEASURED:
        for setting in settings(rows):
            for model, parameters in models(rows).items():
                chosen = in_setting(of_model(rows, model), setting)
                # A prediction speaks of the threshold of a training loss.
                of_loss = quantities.K_STAR if pick(chosen, quantities.K_LOSS).empty else quantities.K_LOSS
                predicted = prediction(chosen) if quantity == of_loss else None
                pair = Pair(model, parameters, setting, quantity, threshold(chosen, quantity), predicted)
                if pair.measured or pair.predicted:
                    result.append(pair)
    return result
