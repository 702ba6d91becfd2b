"""Claims that the findings decide: verdicts by corrected tests, and sentences.

A claim is tested in several cases, such as one per family. Each case has an estimate with a 95 % interval and two one-sided tests:

    supported       the test against the claim's opposite rejects it: the claim holds
    not supported   the test against an effect of at least the smallest size of interest (the margin) rejects it: the claim does not hold
    undecided       neither test rejects; the claim needs more data

Both tests are corrected for the number of cases of the claim (Holm), at a level of 2.5 % each. So the probability that a study gives any
wrong verdict on a claim is at most 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from analyses.store import Row, quantities, statuses

if TYPE_CHECKING:
    from landscape.inference import Estimate

LEVEL = 0.025  # of each one-sided test
SLOPE_MARGIN = 0.1  # smallest slope of interest on log-log axes: a change by a factor of 10^0.1 = 1.26 per tenfold model size
MOST_DATA = 100  # times as much data; an estimate that needs more lies at the edge between two verdicts
ALL = "all families"
EVERY_TASK = "all tasks"
SHARE = "_share"  # suffix of the name of a share k / N


@dataclass(frozen=True)
class Claim:
    """A statement to be tested, the figure that shows its numbers, and what more data means."""

    statement: str
    figure: str
    data: str  # what a larger study has more of


CLAIMS = {
    "F1": Claim("the spread over positions of the tuned entries falls with model size", "positions", "placements, train seeds or tasks"),
    "F2": Claim("larger models need fewer tuned entries", "thresholds", "model sizes or tasks"),
    "F3": Claim("tasks need similar numbers of tuned entries to beat chance on one model", "thresholds", "tasks"),
    "methods": Claim("entries at random positions score like the method with as many parameters", "methods", "models or tasks"),
    "landscape": Claim("the number changes with model size in the direction that lowers k*", "scale", "model sizes or tasks"),
    "prediction": Claim("predicted thresholds agree on average with measured ones within a factor of 2", "cells", "models or tasks"),
    "attribution": Claim("predicted changes of k* between sizes have the sign of the measured changes", "attribution", "pairs of models"),
}


@dataclass(frozen=True)
class Test:
    """The two one-sided p values of a case, and how many times as much data would decide it at 95 %, alone (inf: no amount)."""

    support: float
    refute: float
    needs: float


def falls(estimate: Estimate, margin: float = SLOPE_MARGIN) -> Test:
    """Return the test of "the number is negative", refuted by a number above -margin."""
    needs = min(_needed(estimate.high, estimate.value, -estimate.value), _needed(estimate.low, estimate.value, estimate.value + margin))
    return Test(estimate.p_above(0.0), estimate.p_below(-margin), needs)


def rises(estimate: Estimate, margin: float = SLOPE_MARGIN) -> Test:
    """Return the test of "the number is positive", refuted by a number below the margin."""
    needs = min(_needed(estimate.low, estimate.value, estimate.value), _needed(estimate.high, estimate.value, margin - estimate.value))
    return Test(estimate.p_below(0.0), estimate.p_above(margin), needs)


def is_below(estimate: Estimate, margin: float) -> Test:
    """Return the test of "the number is below the margin", refuted by a number above it. Distances are on a log scale."""
    if not (estimate.value > 0 and margin > 0):
        return Test(estimate.p_above(margin), estimate.p_below(margin), math.inf)
    centre, distance = math.log(estimate.value), math.log(margin) - math.log(estimate.value)
    low = math.log(estimate.low) if estimate.low > 0 else -math.inf
    needs = min(_needed(math.log(estimate.high), centre, distance), _needed(low, centre, -distance))
    return Test(estimate.p_above(margin), estimate.p_below(margin), needs)


def is_within(estimate: Estimate, margin: float) -> Test:
    """Return the equivalence test of "|number| is below the margin" (two one-sided tests), refuted by a number beyond either end."""
    support = max(estimate.p_above(margin), estimate.p_below(-margin))
    refute = min(estimate.p_below(margin), estimate.p_above(-margin))
    half = max(estimate.high - estimate.value, estimate.value - estimate.low)
    return Test(support, refute, _needed(estimate.value + half, estimate.value, abs(margin - abs(estimate.value))))


def _needed(end: float, value: float, distance: float) -> float:
    """Return (|end - value| / distance)^2: how many times as much data brings the interval's end to the boundary at `distance`."""
    return ((end - value) / distance) ** 2 if distance > 0 and math.isfinite(end) else math.inf


@dataclass(frozen=True)
class Answer:
    """The data's answer to a case.

    result: the estimate in words, with its interval. data: the data behind the estimate, such as "5 sizes, 3 tasks". numbers: further rows.
    """

    estimate: Estimate
    test: Test
    result: str
    data: str
    numbers: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case of a claim, with an answer or the reason why there is none.

    claim: key of CLAIMS. name: the case in words, unique in its claim. models, task: columns of the rows.
    """

    claim: str
    name: str
    models: str
    task: str
    answer: Answer | None = None
    reason: str = ""


class Member(Protocol):
    """A value, or a table of values, of one model and task."""

    @property
    def family(self) -> str: ...
    @property
    def task(self) -> str: ...


M = TypeVar("M", bound=Member)


class Population(NamedTuple, Generic[M]):
    """The data of one family or of all families, with the names of the models and tasks as the rows of findings have them."""

    models: str
    task: str
    members: list[M]


def cases_of(claim: str, what: str, members: Sequence[M], judge: Callable[[Population[M]], Answer]) -> list[Case]:
    """Return a case of the claim for every family, and for all families together if there are several.

    what: the question in words, "" if the claim has only one. judge: returns the answer; the message of its ValueError is the reason why
    there is none.
    """
    return [_case(claim, ", ".join(filter(None, (own.models, what))), own, judge) for own in _populations(members)]


def _case(claim: str, name: str, own: Population[M], judge: Callable[[Population[M]], Answer]) -> Case:
    try:
        return Case(claim, name, own.models, own.task, judge(own))
    except ValueError as reason:
        return Case(claim, name, own.models, own.task, reason=str(reason))


def _populations(members: Sequence[M]) -> list[Population[M]]:
    families = sorted({member.family for member in members})
    groups = [(name, [member for member in members if member.family == name]) for name in families]
    if len(families) > 1:
        groups.append((ALL, list(members)))
    return [Population(name, _task_name(own), own) for name, own in groups]


def _task_name(members: Sequence[Member]) -> str:
    tasks = sorted({member.task for member in members})
    return tasks[0] if len(tasks) == 1 else EVERY_TASK


def verdicts(cases: Iterable[Case]) -> list[Row]:
    """Return the rows of all cases: one of quantity `claim`, for an undecided case one of quantity `claim_needs`, and further numbers."""
    from landscape.inference import holm

    cases, rows = list(cases), []
    for key in CLAIMS:
        own = [case for case in cases if case.claim == key]
        supports, refutes = (
            holm([getattr(case.answer.test, name) if case.answer else math.nan for case in own]) for name in ("support", "refute")
        )
        tested = sum(case.answer is not None for case in own)
        for case, support, refute in zip(own, supports, refutes, strict=True):
            rows += _rows(case, float(support), float(refute), tested)
    return rows + [row for case in cases if case.answer for row in case.answer.numbers]


def _rows(case: Case, support: float, refute: float, tested: int) -> list[Row]:
    from scipy.special import ndtri

    common: dict[str, Any] = {"kind": "finding", "series": case.claim, "group": case.name}
    answer = case.answer
    if answer is None:
        sentence = f"{case.name}: {statuses.UNDECIDED}, because {case.reason}."
        return [Row(case.models, 0, case.task, quantities.CLAIM, math.nan, status=statuses.UNDECIDED, note=sentence, **common)]
    status = statuses.SUPPORTED if support <= LEVEL else statuses.NOT_SUPPORTED if refute <= LEVEL else statuses.UNDECIDED
    p = refute if status == statuses.NOT_SUPPORTED else support
    corrected = f", corrected for {tested} cases" if tested > 1 else ""
    tests = f"p = {support:.2g} for it and {refute:.2g} against it" if status == statuses.UNDECIDED else f"p = {p:.2g}"
    verdict = f"That {CLAIMS[case.claim].statement} is {status} ({tests}{corrected})."
    sentence = f"{case.name}: {answer.result} ({answer.data}). {verdict}"
    factor = answer.test.needs * (ndtri(LEVEL / tested) / ndtri(LEVEL)) ** 2  # the interval of a corrected test is wider
    needs = _needs(case, factor) if status == statuses.UNDECIDED else ""
    estimate = answer.estimate
    row = Row(
        case.models, 0, case.task, quantities.CLAIM, estimate.value, low=estimate.low, high=estimate.high, p=p,
        dof=int(estimate.dof) if math.isfinite(estimate.dof) else None, status=status,
        note=" ".join(filter(None, (sentence, needs))), **common,
    )  # fmt: skip
    if not needs:
        return [row]
    return [row, Row(case.models, 0, case.task, quantities.CLAIM_NEEDS, factor, note=needs, **common)]


def _needs(case: Case, factor: float) -> str:
    """Return what would decide an undecided case."""
    if not math.isfinite(factor):
        return f"More {CLAIMS[case.claim].data} would not decide it at this estimate, which is at a boundary or has an open interval."
    if factor > MOST_DATA:
        return f"Not even {MOST_DATA} times as many {CLAIMS[case.claim].data} would decide it, if the estimate and the scatter stay."
    times = max(1.5, math.ceil(2 * factor) / 2) if factor < 10 else float(f"{factor:.1g}")
    return f"About {times:g} times as many {CLAIMS[case.claim].data} would decide it, if the estimate and the scatter stay."


def bracket(value: float, low: float, high: float) -> str:
    """Return a number with its interval as text, "0.31 [0.2, 0.5]"; an infinite end is "inf"."""
    return f"{value:.2g} [{low:.2g}, {high:.2g}]"


def factor(estimate: Estimate) -> str:
    """Return an estimate on a natural log scale as a factor with its interval. A factor above 10^20 is infinite."""
    return bracket(*(math.exp(number) if number < 46 else math.inf for number in (estimate.value, estimate.low, estimate.high)))


def counted(n: int, noun: str) -> str:
    """Return "1 size" or "3 sizes"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
