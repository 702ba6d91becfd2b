"""One line a model: thresholds and best accuracies, for the end of a command and for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from figures.interval import Interval, threshold
from figures.rows import Setting, chance, in_setting, means, models, of_model, runs, settings, tidy


@dataclass(frozen=True)
class Best:
    """The best mean accuracy of a method on one model: the mean over `n` runs at `k`, and its standard error."""

    model: str
    parameters: int
    setting: Setting
    method: str
    k: int
    accuracy: float
    stderr: float
    n: int
    chance: float


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
                    k, mean, stderr, n = (float(x) for x in by_k.sort_values(by="mean").iloc[-1])
                    found.append(Best(model, parameters, setting, str(method), int(k), mean, stderr, int(n), level))
    return found


def summary_table(rows: pd.DataFrame) -> list[dict[str, object]]:
    """A line per setting and model: its size, measured and predicted k with intervals, accuracies, chance.

    Accuracies are the best means of full fine-tuning, LoRA and APET. None stands for what the rows do not hold
    and for censored values (their known end stays).
    """
    rows = tidy(rows)
    best = {(found.setting, found.model, found.method): found for found in best_accuracies(rows)}
    lines = []
    for setting in settings(rows):
        for model, parameters in models(rows).items():
            own = in_setting(of_model(rows, model), setting)
            if own.empty:
                continue
            line: dict[str, object] = {"model": model, "parameters": parameters, "task": setting.label}
            for quantity in ("k_star", "k_pred"):
                line |= _threshold(quantity, threshold(own, quantity))
            for method in ("full", "lora", "apet"):
                found = best.get((setting, model, method))
                line[f"accuracy_{method}"] = found.accuracy if found else None
            line["chance"] = _or_none(chance(runs(own)))
            lines.append(line)
    return lines


def _threshold(quantity: str, found: Interval | None) -> dict[str, object]:
    ends = (math.nan,) * 3 if found is None else (found.value, found.low, found.high)
    return dict(zip((quantity, f"{quantity}_low", f"{quantity}_high"), map(_or_none, ends), strict=True))


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
