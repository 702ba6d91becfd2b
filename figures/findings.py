"""What the rows say in sentences: whether k* changes with scale, what does not fit, and what could not be checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from figures.interval import Pair, pairs
from figures.numbers import interval, listed, number
from figures.rows import in_setting, models, of_model, runs, settings
from figures.words import method_name


@dataclass(frozen=True)
class Verdict:
    """Whether measured k* changes from the smallest to the largest model: "falls", "rises" or "undecided"."""

    word: str
    sentence: str


def scale_verdicts(rows: pd.DataFrame) -> list[Verdict]:
    """One verdict a setting that has a measured threshold. `rows` as from `tidy`."""
    found = pairs(rows)
    return [_verdict([pair for pair in found if pair.setting == setting]) for setting in settings(rows)
            if any(pair.setting == setting and pair.measured for pair in found)]  # fmt: skip


def _verdict(found: list[Pair]) -> Verdict:
    """Disjoint intervals of the smallest and largest model decide; nothing else does."""
    found = [pair for pair in found if pair.measured]
    small, large = found[0], found[-1]
    where = f"On {small.setting.label}"
    if small.parameters == large.parameters:
        why = f"k* was measured for models of one size only ({_described(small)})"
        return Verdict("undecided", f"{where}, whether k* changes with scale is undecided: {why}.")
    assert small.measured
    assert large.measured
    ends = f"from {_described(small)} to {_described(large)}"
    if large.measured.is_below(small.measured):
        return Verdict("falls", f"{where}, measured k* falls {ends}: the two intervals are disjoint.")
    if small.measured.is_below(large.measured):
        return Verdict("rises", f"{where}, measured k* rises {ends}: the two intervals are disjoint.")
    known = small.measured.is_closed and large.measured.is_closed
    why = "the two intervals overlap" if known else "an interval end is not known"
    return Verdict("undecided", f"{where}, whether measured k* changes {ends} is undecided: {why}.")


def _described(pair: Pair) -> str:
    return f"{pair.model} (k* {interval(pair.measured)}, target {number(pair.target)})"


def misfits(rows: pd.DataFrame) -> list[str]:
    """A sentence for everything that speaks against the predictions or the runs. `rows` as from `tidy`."""
    return [*_thresholds(rows), *_training(rows)]


def unchecked(rows: pd.DataFrame) -> list[str]:
    """A sentence for everything that could not be checked because rows are absent. `rows` as from `tidy`."""
    table, found = runs(rows), pairs(rows)
    sentences = []
    alone = [_name(pair) for pair in found if not pair.measured or not pair.predicted]
    if not found:
        sentences.append("There are no thresholds, so no prediction could be compared.")
    if alone:
        sentences.append(f"Only one of measured and predicted k is there for {'; '.join(alone)}.")
    missing = {
        "whether they reached their plateau": table["plateau"].isna(),
        "whether they are above chance (accuracy, standard error or chance is absent)": (
            table[["accuracy", "accuracy_stderr", "chance"]].isna().any(axis=1)
        ),
    }
    for question, mask in missing.items():
        if count := int(mask.sum()):
            sentences.append(f"{count} of {len(table)} runs do not say {question}.")
    return sentences


def _thresholds(rows: pd.DataFrame) -> Iterator[str]:
    for pair in pairs(rows):
        measured, predicted = pair.measured, pair.predicted
        for what, found in (("measured k*", measured), ("predicted k", predicted)):
            if found and found.censored:
                yield f"{_name(pair)}: {what} is {interval(found)}."
        if pair.within_factor_two is False:
            yield f"{_name(pair)}: predicted over measured k is {number(pair.ratio)}, outside a factor 2."
        if measured and predicted and measured.is_disjoint(predicted):
            yield f"{_name(pair)}: measured {interval(measured)} and predicted {interval(predicted)} are disjoint."


def _name(pair: Pair) -> str:
    return f"{pair.model} on {pair.setting.label}"


def _training(rows: pd.DataFrame) -> Iterator[str]:
    for setting in settings(rows):
        for model in models(rows):
            for method, table in runs(in_setting(of_model(rows, model), setting)).groupby("method"):
                yield from _runs(f"{model} on {setting.label}, {method_name(str(method))}", table)


def _runs(name: str, table: pd.DataFrame) -> Iterator[str]:
    """Runs of one method on one model: those off their plateau, and those not above chance."""
    moving = (table["plateau"] == 0).to_numpy()
    if moving.any():
        gradient = float(table["residual_gradient"].to_numpy()[moving].max())
        left = f"; largest residual gradient {number(gradient)}" if math.isfinite(gradient) else ""
        yield f"{name}: {_share(table, moving)} did not reach the plateau{left}."
    above = table["accuracy"] - table["chance"] >= 2 * table["accuracy_stderr"]
    judged = table[["accuracy", "accuracy_stderr", "chance"]].notna().all(axis=1)
    low = (judged & ~above).to_numpy()
    if low.any():
        yield f"{name}: {_share(table, low)} did not exceed chance by 2 standard errors."


def _share(table: pd.DataFrame, chosen: np.ndarray) -> str:
    k = [float(value) for value in table["k"].to_numpy()[chosen]]
    return f"{len(k)} of {len(table)} runs (k = {listed(k)})"
