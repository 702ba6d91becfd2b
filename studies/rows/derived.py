"""Compute the numbers that pages derive from committed rows: `python studies/rows/derived.py [SECTION]` prints them as JSON.

The pages under docs/ quote medians, ratios and differences of several rows. `derived()` returns all of them, and a test compares the
pages with it. The sections:

- `thresholds`: measured and predicted thresholds of the ladder by task, subspace, share of the improvement and model
- `cells`: how well each predictor agrees with the measured thresholds
- `costs`: the cost of predictions in training runs
- `twins`: pretrained models against their random-init twins
- `spectra`: curvature over the ladder
- `rates`: mean training loss of APET by k and learning rate
- `claims`: the findings of the ladder's studies of F1, F2 and F3: claim, case
- `single_tasks`: F1 from one task alone
- `slopes`: the slopes of thresholds and of gaps of methods over size
- `tuned`: `claims` and `slopes` of the thresholds at the best rates
- `spreads`: standard deviations of the accuracy over positions and over train seeds
- `gaps`: differences between methods and APET with as many entries
- `method_rates`: the best rates of methods and of APET with as many entries
- `best_rates`, `rate_slope`: the best rates of APET by model and k, and how they change with size
- `tuned_gains`: accuracy at the best rates against accuracy at the default rate
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analyses.findings import Cell
from analyses.findings import cells as cells_of
from analyses.store import quantities
from benchmarks.cells import BUDGET, CHOSEN_ON, SHOWN, SPENT, TARGETS, scored
from figures.rows import tidy
from studies.rows.committed import Tree, read
from studies.rows.ladder_findings import claims, gaps, single_tasks, slopes, spreads, tuned
from studies.rows.learning_rates import best_rates, method_rates, rate_slope, rates, tuned_gains

SIZES = {"sst2": (872, 1821)}  # examples of the validation and test split
GENERATED = (1000, 1000)
TWIN = " (random init)"
FAMILIES = ("t5", "bert", "bloom")
SMALL = ("mini-t5-130k", "mini-t5-240k", "mini-t5-790k")  # eleven k per subspace on text


def _ladder() -> Any:
    return tidy(read("predict-ladder"))


def thresholds() -> Tree:
    """Return the measured and predicted thresholds: task, subspace, share of the improvement, model, quantity."""
    tree: Tree = {}
    for cell in cells_of(_ladder()):
        models = tree.setdefault(cell.task, {}).setdefault(cell.subspace, {}).setdefault(str(cell.target), {})
        star = {"value": cell.measured, "low": cell.low, "high": cell.high}
        models[cell.model] = {quantities.K_STAR: star, **{name: cell.value(name) for name in SHOWN}}
    return tree


def costs() -> Tree:
    """Return the example-gradients of each prediction over the example-gradients of one training run of the study, by task and model."""
    rows = _ladder()
    rows = rows[(rows["kind"] == "predict") & rows["quantity"].isin(SPENT.values())]
    most = rows.groupby(["task", "model", "quantity"])["value"].max() / BUDGET
    names = {quantity: name for name, quantity in SPENT.items()}
    tree: Tree = {}
    for (task, model, quantity), value in most.items():
        tree.setdefault(task, {}).setdefault(model, {})[names[quantity]] = float(value)
    return tree


def cells() -> Tree:
    """Return the errors of every predictor: `overall` as `benchmarks/cells.py` scores them, then by task, subspace and target."""
    found = [each for each in cells_of(_ladder()) if each.target in TARGETS]
    known = [each for each in found if math.isfinite(each.error())]
    tree: Tree = {"overall": scored(False)}
    for task, subspace, target in sorted({(each.task, each.subspace, each.target) for each in known}):
        own = [each for each in known if (each.task, each.subspace, each.target) == (task, subspace, target)]
        errors = {name: _median([abs(each.error(name)) for each in own]) for name in SHOWN}
        tree.setdefault(task, {}).setdefault(subspace, {})[str(target)] = {"cells": len(own), **errors}
    for name, own in {"text": [each for each in known if not each.over_rank], "labels": [each for each in known if each.over_rank]}.items():
        tree[f"signed_{name}"] = {str(target): _signed([each for each in own if each.target == target]) for target in TARGETS}
    small = [each for each in known if not each.over_rank and each.model in SMALL]
    tree["text_of_small_models"] = {"cells": len(small), "median": _median([abs(each.error()) for each in small])}
    tree["touching_quadratic"] = _touching(known)
    tree["bracket"] = _bracket(found)
    return tree


def _bracket(found: list[Cell]) -> Tree:
    """Return how many measured thresholds of random directions have a bracket, how many are held out, and how many it covers."""
    own = [each for each in found if each.subspace == "fastfood" and math.isfinite(each.bracket[0] + each.measured)]
    held_out = sum(each.task not in CHOSEN_ON[0] or each.model not in CHOSEN_ON[1] for each in own)
    return {"cells": len(own), "held_out": held_out, "covered": sum(each.bracket[0] <= each.measured <= each.bracket[1] for each in own)}


def _signed(own: list[Cell]) -> Tree:
    errors = [each.error() for each in own]
    return {"median": _median(errors), "largest": max(errors)}


def _touching(known: list[Cell]) -> Tree:
    """Return how `k_path_t5` and m1 err on the cells of entries that have both."""
    own = [each for each in known if each.subspace == "coordinates" and math.isfinite(each.error(quantities.K_PATH_T5))]
    t5, m1 = ([abs(each.error(name)) for each in own] for name in (quantities.K_PATH_T5, quantities.K_M1))
    nearer = sum(one < other for one, other in zip(t5, m1, strict=True))
    return {"cells": len(own), "t5": _median(t5), "m1": _median(m1), "nearer": nearer}


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else None


def twins() -> Tree:
    """Return accuracy over validation and test split together, by task and model, and how many standard errors twins lie apart."""
    tables = [read(name).set_index(["task", "model"]) for name in ("twins", "twins-test")]
    tree: Tree = {}
    for task, model in sorted(set(tables[0].index)):
        if not model.endswith(TWIN):
            pretrained, twin = (_both(tables, task, model + ending) for ending in ("", TWIN))
            splits = [_apart(*(_split(table, task, model + ending) for ending in ("", TWIN))) for table in tables]
            apart = {"apart": _apart(pretrained, twin), "apart_validation": splits[0], "apart_test": splits[1]}
            tree.setdefault(task, {})[model] = {"pretrained": pretrained, "twin": twin, **apart}
    return tree


def _split(table: Any, task: str, model: str) -> Tree:
    row = table.loc[(task, model)]
    return {"value": float(row["value"]), "stderr": float(row["stderr"])}


def _both(tables: list[Any], task: str, model: str) -> Tree:
    sizes = np.array(SIZES.get(task, GENERATED))
    splits = [_split(table, task, model) for table in tables]
    value = float(sizes @ np.array([each["value"] for each in splits]) / sizes.sum())
    return {"value": value, "stderr": float(np.linalg.norm(sizes * np.array([each["stderr"] for each in splits])) / sizes.sum())}


def _apart(one: Tree, other: Tree) -> float:
    return (one["value"] - other["value"]) / math.hypot(one["stderr"], other["stderr"])


def spectra() -> Tree:
    """Return, by family, how far traces fall, and over models the ranges of effective ranks, negative mass and norms' curvature."""
    rows = read("spectra-ladder")
    means = rows[rows["x"].isna()].groupby(["matrix", "quantity", "task", "parameters", "model"])["value"].mean()
    tree: Tree = {}
    for task in ("sst2", "mini-nli"):
        trace = {model: value for (_, model), value in means["ggn", "trace", task].sort_index().items()}
        for family in FAMILIES:
            own = [value for model, value in trace.items() if model.startswith(f"mini-{family}-")]
            tree.setdefault("trace_falls", {}).setdefault(task, {})[family] = own[0] / own[-1]
    tree["effective_rank"] = {matrix: _range(means[matrix, "effective_rank"]) for matrix in ("ggn", "hessian")}
    tree["negative_mass"] = _range(means["hessian", "negative_mass"])
    tree["norms"] = {family: _range(_norms(rows, family)) for family in FAMILIES}
    return tree


def _range(values: Any) -> Tree:
    return {"lowest": float(values.min()), "highest": float(values.max())}


def _norms(rows: Any, family: str) -> Any:
    """Return the mean curvature of a norm's entry over the mean curvature of an entry of other kinds, by matrix, task and model."""
    own = rows[rows["model"].str.startswith(f"mini-{family}-") & (rows["series"] == "kind") & (rows["matrix"] == "ggn")]
    blocks = own.pivot_table(index=["task", "model", "run_id", "group"], columns="quantity", values="value").reset_index()
    blocks["kind"] = np.where(blocks["group"] == "norms", "norms", "others")
    sums = blocks.groupby(["task", "model", "kind"])[["block_trace", "block_size"]].sum()
    mean = (sums["block_trace"] / sums["block_size"]).unstack()
    return mean["norms"] / mean["others"]


SECTIONS: dict[str, Callable[[], Tree]] = {
    "thresholds": thresholds,
    "cells": cells,
    "costs": costs,
    "twins": twins,
    "spectra": spectra,
    "rates": rates,
    "claims": claims,
    "single_tasks": single_tasks,
    "slopes": slopes,
    "tuned": tuned,
    "spreads": spreads,
    "gaps": gaps,
    "method_rates": method_rates,
    "best_rates": best_rates,
    "rate_slope": rate_slope,
    "tuned_gains": tuned_gains,
}


def derived() -> Tree:
    """Return all sections."""
    return {name: section() for name, section in SECTIONS.items()}


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(SECTIONS)
    print(json.dumps({name: SECTIONS[name]() for name in wanted}, indent=1))
