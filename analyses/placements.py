"""How much it matters which entries are tuned, measured and predicted (finding F1 of Su et al., arXiv 2306.02320).

Placements are position seeds at one k. Measured is the training loss where their runs ended, predicted what the quadratic reaches in each
(a run of kind predict with k); both as a share of the untuned model's loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

import numpy as np

from analyses.store import Row
from analyses.targets import GROUP, Run

FEWEST = 4  # placements that a spread is taken over
MEASURED, PREDICTED = "measured", "predicted"
LOSSES = {MEASURED: ("loss", "initial_loss"), PREDICTED: ("placed_loss", "placed_initial_loss")}


def placement_rows(runs: Iterable[Run]) -> list[Row]:
    """Of every model, task, k and way of placing with FEWEST position seeds: placement_spread, the standard deviation over them, measured
    and predicted (`note`), its error by the jackknife; placement_correlation, Spearman's of the two, with its two-sided p in the note.

    Train seeds of one placement are averaged first. Runs that stopped early count for nothing.
    """
    groups: dict[tuple, dict[str, dict[int, list[float]]]] = defaultdict(lambda: {what: defaultdict(list) for what in LOSSES})
    first: dict[tuple, Run] = {}
    for run in runs:
        what = _what(run)
        if what is not None:
            key = (*(run.spec.get(name) for name in (*GROUP, "scope", "unit", "order")), run.k)
            last, untuned = (run.value(name, "train") for name in LOSSES[what])
            groups[key][what][run.spec["position_seed"]].append(last / untuned)
            first.setdefault(key, run)
    return [row for key, found in groups.items() for row in _rows(first[key], found)]


def _what(run: Run) -> str | None:
    """Whether the run says what a placement of entries reaches, and how."""
    if run.subspace != "coordinates":
        return None
    if run.tuned_by("apet"):
        return MEASURED if not run.spec["early_stop"] and not run.has("diverged") and run.has("initial_loss", "train") else None
    return PREDICTED if run.spec["kind"] == "predict" and run.has("placed_loss", "train") else None


def _rows(run: Run, found: dict[str, dict[int, list[float]]]) -> list[Row]:
    like = run.rows[0]
    shares = {what: {seed: mean(values) for seed, values in by_seed.items()} for what, by_seed in found.items()}
    common: dict[str, Any] = {
        "method": "apet", "subspace": "coordinates", "placement": next((row.placement for row in run.rows if row.placement), None),
        "k": run.k, "split": "train",
    }  # fmt: skip

    def row(quantity: str, value: float, **columns: Any) -> Row:
        return Row(like.model, like.parameters, like.task, quantity, value, **common, **columns)

    rows = []
    for what, by_seed in shares.items():
        if len(by_seed) >= FEWEST:
            spread, stderr = _spread(np.array(list(by_seed.values())))
            rows.append(row("placement_spread", spread, stderr=stderr, note=what, x=float(len(by_seed))))
    both = sorted(shares[MEASURED].keys() & shares[PREDICTED].keys())
    if len(both) >= FEWEST:
        from scipy.stats import spearmanr

        measured, predicted = ([shares[what][seed] for seed in both] for what in LOSSES)
        result: Any = spearmanr(measured, predicted)
        rows.append(row("placement_correlation", float(result.statistic), note=f"p {result.pvalue:.3g}", x=float(len(both))))
    return rows


def _spread(values: np.ndarray) -> tuple[float, float]:
    """(standard deviation, its standard error by the jackknife)."""
    n = len(values)
    each = np.array([np.delete(values, i).std(ddof=1) for i in range(n)])
    return float(values.std(ddof=1)), math.sqrt((n - 1) / n * float(((each - each.mean()) ** 2).sum()))
