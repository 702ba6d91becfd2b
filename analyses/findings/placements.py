"""The effect of placement on the training loss, measured and predicted (finding F1 of Su et al., arXiv 2306.02320).

Placements are position seeds at one k. The measured loss is the final training loss of a run. The predicted loss is the loss that the
quadratic reaches in the placement (a run of kind predict with k). Both are shares of the untuned model's loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

import numpy as np

from analyses.store import Row
from analyses.thresholds import Run

FEWEST = 4  # smallest number of placements for a standard deviation
CONVERGED = 0.1  # largest residual of conjugate gradients, as a share of |g|: the relative error of the loss is about its square
MEASURED, PREDICTED = "measured", "predicted"
LOSSES = {MEASURED: ("loss", "initial_loss"), PREDICTED: ("placed_loss", "placed_initial_loss")}


def placement_rows(runs: Iterable[Run]) -> list[Row]:
    """Return the rows about placements for every model, task, k, scope, unit, order and operations with at least FEWEST position seeds.

    placement_loss: one row per placement, in the series measured and predicted, averaged over train seeds.
    placement_spread: its standard deviation over placements, with a jackknife standard error.
    placement_correlation: the Spearman correlation of measured and predicted losses, with its two-sided p value.

    Measured runs count if they share the most common optimizer and number of steps, and neither use early stopping nor diverged. Predicted
    runs count if their conjugate gradients converged.
    """
    groups: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: {series: [] for series in LOSSES})
    for run in runs:
        series = _series(run)
        if series is not None:
            key = (*run.setting, *(run.spec.get(name) for name in ("scope", "unit", "order", "operations")), run.k)
            groups[key][series].append(run)
    return [
        row
        for by_series in groups.values()
        for row in _rows({series: _shares(series, _most_common(members)) for series, members in by_series.items()}, by_series)
    ]


def _most_common(runs: list[Run]) -> list[Run]:
    """Return the runs with the most common spec apart from seeds."""
    specs = [run.but("position_seed", "train_seed") for run in runs]
    common = max(sorted(set(specs)), key=specs.count, default="")
    return [run for run, spec in zip(runs, specs, strict=True) if spec == common]


def _shares(series: str, runs: list[Run]) -> dict[int, float]:
    """Return position seed -> mean loss as a share of the untuned model's loss."""
    shares: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        final, untuned = (run.value(name, "train") for name in LOSSES[series])
        shares[run.spec["position_seed"]].append(final / untuned)
    return {seed: mean(values) for seed, values in sorted(shares.items())}


def _series(run: Run) -> str | None:
    """Return MEASURED or PREDICTED if the run gives the loss of a placement of single entries, else None."""
    if run.subspace != "coordinates":
        return None
    if run.tuned_by("apet"):
        return MEASURED if not run.spec["early_stop"] and not run.has("diverged") and run.has("initial_loss", "train") else None
    if run.spec["kind"] != "predict" or not run.has("placed_loss", "train"):
        return None
    return PREDICTED if run.value("placed_residual", "train") <= CONVERGED else None


def _rows(shares: dict[str, dict[int, float]], runs: dict[str, list[Run]]) -> list[Row]:
    run = next(run for members in runs.values() for run in members)
    like = next(row for row in run.rows if row.placement)
    common: dict[str, Any] = {
        "protocol": like.protocol, "method": "apet", "subspace": "coordinates", "placement": like.placement, "k": run.k, "split": "train",
    }  # fmt: skip

    def row(quantity: str, value: float, **columns: Any) -> Row:
        return Row(like.model, like.parameters, like.task, quantity, value, **common, **columns)

    rows = []
    for series, by_seed in shares.items():
        if len(by_seed) >= FEWEST:
            rows += [row("placement_loss", share, series=series, position_seed=seed) for seed, share in by_seed.items()]
            spread, stderr = _spread(np.array(list(by_seed.values())))
            rows.append(row("placement_spread", spread, stderr=stderr, series=series, x=float(len(by_seed))))
    both = sorted(shares[MEASURED].keys() & shares[PREDICTED].keys())
    if len(both) >= FEWEST:
        from scipy.stats import spearmanr

        measured, predicted = ([shares[series][seed] for seed in both] for series in LOSSES)
        result: Any = spearmanr(measured, predicted)
        rows.append(row("placement_correlation", float(result.statistic), p=float(result.pvalue), x=float(len(both))))
    return rows


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Return (standard deviation, its jackknife standard error)."""
    from landscape.numerics import leave_one_out_stderr

    return float(values.std(ddof=1)), leave_one_out_stderr([np.delete(values, i).std(ddof=1) for i in range(len(values))])
