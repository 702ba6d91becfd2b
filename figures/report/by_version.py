"""The rows that a page can use. Rows of older versions are named, and left out if they cannot be compared with newer rows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.store import COLUMNS, QUANTITIES
from figures.numbers import counted
from figures.report.by_target import pairs_by_target
from figures.rows import CannotDraw, tidy, where


def usable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return (tidy rows, one sentence for everything that older or incomplete rows lack).

    Rows of the first versions do not state the kind of their run, so they cannot be sorted into training runs, thresholds and spectra. Such
    rows are left out beside newer rows. Thresholds are left out if two of one target and setting differ. Raises CannotDraw if a column
    without a default is missing.
    """
    missing = [name for name in COLUMNS if name not in rows.columns]
    sentences = []
    if missing:
        sentences.append(f"The rows are of an older version: they lack the {_columns(missing)}, which then count as not stated.")
    rows, older = _without_older(rows)
    rows, unsized = _with_sizes(rows)
    sentences += older + unsized
    rows = tidy(rows)
    if unknown := sorted(set(rows["quantity"]) - set(QUANTITIES)):
        sentences.append(f"The page does not use rows of quantities that this version does not know: {', '.join(unknown)}.")
        rows = where(rows, rows["quantity"].isin(list(QUANTITIES)))
    try:
        pairs_by_target(rows)
    except CannotDraw as reason:
        sentences.append(f"The thresholds are left out, because the rows contradict each other: {reason}.")
        rows = where(rows, rows["kind"] != "threshold")
    return rows, sentences


def _without_older(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return (rows that state the kind of their run, a sentence on other rows), or all rows if none states it."""
    older: Any = rows["kind"].isna() if "kind" in rows.columns else pd.Series(True, index=rows.index)
    if older.all() and len(rows):
        return rows, ["No row states the kind of its run, so the page cannot list training runs, thresholds, spectra or slices."]
    if not older.any():
        return rows, []
    tasks = ", ".join(sorted(set(where(rows, older)["task"].astype(str))))
    return where(rows, ~older), [
        f"{counted(int(older.sum()), 'row')} of an older version ({tasks}) are left out, because they do not state the kind of their run "
        "and cannot be compared with newer rows: write a separate report of them."
    ]


def _with_sizes(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return (rows of models whose size some row states, a sentence on other models). Failed runs, which do not state it, are kept."""
    if "parameters" not in rows.columns or "quantity" not in rows.columns:
        return rows, []
    known = rows.groupby("model")["parameters"].transform("max")
    rows = rows.assign(parameters=rows["parameters"].where(rows["parameters"] > 0, known).fillna(0))
    unsized = known.isna() & (rows["quantity"] != "failed")
    if not unsized.to_numpy().any():
        return rows, []
    names = ", ".join(sorted(set(where(rows, unsized)["model"].astype(str))))
    sentence = f"{counted(int(unsized.to_numpy().sum()), 'row')} are left out, because they do not state the size of their model ({names})."
    return where(rows, ~unsized), [sentence]


def _columns(names: list[str]) -> str:
    return f"column {names[0]}" if len(names) == 1 else f"columns {', '.join(names)}"
