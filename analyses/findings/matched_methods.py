"""Parameter-efficient methods against their twins: APET with as many entries at random positions (Su et al., arXiv 2306.02320).

The gap of a method on one model and task is its mean score less its twin's. Runs of both are found by their k in the rows.
"""

from __future__ import annotations

import math
from typing import Any

from analyses.findings.claims import Case, bracket, is_within
from analyses.findings.families import family
from analyses.findings.regressions import Point, described, mean, populations, slope
from analyses.findings.scores import Frame, scores, sizes
from analyses.store import Row

CLOSE = 0.02  # margin of equivalence in the main metric


def gap_rows(rows: Frame) -> list[Row]:
    """Return a row of `method_gap` per model, task, protocol and method with a twin.

    The standard error combines both spreads over seeds. A side with a single run has the standard error over its examples. The interval is
    Welch's t (1947, doi 10.2307/2332510), or normal with a single run on both sides.
    """
    lines, result = scores(rows), []
    for (model, parameters, task, protocol), group in lines.groupby(["model", "parameters", "task", "protocol"]):
        random = group[(group["method"] == "apet") & (group["subspace"] == "coordinates")]
        for (method, k), own in group[~group["method"].isin(["apet", "full"])].groupby(["method", "k"]):
            twin = random[random["k"] == k]
            if len(twin):
                gap = float(own["value"].mean() - twin["value"].mean())
                stderr, dof = _stderr(own, twin)
                half = _quantile(dof) * stderr
                result.append(
                    Row(
                        str(model), int(parameters), str(task), "method_gap", gap, stderr=stderr, low=gap - half, high=gap + half,
                        kind="finding", protocol=str(protocol), split="validation", method=str(method), k=int(k),
                    )
                )  # fmt: skip
    return result


def _stderr(*sides: Frame) -> tuple[float, float]:
    """Return (standard error of the difference of two means, its degrees of freedom)."""
    variances = [
        (float(side["value"].var(ddof=1)) / len(side), len(side) - 1) if len(side) > 1 else (float(side["stderr"].iloc[0]) ** 2, math.inf)
        for side in sides
    ]
    total = sum(variance for variance, _ in variances)
    weights = sum(variance**2 / dof for variance, dof in variances)
    return math.sqrt(total), total**2 / weights if weights > 0 else math.inf


def _quantile(dof: float) -> float:
    from landscape.numerics import t_quantile

    return t_quantile(min(dof, 1e6))


def method_cases(rows: Frame) -> tuple[list[Case], list[Row]]:
    """Return the cases of the claim that a method and its twin score alike, and rows of the gaps and of their slopes over log N."""
    gaps = gap_rows(rows)
    cases, slopes, whole = [], [], {model: float(size) for model, size in sizes(rows).items()}
    for method in sorted({str(row.method) for row in gaps}):
        points = [
            Point(family(row.model), row.model, row.task, row.value, row.value, row.stderr)
            for row in gaps if row.method == method and math.isfinite(row.stderr)
        ]  # fmt: skip
        for models, task, own in populations(points):
            common: dict[str, Any] = {"claim": "methods", "name": f"{models}, {method}", "models": models, "task": task}
            try:
                estimate = mean(own)
            except ValueError as reason:
                cases.append(Case(**common, reason=str(reason)))
                continue
            result = f"the method scores {bracket(estimate.value, estimate.low, estimate.high)} above its twin (margin {CLOSE:g})"
            try:
                change = slope(own, whole)
            except ValueError:
                pass
            else:
                result += f"; the gap changes by {bracket(change.value, change.low, change.high)} per factor e of N"
                slopes.append(
                    Row(models, 0, task, "scale_slope", change.value, low=change.low, high=change.high, series="method_gap", group=method,
                        kind="finding")
                )  # fmt: skip
            cases.append(Case(**common, estimate=estimate, test=is_within(estimate, CLOSE), result=result, data=described(own)))
    return cases, gaps + slopes
