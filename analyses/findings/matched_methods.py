"""Parameter-efficient methods against their twins: APET with as many entries at random positions (Su et al., arXiv 2306.02320).

The gap of a method on one model and task is its mean score less its twin's. Runs of both are found by their k in the rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from analyses.findings.claims import Answer, Case, Population, bracket, cases_of, is_within
from analyses.findings.families import family
from analyses.findings.position_spreads import complete
from analyses.findings.regressions import Point, described, mean, slope
from analyses.findings.scores import HEAD, Frame, apet_entries, other_methods, scores
from analyses.store import Row, quantities

CLOSE = 0.02  # margin of equivalence in the main metric
RANDOM = "add random entry"  # placements of single existing entries in random order begin with it; a scope may follow


def gap_rows(rows: Frame) -> list[Row]:
    """Return a row of `method_gap` per model, task, protocol, method and twin. The group is the method with its options.

    The standard error combines the errors of both means over seeds (`_mean_error`). The interval is Welch's t (1947, doi
    10.2307/2332510), or normal with a single run on both sides.
    """
    lines = scores(rows)
    entries, same = apet_entries(lines), ["model", "parameters", "task", "protocol", "k"]
    twins = {key: list(own.groupby("placement")) for key, own in entries[entries["placement"].str.startswith(RANDOM)].groupby(same)}
    return [
        _gap_row(key, (str(method), str(options)), own, str(placement), twin)
        for (*key, method, options), own in other_methods(lines).groupby([*same, "method", "placement"])
        for placement, twin in twins.get(tuple(key), ())
    ]


def _gap_row(key: list[Any], method: tuple[str, str], own: Frame, placement: str, twin: Frame) -> Row:
    from landscape.numerics import t_quantile

    model, parameters, task, protocol, k = key
    gap = float(own["value"].mean() - twin["value"].mean())
    (variance, dof), (other, other_dof) = _mean_error(own), _mean_error(twin)
    stderr, weights = math.sqrt(variance + other), variance**2 / dof + other**2 / other_dof
    half = t_quantile(min((variance + other) ** 2 / weights, 1e6) if weights > 0 else 1e6) * stderr
    shown = protocol.removesuffix(HEAD)  # as in the rows of the runs
    name = " ".join(filter(None, (*method, placement.removeprefix(RANDOM).strip()))) + protocol.removeprefix(shown)
    return Row(
        str(model), int(parameters), str(task), "method_gap", gap, stderr=stderr, low=gap - half, high=gap + half, kind="finding",
        protocol=shown, split="validation", method=method[0], k=int(k), group=name,
    )  # fmt: skip


def _mean_error(side: Frame) -> tuple[float, float]:
    """Return (variance of the mean score, its degrees of freedom).

    In a complete table of position seeds by train seeds, runs share seeds, so the variance sums the shares of both components. A single
    run has the variance over its examples.
    """
    if len(side) == 1:
        return float(side["stderr"].iloc[0]) ** 2, math.inf
    table = complete(side)
    if table is None or table.size < len(side) or np.ptp(table) == 0:
        return float(side["value"].var(ddof=1)) / len(side), len(side) - 1
    from landscape.inference import Crossed

    crossed = Crossed(table)
    rows, columns, residual = crossed.mean_squares
    variance, parts = max(rows + columns - residual, residual), np.array([rows, columns, residual])
    return variance / table.size, variance**2 / float((parts**2 / np.array(crossed.degrees)).sum())


def method_cases(gaps: list[Row], size: dict[str, int]) -> list[Case]:
    """Return the cases of the claim that a method and its twin score alike, with the slopes of the gaps over log N.

    gaps: what `gap_rows` returns. size: model -> number of parameters.
    """

    def judge(method: str, own: Population[Point]) -> Answer:
        estimate, numbers = mean(own.members), ()
        result = f"the method scores {bracket(estimate.value, estimate.low, estimate.high)} above its twin (margin {CLOSE:g})"
        with suppress(ValueError):
            change = slope(own.members, size)
            result += f"; the gap changes by {bracket(change.value, change.low, change.high)} per factor e of N"
            numbers = (
                Row(own.models, 0, own.task, quantities.SLOPE, change.value, low=change.low, high=change.high, series="method_gap",
                    method=names[method], kind="finding", note=method),
            )  # fmt: skip
        return Answer(estimate, is_within(estimate, CLOSE), result, described(own.members), numbers)

    names, by_method = {row.group: row.method for row in gaps}, defaultdict[str, list[Point]](list)
    for row in gaps:
        if math.isfinite(row.stderr):
            by_method[row.group].append(Point(family(row.model), row.model, row.task, row.value, row.value, row.stderr))
    return [case for method, points in sorted(by_method.items()) for case in cases_of("methods", method, points, partial(judge, method))]
