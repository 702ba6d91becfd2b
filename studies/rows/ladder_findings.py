"""What `findings` says about the committed studies of the ladder."""

from __future__ import annotations

from functools import cache

import numpy as np

from analyses.findings import findings
from analyses.store import Row, quantities
from studies.rows.committed import Tree, read

STUDIES = ("thresholds-ladder", "positions-ladder", "methods-ladder")  # at the default rate of APET
TUNED = ("thresholds-tuned",)


def claims(studies: tuple[str, ...] = STUDIES) -> Tree:
    """Return the estimate of every case with its interval and corrected p value: claim, case in words.

    The estimates of F3 are factors. An undecided case also has `needs`: how many times as much data would decide it.
    """
    tree: Tree = {}
    for row in _findings(studies):
        if row.quantity == quantities.CLAIM:
            numbers = _interval(row)
            if row.series == "F3":
                numbers = {name: float(np.exp(number)) for name, number in numbers.items()}
            tree.setdefault(row.series, {})[row.group] = {**numbers, "p": row.p}
        elif row.quantity == quantities.CLAIM_NEEDS:
            tree[row.series][row.group]["needs"] = row.value
    return tree


def single_tasks() -> Tree:
    """Return F1 over all families from the runs of one task alone: task."""
    rows = read("positions-ladder")
    tree: Tree = {}
    for task in ("mini-review", "sst2"):
        for row in findings(rows[rows["task"] == task]):
            if (row.series, row.quantity, row.group) == ("F1", quantities.CLAIM, "all families"):
                tree[task] = {**_interval(row), "p": row.p}
    return tree


def slopes(studies: tuple[str, ...] = STUDIES) -> Tree:
    """Return the slopes of log k, log (k / N) and gaps of methods over log N: models, threshold or gap, N with or without embeddings."""
    names = {quantities.SLOPE: "with", quantities.BODY_SLOPE: "without"}
    tree: Tree = {}
    for row in _findings(studies):
        if row.quantity in names:
            of = f"{row.method} gap" if row.series == "method_gap" else row.series
            tree.setdefault(row.model, {}).setdefault(of, {})[f"{names[row.quantity]} embeddings"] = _interval(row)
    return tree


def tuned() -> Tree:
    """Return the claims and slopes of the thresholds at the best rates."""
    return {"claims": claims(TUNED), "slopes": slopes(TUNED)}


def spreads() -> Tree:
    """Return the standard deviations of accuracy over positions and over train seeds: task, model, quantity."""
    tree: Tree = {}
    for row in _findings():
        if row.quantity in ("position_sd", "train_sd"):
            tree.setdefault(row.task, {}).setdefault(row.model, {})[row.quantity] = _interval(row)
    return tree


def gaps() -> Tree:
    """Return the accuracy of a method less that of APET with as many entries at random positions: method, model."""
    tree: Tree = {}
    for row in _findings():
        if row.quantity == "method_gap":
            tree.setdefault(row.group, {})[row.model] = _interval(row)
    return tree


def _interval(row: Row) -> Tree:
    return {"value": row.value, "low": row.low, "high": row.high}


def _findings(studies: tuple[str, ...] = STUDIES) -> list[Row]:
    return [row for study in studies for row in _of(study)]


@cache
def _of(study: str) -> list[Row]:
    return findings(read(study))
