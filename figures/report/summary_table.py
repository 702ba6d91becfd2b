"""A table with one line per setting and model: thresholds and best scores, for the end of a command and for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analyses.store import quantities
from figures.interval import Interval, prediction, threshold
from figures.report.by_target import by_target, on_target
from figures.rows import ASKING, Setting, chance, in_setting, means, metric_label, models, of_model, runs, settings, tidy, where

METHODS = ("full", "lora", "apet")  # methods whose scores a line shows


@dataclass(frozen=True)
class Best:
    """The best mean score (the task's main metric) of a method on one model: the mean over `n` runs at `k`, with its standard error.

    `error` combines the sampling error of the validation set, which the runs share, with the spread over runs.
    """

    model: str
    parameters: int
    setting: Setting
    method: str
    k: int
    metric: str  # label of the metric
    score: float
    error: float
    n: int
    chance: float

    @property
    def above(self) -> float:
        """Distance above chance in standard errors; NaN if the standard error or chance is unknown."""
        return (self.score - self.chance) / self.error if self.error > 0 else math.nan


def best_scores(rows: pd.DataFrame) -> list[Best]:
    """Return the k with the highest mean validation score, by setting, model size and method. `rows` come from `tidy`.

    The validation split both chooses k and is reported, so the best of many k is biased upwards.
    """
    best, trained = [], where(rows, rows["kind"] == "train")
    for setting in settings(rows):
        for model, parameters in models(trained).items():
            selected = in_setting(of_model(trained, model), setting)
            table, metric = runs(selected), metric_label(selected)
            level = chance(table)
            for method, of_method in table.groupby("method"):
                by_k = means(of_method, "score")
                if len(by_k):
                    k, mean, spread, n = (float(x) for x in by_k.sort_values(by="mean").iloc[-1])
                    sampled = of_method.loc[of_method["k"] == k, "score_stderr"].mean()
                    error = math.hypot(sampled, spread) if n > 1 else float(sampled)
                    best.append(Best(model, parameters, setting, str(method), int(k), metric, mean, error, int(n), level))
    return best


def summary_table(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Return a line per setting and model: its size, measured and predicted k* with intervals, scores with errors, and chance.

    `k_predicted` is the prediction along the path if it was followed, else from the quadratic. Scores are the best means of full
    fine-tuning, LoRA and APET. None stands for missing numbers and for censored values, whose known end is kept. `why_open` states the
    reason of an open interval.
    """
    rows = tidy(rows)
    bests = {(best.setting, best.model, best.method): best for best in best_scores(rows)}
    return [line for target, part in by_target(rows).items() for line in _lines(part, target, bests)]


def _lines(rows: pd.DataFrame, target: str, bests: dict[tuple[Setting, str, str], Best]) -> list[dict[str, object]]:
    """Return the lines of one target, which the setting names if the rows hold several."""
    lines = []
    for setting in settings(rows):
        for model, parameters in models(rows).items():
            selected = in_setting(of_model(rows, model), setting)
            if where(selected, selected["kind"].isin(ASKING)).empty:
                continue
            line: dict[str, object] = {"setting": on_target(setting.label, target), "model": model, "parameters": parameters}
            thresholds = {quantities.K_STAR: threshold(selected, quantities.K_STAR), "k_predicted": prediction(selected)}
            for name, interval in thresholds.items():
                line |= _threshold(name, interval)
            for method in METHODS:
                best = bests.get((setting, model, method))
                line |= {f"score_{method}": best.score if best else None}
                line |= {f"score_{method}_stderr": _or_none(best.error) if best else None}
            line["chance"] = _or_none(chance(runs(selected)))
            line["why_open"] = "; ".join(f"{name} has {i.why_open}" for name, i in thresholds.items() if i and i.why_open)
            lines.append(line)
    return lines


def _threshold(name: str, interval: Interval | None) -> dict[str, object]:
    ends = (math.nan,) * 3 if interval is None else (interval.value, interval.low, interval.high)
    numbers = zip((name, f"{name}_low", f"{name}_high"), map(_or_none, ends), strict=True)
    return {**dict(numbers), f"{name}_censored": interval.censored or None if interval else None}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
