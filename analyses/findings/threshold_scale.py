"""F2 of Su et al. (arXiv 2306.02320): do larger models need fewer tuned entries? And F3: do tasks need similar numbers on one model?

F2 is tested for every kind of target and every subspace apart: the slope of log k over log N within a family. The slope of log (k / N) is
this slope less 1. F3 is tested for the low threshold: the standard deviation of log k over tasks within a model, against a stated margin
and beside the standard deviation over models within a task.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from analyses.findings.claims import SHARE, Answer, Case, Population, bracket, cases_of, factor, falls, is_below
from analyses.findings.families import family
from analyses.findings.regressions import Point, described, slope, spread, threshold_point
from analyses.findings.scores import ENTRIES, Frame, sizes, sizes_without_embeddings, space
from analyses.store import QUANTITIES, Row, quantities

if TYPE_CHECKING:
    from landscape.inference import Estimate

SIMILAR = 2.0  # tasks need similar numbers if k varies over tasks by less than this factor (one standard deviation)


@dataclass(frozen=True, order=True)
class Question:
    """A threshold's quantity, target and subspace, and all that distinguishes it from other questions in words.

    Thresholds of different placements, protocols or random projections are different questions.
    """

    quantity: str
    words: str
    target: str
    subspace: str


def threshold_points(rows: Frame) -> dict[Question, list[Point]]:
    """Return question -> points of log k, for all measured thresholds."""
    measured = rows[rows["quantity"].isin(quantities.MEASURED) & rows["x"].isna()]
    shares = dict(zip(*(rows.loc[rows["quantity"] == "target_share", name] for name in ("run_id", "value")), strict=True))
    several = {
        "protocol": measured["protocol"].nunique() > 1,
        "subspace": measured.loc[~measured["subspace"].isin(["", ENTRIES]), "subspace"].nunique() > 1,
        "placement": measured.groupby("subspace")["placement"].nunique().max() > 1,
    }
    found: dict[Question, list[Point]] = defaultdict(list)
    for row in measured.itertuples():
        words = _words(row, shares.get(row.run_id, math.nan), several)
        question = Question(str(row.quantity), words, str(row.group), str(row.subspace or ENTRIES))
        found[question].append(threshold_point(family(str(row.model)), row))
    return found


def _words(row: Any, share: float, several: dict[str, bool]) -> str:
    """Return the target and the subspace in words. Rows of older versions do not state the target, but its share of the improvement."""
    target = row.group or (f"{100 * share:.3g} % of the improvement" if math.isfinite(share) else QUANTITIES[row.quantity].label)
    words = [str(getattr(row, name)) for name in several if several[name]]
    return ", ".join(dict.fromkeys([target, space(row.subspace), *(word for word in words if word not in ("", ENTRIES))]))


def scale_cases(rows: Frame) -> list[Case]:
    """Return the cases of F2, with the slopes of log k and of log (k / N)."""
    body, whole = sizes_without_embeddings(rows), sizes(rows)

    def judge(question: Question, own: Population[Point]) -> Answer:
        estimates = dict(_slopes(own.members, whole, body))
        estimate, numbers = estimates[quantities.SLOPE], tuple(_slope_rows(question, own, estimates))
        return Answer(estimate, falls(estimate), _in_words(estimates), described(own.members), numbers)

    return [
        case
        for question, points in sorted(threshold_points(rows).items())
        if question.quantity != quantities.K_LOW
        for case in cases_of("F2", f"{QUANTITIES[question.quantity].label}, {question.words}", points, partial(judge, question))
    ]


def _slopes(points: list[Point], whole: dict[str, int], body: dict[str, int]) -> Iterator[tuple[str, Estimate]]:
    """Yield the slope over the number of parameters, and over the number without embeddings if every model states it."""
    yield quantities.SLOPE, slope(points, whole)
    if all(point.model in body for point in points):
        yield quantities.BODY_SLOPE, slope(points, body)


def _in_words(estimates: dict[str, Estimate]) -> str:
    one = estimates[quantities.SLOPE]
    text = f"k changes as N^b with b = {bracket(one.value, one.low, one.high)}, and k / N with b - 1 = {one.value - 1:.2g}"
    if quantities.BODY_SLOPE in estimates:
        other = estimates[quantities.BODY_SLOPE]
        text += f"; without embeddings in N, b = {bracket(other.value, other.low, other.high)}"
    return text


def _slope_rows(question: Question, own: Population[Point], estimates: dict[str, Estimate]) -> Iterator[Row]:
    for quantity, estimate in estimates.items():
        for series, less in ((question.quantity, 0.0), (question.quantity + SHARE, 1.0)):
            yield Row(
                own.models, 0, own.task, quantity, estimate.value - less, low=estimate.low - less, high=estimate.high - less, series=series,
                group=question.target, subspace=question.subspace, kind="finding", note=question.words,
            )  # fmt: skip


def task_cases(rows: Frame, similar: float = SIMILAR) -> list[Case]:
    """Return the cases of F3 with the margin `similar` (a factor)."""

    def judge(own: Population[Point]) -> Answer:
        over_tasks = spread(own.members, within="model", over="task")
        result = f"k varies over tasks within a model by a factor of {factor(over_tasks)} (one standard deviation; margin {similar:g})"
        with suppress(ValueError):
            result += f", and over models within a task by {factor(spread(own.members, within='task', over='model'))}"
        return Answer(over_tasks, is_below(over_tasks, math.log(similar)), result, described(own.members))

    return [
        case
        for question, points in sorted(threshold_points(rows).items())
        if question.quantity == quantities.K_LOW
        for case in cases_of("F3", question.words, points, judge)
    ]
