"""The complete report of a study: draws its figures, writes its page, and returns its table, answers and claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from figures import draw_all
from figures.report.by_version import usable
from figures.report.page import write_report
from figures.report.summary_table import summary_table
from figures.report.verdicts import Answer, answers


def drawn_report(
    rows: pd.DataFrame, facts: dict[str, Any], page: Path, report: Callable[[str, int, int], None]
) -> tuple[list[dict[str, Any]], list[Answer]]:  # fmt: skip
    """Draw all possible figures into a folder beside `page`, write the page, and return the table of thresholds and the answers.

    `facts` are the facts about the runs that `analyses.results.reported` returns with the rows. report(name, done, total) is called before
    each figure. Raises CannotDraw without rows, and for rows of one run that contradict each other.
    """
    used, _ = usable(rows)
    drawn = draw_all(used, page.parent / "figures", report=report)
    images = {name: next(path for path in paths if path.suffix == ".png") for name, paths in drawn.written.items()}
    title = f"Study {Path(facts['source']).name.removesuffix('.parquet')}"
    write_report(rows, page, title, images, skipped=drawn.skipped, facts=facts)
    return summary_table(used), answers(used)
