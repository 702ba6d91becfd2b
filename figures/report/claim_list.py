"""Claims of the findings, with their verdicts, as the rows state them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.findings import CLAIMS
from analyses.store import quantities, statuses
from figures.numbers import MISSING, counted, number
from figures.rows import pick, records, where

INSTEAD = {"positions": "placements", "cells": "predictions", "scale": "spectra"}  # the next best figure of a claim
MARKS = {statuses.SUPPORTED: "✓", statuses.NOT_SUPPORTED: "✗", statuses.UNDECIDED: "?"}  # a verdict is not shown by colour alone
OVERALL = ("all families", "all models", "all tasks")  # models and tasks of a case that pools several


@dataclass(frozen=True)
class Case:
    """One verdict: the case in words, the estimate with its interval, the corrected p value, and sentences for people."""

    name: str
    verdict: str
    estimate: str
    p: str
    sentence: str
    needs: str  # how much more data would decide the case; "" if the rows do not state it

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "?")


@dataclass(frozen=True)
class Claim:
    """A claim with the verdicts of all its cases. `figure` is the drawn figure that shows it, or ""."""

    key: str
    words: str
    figure: str
    cases: list[Case]

    @property
    def summary(self) -> str:
        """The number of cases with each verdict, as in "supported in 2 of 3 cases, undecided in 1"."""
        counts = Counter(case.verdict for case in self.cases)
        parts = [f"{verdict} in {count}" for verdict, count in counts.most_common()]
        parts[0] += f" of {counted(len(self.cases), 'case')}"
        return ", ".join(parts)


def claims(rows: pd.DataFrame, figures: list[str]) -> list[Claim]:
    """Return the claims in `rows` (from `tidy`), in the order of CLAIMS. `figures` are the names of the figures on the page."""
    verdicts = pick(rows, quantities.CLAIM)
    needs = {(row.series, row.model, row.task, row.group): row.note for row in records(pick(rows, quantities.CLAIM_NEEDS))}
    found = []
    for key in sorted(set(verdicts["series"]), key=lambda key: (list(CLAIMS).index(key) if key in CLAIMS else len(CLAIMS), key)):
        of_claim = where(verdicts, verdicts["series"] == key)
        of_claim = of_claim.assign(pooled=of_claim["model"].isin(OVERALL).astype(int) + of_claim["task"].isin(OVERALL).astype(int))
        ordered = of_claim.sort_values(["pooled", "model", "task", "group"], ascending=[False, True, True, True], kind="stable")
        cases = [_case(row, needs.get((row.series, row.model, row.task, row.group), "")) for row in records(ordered)]
        words, best = (CLAIMS[key].statement, CLAIMS[key].figure) if key in CLAIMS else ("", "")
        figure = next((name for name in (best, INSTEAD.get(best, ""), "claims") if name in figures), "")
        found.append(Claim(key, words, figure, cases))
    return found


def _case(row: Any, needs: str) -> Case:
    """Return the case of a row. Its note begins with the case and may end with its needs, which the page shows apart."""
    name = row.group or ", ".join(filter(None, (row.model, row.task)))
    estimate = MISSING if math.isnan(row.value) else f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"
    sentence = row.note.removeprefix(f"{name}: ").removesuffix(needs).strip()
    return Case(name, row.status or statuses.UNDECIDED, estimate, number(row.p), sentence, needs)
