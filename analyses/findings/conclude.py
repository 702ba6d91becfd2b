"""All findings of a table of rows: verdicts on every claim, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable

from analyses.findings.claims import Case, verdicts
from analyses.findings.landscape_scale import landscape_cases
from analyses.findings.matched_methods import gap_rows, method_cases
from analyses.findings.position_spreads import method_spreads, position_cases, position_spreads, tables
from analyses.findings.prediction_checks import change_cases, prediction_cases
from analyses.findings.scores import Frame, readouts_apart, sizes
from analyses.findings.threshold_scale import SIMILAR, scale_cases, task_cases
from analyses.runs import Report
from analyses.store import Row, completed

FINDING_ROWS = "findings.parquet"  # file in the folder of results


def findings(rows: Frame, similar: float = SIMILAR, report: Report = lambda *_: None) -> list[Row]:
    """Return the rows of all findings: claims with verdicts, spreads, gaps between methods, and slopes over size.

    rows: a DataFrame of rows (`analyses.store.frame`), also of an older version. similar: margin of F3, a factor above 1.
    report(name, done, total) is called before each part. Rows of earlier findings are ignored. Raises ValueError if a column without a
    default is missing.
    """
    rows = completed(rows)
    rows = readouts_apart(rows[rows["kind"] != "finding"].drop_duplicates(ignore_index=True))
    found, gaps = tables(rows), gap_rows(rows)
    parts: dict[str, Callable[[], list[Case]]] = {
        "positions": lambda: position_cases(found),
        "thresholds over size": lambda: scale_cases(rows),
        "thresholds over tasks": lambda: task_cases(rows, similar),
        "methods": lambda: method_cases(gaps, sizes(rows)),
        "landscape": lambda: landscape_cases(rows),
        "predictions": lambda: prediction_cases(rows) + change_cases(rows),
    }
    cases = list[Case]()
    for done, (name, part) in enumerate(parts.items()):
        report(name, done, len(parts))
        cases += part()
    return verdicts(cases) + position_spreads(found) + method_spreads(rows) + gaps
