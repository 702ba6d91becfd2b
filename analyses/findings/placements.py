"""How much it matters which entries are tuned, measured and predicted (finding F1 of Su et al., arXiv 2306.02320).

Placements are position seeds at one k. Measured is the training loss where their runs ended, predicted what the quadratic reaches in each
(a run of kind predict with k); both as a share of the untuned model's loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

import numpy as np

from analyses.store import Row
from analyses.thresholds import Run

FEWEST = 4  # placements that a spread is taken over
CONVERGED = 0.1  # of |g|, within which conjugate gradients must have solved: the loss errs by about its square
MEASURED, PREDICTED = "measured", "predicted"
LOSSES = {MEASURED: ("loss", "initial_loss"), PREDICTED: ("placed_loss", "placed_initial_loss")}


def placement_rows(runs: Iterable[Run]) -> list[Row]:
    """Of every model, task, k and way of placing with FEWEST position seeds: placement_loss of each, the series measured and predicted,
    train seeds averaged; placement_spread, the standard deviation over them, its error by the jackknife; placement_correlation,
    Spearman's of the two, with its two-sided p.

    Of measured runs those of the optimizer and number of steps that most of them share count, and none that stopped early or diverged; of
    predicted ones those whose conjugate gradients converged.
    """
    groups: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: {what: [] for what in LOSSES})
    for run in runs:
        what = _what(run)
        if what is not None:
            key = (*run.setting, *(run.spec.get(name) for name in ("scope", "unit", "order", "operations")), run.k)
            groups[key][what].append(run)
    return [row for found in groups.values() for row in _rows({what: _shares(what, _alike(own)) for what, own in found.items()}, found)]


def _alike(runs: list[Run]) -> list[Run]:
    """Those that were trained in the way that most of them were."""
    ways = [run.but("position_seed", "train_seed") for run in runs]
    common = max(sorted(set(ways)), key=ways.count, default="")
    return [run for run, way in zip(runs, ways, strict=True) if way == common]


def _shares(what: str, runs: list[Run]) -> dict[int, float]:
    """position seed -> mean loss as a share of the untuned model's."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        last, untuned = (run.value(name, "train") for name in LOSSES[what])
        found[run.spec["position_seed"]].append(last / untuned)
    return {seed: mean(values) for seed, values in sorted(found.items())}


def _what(run: Run) -> str | None:
    """Whether the run says what a placement of entries reaches, and how."""
    if run.subspace != "coordinates":
        return None
    if run.tuned_by("apet"):
        return MEASURED if not run.spec["early_stop"] and not run.has("diverged") and run.has("initial_loss", "train") else None
    if run.spec["kind"] != "predict" or not run.has("placed_loss", "train"):
        return None
    return PREDICTED if run.value("placed_residual", "train") <= CONVERGED else None


def _rows(shares: dict[str, dict[int, float]], runs: dict[str, list[Run]]) -> list[Row]:
    run = next(run for own in runs.values() for run in own)
    like = next(row for row in run.rows if row.placement)
    common: dict[str, Any] = {
        "protocol": like.protocol, "method": "apet", "subspace": "coordinates", "placement": like.placement, "k": run.k, "split": "train",
    }  # fmt: skip

    def row(quantity: str, value: float, **columns: Any) -> Row:
        return Row(like.model, like.parameters, like.task, quantity, value, **common, **columns)

    rows = []
    for what, by_seed in shares.items():
        if len(by_seed) >= FEWEST:
            rows += [row("placement_loss", share, series=what, position_seed=seed) for seed, share in by_seed.items()]
            spread, stderr = _spread(np.array(list(by_seed.values())))
            rows.append(row("placement_spread", spread, stderr=stderr, series=what, x=float(len(by_seed))))
    both = sorted(shares[MEASURED].keys() & shares[PREDICTED].keys())
    if len(both) >= FEWEST:
        from scipy.stats import spearmanr

        measured, predicted = ([shares[what][seed] for seed in both] for what in LOSSES)
        result: Any = spearmanr(measured, predicted)
        rows.append(row("placement_correlation", float(result.statistic), p=float(result.pvalue), x=float(len(both))))
    return rows


def _spread(values: np.ndarray) -> tuple[float, float]:
    """(standard deviation, its standard error by the jackknife)."""
    from landscape.numerics import leave_one_out_stderr

    return float(values.std(ddof=1)), leave_one_out_stderr([np.delete(values, i).std(ddof=1) for i in range(len(values))])
