"""The complete report of a study: draws its figures, writes its page, and returns its table and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from figures import draw_all
from figures.report.page import write_report
from figures.report.summary_table import summary_table
from figures.report.verdicts import Answer, answers
from figures.rows import tidy


def drawn_report(
    rows: pd.DataFrame, page: Path, title: str, report: Callable[[str, int, int], None]
) -> tuple[list[dict[str, Any]], list[Answer]]:  # fmt: skip
    """Draw all possible figures into a folder beside `page`, write the page, and return the table of thresholds and the answers.

    report(name, done, total) is called before each figure. Raises CannotDraw for ambiguous rows, such as two thresholds of one model and
    setting.
    """
    drawn = draw_all(rows, page.parent / "figures", report=report)
    images = {name: next(path for path in paths if path.suffix == ".png") for name, paths in drawn.written.items()}
    write_report(rows, page, title, images, skipped=drawn.skipped)
    return summary_table(rows), answers(tidy(rows))
