"""Losses and accuracies by learning rate, from the committed studies of rates."""

from __future__ import annotations

import math
from typing import Any

from analyses.findings import family
from analyses.findings.regressions import Point, slope
from apet.methods import default_rate
from studies.rows.committed import Tree, read

FACTORS = (1 / 3, 1, 3, 10, 30)  # of the default rate, about the rates of `studies/rates-by-size.yaml`


def rates() -> Tree:
    """Return the mean final training loss over models and tasks: k, learning rate."""
    means = _runs("rates").groupby(["k", "rate"])["loss"].mean()
    tree: Tree = {}
    for (k, rate), mean in means.items():
        tree.setdefault(f"{k:.0f}", {})[f"{rate:g}"] = float(mean)
    return tree


def method_rates() -> Tree:
    """Return the rate with the lowest training loss and the accuracy there, of a method and of its twin: model, method, method or twin."""
    runs = _runs("method-rates")
    best = runs.loc[runs.groupby(["model", "method", "k"])["loss"].idxmin()]
    tree: Tree = {}
    for method in best[best["method"] != "apet"].itertuples():
        twin = best[(best["method"] == "apet") & (best["model"] == method.model) & (best["k"] == method.k)].iloc[0]
        names = ("rate", "loss", "accuracy")
        sides = {"method": {name: float(getattr(method, name)) for name in names}, "twin": {name: float(twin[name]) for name in names}}
        tree.setdefault(method.model, {})[method.method] = {**sides, "k": int(method.k)}
    return tree


def best_rates() -> Tree:
    """Return the best of the rates of `studies/rates-by-size.yaml`, which has the lowest training loss: model, k.

    Each has the rate, its nearest multiple of the default in `FACTORS`, the accuracy there, and the accuracy at the default rate.
    """
    runs = _runs("rates-by-size")
    runs["factor"] = [_factor(rate / default_rate("apet", k)) for rate, k in zip(runs["rate"], runs["k"], strict=True)]
    tree: Tree = {}
    for (model, k), own in runs.groupby(["model", "k"]):
        best, default = own.loc[own["loss"].idxmin()], own[own["factor"] == 1].iloc[0]
        numbers = {"rate": best["rate"], "factor": best["factor"], "accuracy": best["accuracy"], "default": default["accuracy"]}
        tree.setdefault(model, {})[f"{k:.0f}"] = {name: float(number) for name, number in numbers.items()}
    return tree


def rate_slope() -> Tree:
    """Return the slope of the log of the best multiple for 1,000 entries over log N, with an intercept per family."""
    sizes = read("rates-by-size").groupby("model")["parameters"].first().to_dict()
    logs = {model: math.log(by_k["1000"]["factor"]) for model, by_k in best_rates().items()}
    found = slope([Point(family(model), model, "mini-review", log, log) for model, log in logs.items()], sizes)
    return {"value": found.value, "low": found.low, "high": found.high}


def tuned_gains() -> Tree:
    """Return how accuracy changes at the best rates, over pairs of APET runs with equal seeds and different rates: task.

    Each task has the number of pairs, of pairs with a higher accuracy at the best rate, and the mean change.
    """
    tuned, default = (_runs(name).query("method == 'apet'") for name in ("thresholds-tuned", "thresholds-ladder"))
    pairs = tuned.merge(default, on=["task", "model", "k", "train_seed"], suffixes=("", "_default"))
    pairs = pairs[pairs["rate"] != pairs["rate_default"]]
    changes = (pairs["accuracy"] - pairs["accuracy_default"]).groupby(pairs["task"])
    return {task: {"pairs": len(own), "higher": int((own > 0).sum()), "mean": float(own.mean())} for task, own in changes}


def _factor(ratio: float) -> float:
    return min(FACTORS, key=lambda factor: abs(math.log(factor / ratio)))


def _runs(name: str) -> Any:
    """Return one line per training run of a committed study: its setting, learning rate, final training loss and accuracy."""
    rows = read(name).query("kind == 'train'")
    loss, accuracy, rate = (_by_run(rows, *of) for of in (("loss", "train"), ("accuracy", "validation"), ("learning_rate",)))
    return (
        rows.drop_duplicates("run_id")
        .set_index("run_id")[["task", "model", "method", "k", "train_seed"]]
        .assign(loss=loss, accuracy=accuracy, rate=rate)
    )


def _by_run(rows: Any, quantity: str, split: str | None = None) -> Any:
    own = rows[rows["quantity"] == quantity]
    return (own if split is None else own[own["split"] == split]).set_index("run_id")["value"]
