"""Losses and accuracies by learning rate, from the committed studies of rates."""

from __future__ import annotations

from typing import Any

from studies.rows.committed import Tree, read


def rates() -> Tree:
    """Return the mean final training loss over models and tasks: k, learning rate."""
    rows = read("rates")
    losses = rows[(rows["quantity"] == "loss") & (rows["split"] == "train")]
    means = losses.assign(rate=losses["run_id"].map(_by_run(rows, "learning_rate"))).groupby(["k", "rate"])["value"].mean()
    tree: Tree = {}
    for (k, rate), mean in means.items():
        tree.setdefault(f"{k:.0f}", {})[f"{rate:g}"] = float(mean)
    return tree


def method_rates() -> Tree:
    """Return the rate with the lowest training loss and the accuracy there, of a method and of its twin: model, method, method or twin."""
    rows = read("method-rates")
    loss, accuracy, rate = (_by_run(rows, *of) for of in (("loss", "train"), ("accuracy", "validation"), ("learning_rate",)))
    runs = rows.drop_duplicates("run_id").set_index("run_id")[["model", "method", "k"]].assign(loss=loss, accuracy=accuracy, rate=rate)
    best = runs.loc[runs.groupby(["model", "method", "k"])["loss"].idxmin()]
    tree: Tree = {}
    for method in best[best["method"] != "apet"].itertuples():
        twin = best[(best["method"] == "apet") & (best["model"] == method.model) & (best["k"] == method.k)].iloc[0]
        names = ("rate", "loss", "accuracy")
        sides = {"method": {name: float(getattr(method, name)) for name in names}, "twin": {name: float(twin[name]) for name in names}}
        tree.setdefault(method.model, {})[method.method] = {**sides, "k": int(method.k)}
    return tree


def rates_by_size() -> Tree:
    """Return the accuracy of 1,000 entries: model, learning rate."""
    rows = read("rates-by-size")
    accuracy, rate = _by_run(rows, "accuracy", "validation"), _by_run(rows, "learning_rate")
    tree: Tree = {}
    for run, model in rows.drop_duplicates("run_id").set_index("run_id")["model"].items():
        tree.setdefault(model, {})[f"{rate[run]:g}"] = float(accuracy[run])
    return tree


def _by_run(rows: Any, quantity: str, split: str | None = None) -> Any:
    own = rows[rows["quantity"] == quantity]
    return (own if split is None else own[own["split"] == split]).set_index("run_id")["value"]
