"""Thresholds by target: rows of several targets of one setting, taken apart."""

from __future__ import annotations

import re

import pandas as pd

from analyses.store import quantities
from figures.interval import PREDICTED, Pair, pairs
from figures.rows import SETTING, where

SAME = ["model", "task", *SETTING, "quantity"]  # columns that name a threshold, except its target


def by_target(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return {target in words: rows without the thresholds of other targets}; {"": rows} unless a setting has several targets.

    `rows` come from `tidy`. Thresholds of older versions do not state their target in the column `group`; the note of the target states it.
    """
    of_threshold = rows["kind"] == "threshold"
    named = where(rows, of_threshold & rows["quantity"].isin([*quantities.MEASURED, *PREDICTED]) & rows["x"].isna())
    if not named.duplicated(SAME).any():
        return {"": rows}
    known = _labels(where(rows, of_threshold))
    labels = rows["run_id"].map(known.get).where(of_threshold)
    found = list(dict.fromkeys(labels.dropna()))
    return {label: where(rows, labels.isna() | (labels == label)) for label in sorted(found, key=_order)}


def pairs_by_target(rows: pd.DataFrame) -> dict[str, list[Pair]]:
    """Return {target in words: thresholds (`pairs`)}, with the target "" if no setting has several. `rows` come from `tidy`."""
    return {target: pairs(_slim(part)) for target, part in by_target(rows).items()}


def _slim(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of thresholds, and one row of every setting: `pairs` needs no other rows, and looks through them many times."""
    names = [name + suffix for name in (*quantities.MEASURED, *PREDICTED) for suffix in ("", quantities.OPEN)]
    asked = ~rows.duplicated(["kind", "method", "task", *SETTING])
    return where(rows, rows["quantity"].isin(names) | asked)


def on_target(question: str, target: str) -> str:
    """Return the setting of a threshold, with its target if the rows hold several."""
    return f"{question}, target {target}" if target else question


def _labels(rows: pd.DataFrame) -> dict[str, str]:
    """Return {run id of a threshold: its target in words}."""
    stated = where(rows, rows["quantity"].isin(["target_loss", "target_metric"]))
    notes = {run: re.sub(r" \(.*\)", "", note) for run, note in zip(stated["run_id"], stated["note"], strict=True)}
    groups = where(rows, rows["quantity"].isin([*quantities.MEASURED, "target_loss", "target_metric"]) & (rows["group"] != ""))
    known = dict(zip(groups["run_id"], groups["group"], strict=True))
    return {run: known.get(run) or notes.get(run) or "not stated" for run in dict.fromkeys(rows["run_id"])}


def _order(label: str) -> tuple[str, float, str]:
    """Return a sort key: by words, then by the first number."""
    number = re.search(r"\d*\.?\d+", label)
    return re.sub(r"[\d.]+", "", label), float(number.group()) if number else 0.0, label
