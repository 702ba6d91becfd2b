"""Predictions made without training against measurements: thresholds, and changes of thresholds between neighbouring sizes."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial

from analyses.findings.claims import Answer, Case, Population, bracket, cases_of, counted, factor, is_within, rises
from analyses.findings.families import family
from analyses.findings.predicted_cells import cells
from analyses.findings.regressions import Point, Z, described, mean, through_origin
from analyses.findings.scores import Frame, space

FACTOR = 2.0  # margin of agreement of predicted and measured thresholds
HALF = 0.5  # measured changes below half of the predicted ones refute the prediction of changes


def prediction_cases(rows: Frame) -> list[Case]:
    """Return the cases of the claim that predicted and measured k* agree: the mean of log(predicted / measured) over models and tasks.

    Predictions above 30 % of the rank, which bounds them for any model, are a separate case. Censored thresholds have no ratio and are
    left out.
    """
    groups: dict[str, list[Point]] = defaultdict(list)
    for cell in cells(rows):
        error = cell.error()
        if math.isfinite(error):
            known = cell.low > 0 and math.isfinite(cell.high)
            stderr = (math.log(cell.high) - math.log(cell.low)) / (2 * Z) if known else 0.0
            name = space(cell.subspace) + (", above 30 % of the rank" if cell.over_rank else "")
            groups[name].append(Point(family(cell.model), cell.model, cell.task, error, error, stderr))
    return [case for name, points in sorted(groups.items()) for case in cases_of("prediction", name, points, _is_near)]


def _is_near(own: Population[Point]) -> Answer:
    estimate, near = mean(own.members), sum(abs(point.low) <= math.log(FACTOR) for point in own.members)
    within = f"{near} of {counted(len(own.members), 'prediction')} within a factor of 2"
    result = f"the predicted k* is {factor(estimate)} times the measured one, and {within}"
    return Answer(estimate, is_within(estimate, math.log(FACTOR)), result, described(own.members))


def change_cases(rows: Frame) -> list[Case]:
    """Return the cases of the claim that changes of k* between two sizes are predicted: the slope of measured over predicted changes.

    The changes are the rows of 'explain' for neighbouring sizes. The slope is 1 for perfect predictions, and the line passes through zero.
    """
    identity = ["model", "other_model", "task", "subspace", "placement", "protocol", "target"]
    measured, predicted = (
        rows[rows["quantity"] == name].drop_duplicates(identity) for name in ("measured_change", "explained_total")
    )  # the predicted total does not depend on its series, rank or eigenvalue
    if measured.empty or predicted.empty:
        return []
    both = measured.merge(predicted[[*identity, "value"]], on=identity, suffixes=("", "_predicted")).dropna(
        subset=["value", "value_predicted"]
    )
    both = _neighbours(both)
    cases = []
    for subspace, group in both.groupby("subspace", dropna=False):
        points, x = [], {}
        for row in group.itertuples():
            known = math.isfinite(row.low) and math.isfinite(row.high)
            stderr = (row.high - row.low) / (2 * Z) if known else 0.0
            point = Point(family(row.model), f"{row.other_model} to {row.model}", row.task, row.value, row.value, stderr)
            points.append(point)
            x[point] = float(row.value_predicted)
        cases += cases_of("attribution", space(subspace), points, partial(_agrees, x))
    return cases


def _agrees(predicted: dict[Point, float], own: Population[Point]) -> Answer:
    estimate = through_origin(own.members, [predicted[point] for point in own.members])
    result = f"a measured change is {bracket(estimate.value, estimate.low, estimate.high)} times the predicted one"
    return Answer(estimate, rises(estimate, HALF), result, counted(len(own.members), "pair") + " of models")


def _neighbours(pairs: Frame) -> Frame:
    """Return the pairs without the smallest against the largest of several sizes, whose change is the sum of the others."""
    setting = ["task", "subspace", "placement", "protocol", "target"]
    own = [pairs["model"].map(family), *(pairs[name] for name in setting)]
    from_small = pairs.groupby([*own, "other_model"], dropna=False)["model"].transform("nunique")
    to_large = pairs.groupby([*own, "model"], dropna=False)["other_model"].transform("nunique")
    return pairs[(from_small == 1) | (to_large == 1)]
