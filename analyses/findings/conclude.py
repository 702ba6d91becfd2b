"""All findings of a table of rows: verdicts on every claim, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable

from analyses.findings.claims import Case, verdicts
from analyses.findings.landscape_scale import landscape_cases
from analyses.findings.matched_methods import method_cases
from analyses.findings.position_spreads import position_cases
from analyses.findings.prediction_checks import change_cases, prediction_cases
from analyses.findings.scores import Frame, readouts_apart
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
    parts: dict[str, Callable[[], tuple[list[Case], list[Row]]]] = {
        "positions": lambda: position_cases(rows),
        "thresholds over size": lambda: scale_cases(rows),
        "thresholds over tasks": lambda: (task_cases(rows, similar), []),
        "methods": lambda: method_cases(rows),
        "landscape": lambda: landscape_cases(rows),
        "predictions": lambda: (prediction_cases(rows) + change_cases(rows), []),
    }
    cases, numbers = list[Case](), list[Row]()
    for done, (name, part) in enumerate(parts.items()):
        report(name, done, len(parts))
        own_cases, own_numbers = part()
        cases += own_cases
        numbers += own_numbers
    return verdicts(cases) + numbers
