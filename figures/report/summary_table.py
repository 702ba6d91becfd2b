"""One line a setting and model: thresholds and best accuracies, for the end of a command and for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analyses.store import quantities
from figures.interval import Interval, prediction, threshold
from figures.rows import ASKING, Setting, chance, in_setting, means, models, of_model, runs, settings, tidy, where

METHODS = ("full", "lora", "apet")  # whose accuracies a line shows


@dataclass(frozen=True)
class Best:
    """The best mean accuracy of a method on one model: the mean over `n` runs at `k`, with its standard error.

    `error` combines the sampling error of the validation set, which the runs share, with the spread over runs.
    """

    model: str
    parameters: int
    setting: Setting
    method: str
    k: int
    accuracy: float
    error: float
    n: int
    chance: float

    @property
    def above(self) -> float:
        """Standard errors above chance; NaN where either is not known."""
        return (self.accuracy - self.chance) / self.error if self.error > 0 else math.nan


def best_accuracies(rows: pd.DataFrame) -> list[Best]:
    """The k with the highest mean validation accuracy, by setting, model size and method. `rows` as from `tidy`.

    Choosing k by the split that is reported biases the best of many k upwards.
    """
    found = []
    for setting in settings(rows):
        for model, parameters in models(rows).items():
            table = runs(in_setting(of_model(rows, model), setting))
            level = chance(table)
            for method, own in table.groupby("method"):
                by_k = means(own, "accuracy")
                if len(by_k):
                    k, mean, spread, n = (float(x) for x in by_k.sort_values(by="mean").iloc[-1])
                    sampled = own.loc[own["k"] == k, "accuracy_stderr"].mean()
                    error = math.hypot(sampled, spread) if n > 1 else float(sampled)
                    found.append(Best(model, parameters, setting, str(method), int(k), mean, error, int(n), level))
    return found


def summary_table(rows: pd.DataFrame) -> list[dict[str, object]]:
    """A line per setting and model: its size, measured and predicted k* with intervals, accuracies with errors, chance.

    `k_predicted` is the prediction along the path where that was followed, else the quadratic's. Accuracies are the best means of full
    fine-tuning, LoRA and APET. None stands for what the rows do not hold and for censored values (their known end stays); `why_open` says
    why an interval has no end.
    """
    rows = tidy(rows)
    best = {(found.setting, found.model, found.method): found for found in best_accuracies(rows)}
    lines = []
    for setting in settings(rows):
        for model, parameters in models(rows).items():
            own = in_setting(of_model(rows, model), setting)
            if where(own, own["kind"].isin(ASKING)).empty:
                continue
            line: dict[str, object] = {"setting": setting.label, "model": model, "parameters": parameters}
            thresholds = {quantities.K_STAR: threshold(own, quantities.K_STAR), "k_predicted": prediction(own)}
            for name, found in thresholds.items():
                line |= _threshold(name, found)
            for method in METHODS:
                found = best.get((setting, model, method))
                line |= {f"accuracy_{method}": found.accuracy if found else None}
                line |= {f"accuracy_{method}_stderr": _or_none(found.error) if found else None}
            line["chance"] = _or_none(chance(runs(own)))
            line["why_open"] = "; ".join(f"{name} has {i.why_open}" for name, i in thresholds.items() if i and i.why_open)
            lines.append(line)
    return lines


def _threshold(name: str, found: Interval | None) -> dict[str, object]:
    ends = (math.nan,) * 3 if found is None else (found.value, found.low, found.high)
    numbers = zip((name, f"{name}_low", f"{name}_high"), map(_or_none, ends), strict=True)
    return {**dict(numbers), f"{name}_censored": found.censored or None if found else None}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
