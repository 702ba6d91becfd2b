"""Accuracy of predicted thresholds, from the committed rows of studies/predict-ladder.yaml (`analyses.findings.Cell` is one threshold).

Targets are .5, .75 and .9 of the improvement of the training loss. A cell counts if both numbers are uncensored. Cells whose prediction
exceeds 30 % of the rank ceiling are scored separately. Cells that were measured above or below their range, or not predicted, are only
counted.

The predictor is m1 of the linearised path. The bracket reaches from gm of the model's own path to m0 of the linearised path. Both were
chosen on the generated tasks and the three smallest models. SST-2 and larger models were held out and scored once. More runs have been
measured since; the predictor is unchanged.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from analyses.findings import PREDICTOR, Cell, cells
from analyses.store import quantities
from figures.rows import pick, tidy, where

ROWS = Path(__file__).resolve().parents[1] / "studies" / "rows" / "predict-ladder.parquet"
TARGETS = (0.5, 0.75, 0.9)
CHOSEN_ON = (("mini-nli", "mini-qa"), ("mini-t5-130k", "mini-t5-240k", "mini-t5-790k"))
SHOWN = (PREDICTOR, quantities.K_M0, quantities.K_GM, quantities.K_PRED, quantities.K_PATH_GM, quantities.K_PATH_M1, quantities.K_PATH_T5,
         quantities.K_GORDON, quantities.K_LARSEN)  # fmt: skip
BUDGET = 600 * 64  # example gradients of one training run of the study
SPENT = {"prediction": "example_gradients", "linear_path": "linear_path_example_gradients", "path": "path_example_gradients"}


def scored(say: bool) -> dict[str, float | None]:
    """Return the benchmark's figures (None for an empty set of cells). With `say`, print a table of all predictors."""
    import pandas as pd

    rows = tidy(pd.read_parquet(ROWS))
    selected = [cell for cell in cells(rows) if cell.target in TARGETS]
    if say:
        _table(selected)
    out: dict[str, float] = {}
    held_out = [cell for cell in selected if cell.task not in CHOSEN_ON[0] or cell.model not in CHOSEN_ON[1]]
    for name, group in {"": selected, "held_out_": held_out}.items():
        known = [cell for cell in group if math.isfinite(cell.error())]
        free, bound = ([cell for cell in known if cell.over_rank == over] for over in (False, True))
        out |= {
            f"{name}cells": len(free),
            f"{name}median_abs_log_error": _median(free),
            f"{name}cells_over_rank": len(bound),
            f"{name}median_abs_log_error_over_rank": _median(bound),
            f"{name}cells_censored": sum(math.isnan(cell.measured) for cell in group),
            f"{name}cells_unpredicted": sum(math.isfinite(cell.measured) and math.isnan(cell.value()) for cell in group),
        }
    brackets = [cell for cell in selected if cell.subspace == "fastfood" and math.isfinite(cell.bracket[0] + cell.measured)]
    gordon = [
        cell
        for cell in selected
        if cell.subspace == "fastfood" and math.isfinite(cell.value(quantities.K_GORDON) + cell.error(quantities.K_M1))
    ]
    under = [cell.value(quantities.K_GORDON) <= cell.measured <= cell.value(quantities.K_M1) for cell in gordon]
    spent = {name: pick(where(rows, rows["method"] == ""), quantity)["value"].to_numpy() for name, quantity in SPENT.items()}
    out |= {
        "bracket_cells": len(brackets),
        "bracket_coverage": _mean([_covers(cell) for cell in brackets]),
        "bracket_width": float(np.median([cell.bracket[1] / cell.bracket[0] for cell in brackets])) if brackets else math.nan,
        "held_out_bracket_coverage": _mean([_covers(cell) for cell in brackets if cell in held_out]),
        "gordon_bracket_coverage": _mean(under),
        **{f"{name}_cost_runs": (float(taken.max()) if len(taken) else math.nan) / BUDGET for name, taken in spent.items()},
    }
    return {name: None if math.isnan(value) else value for name, value in out.items()}


def _mean(values: list[bool]) -> float:
    return float(np.mean(values)) if values else math.nan


def _covers(cell: Cell) -> bool:
    return cell.bracket[0] <= cell.measured <= cell.bracket[1]


def _median(group: list[Cell], name: str = PREDICTOR, sign: bool = False) -> float:
    errors = [cell.error(name) if sign else abs(cell.error(name)) for cell in group if math.isfinite(cell.error(name))]
    return float(np.median(errors)) if errors else math.nan


def _table(selected: list[Cell]) -> None:
    """Print the median |log error| of every predictor over all cells, and the median signed log error of the chosen predictor."""
    print(f"{'subspace, task, target':34}{'cells':>6}", *(f"{name:>9}" for name in SHOWN), f"{'signed':>9}")
    for key in sorted({(cell.subspace, cell.task, cell.target) for cell in selected}):
        group = [cell for cell in selected if (cell.subspace, cell.task, cell.target) == key and math.isfinite(cell.measured)]
        errors = [f"{_median(group, name):9.2f}" for name in SHOWN]
        print(f"{', '.join(map(str, key)):34}{len(group):6}", *errors, f"{_median(group, sign=True):9.2f}")
