"""Claims of the findings, with their verdicts, as the rows state them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from analyses.store import quantities, statuses
from figures.numbers import MISSING, counted, number
from figures.rows import pick, records, where

# Claim (the column series) -> its words, and the figures that show it, best first.
CLAIMS = {
    "F1": ("The positions of the tuned entries matter less in larger models.", ("positions", "placements", "claims")),
    "F2": ("Larger models need fewer tuned entries to match full fine-tuning.", ("thresholds", "claims")),
    "F3": ("On one model, different tasks need a similar number of tuned entries to beat chance.", ("thresholds", "claims")),
    "methods": ("Methods differ from APET with as many parameters.", ("methods", "claims")),
    "landscape": ("The loss landscape changes with the size of the model.", ("scale", "spectra", "claims")),
    "prediction": ("The threshold is predicted without training.", ("predictions", "cells", "claims")),
    "attribution": ("The change of the threshold with scale has a cause.", ("attribution", "claims")),
}
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
    verdicts, needs = pick(rows, quantities.CLAIM), pick(rows, "claim_needs")
    more = {(row.series, row.model, row.task, row.group): row.note for row in records(needs)}
    found = []
    for key in sorted(set(verdicts["series"]), key=lambda key: (list(CLAIMS).index(key) if key in CLAIMS else len(CLAIMS), key)):
        words, shown = CLAIMS.get(key, ("", ("claims",)))
        of_claim = where(verdicts, verdicts["series"] == key)
        of_claim = of_claim.assign(pooled=of_claim["model"].isin(OVERALL).astype(int) + of_claim["task"].isin(OVERALL).astype(int))
        ordered = of_claim.sort_values(["pooled", "model", "task", "group"], ascending=[False, True, True, True], kind="stable")
        cases = [_case(row, more.get((row.series, row.model, row.task, row.group), "")) for row in records(ordered)]
        found.append(Claim(key, words, next((name for name in shown if name in figures), ""), cases))
    return found


def _case(row, needs: str) -> Case:
    ends = f"[{number(row.low)}, {number(row.high)}]"
    name = ", ".join(dict.fromkeys(part for part in (row.group or row.model, *([] if row.task in row.group else [row.task])) if part))
    estimate = MISSING if pd.isna(row.value) else f"{number(row.value)} {ends}"
    return Case(name, row.status or statuses.UNDECIDED, estimate, number(row.p), row.note, needs)
