"""Warnings: everything that casts doubt on the runs or contradicts the predictions, and checks that could not be made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from figures.interval import Pair
from figures.numbers import counted, interval, listed, number
from figures.report.by_target import on_target, pairs_by_target
from figures.rows import in_setting, models, of_model, pick, records, runs, settings, where
from figures.words import MATRICES, method_name

FACTOR = 2.0  # a prediction of k* holds within this factor
DEFECT = 1e-4  # largest symmetry defect without a warning: rounding in float32 gives about 1e-6, and a run refuses 1e-3
CHECKED = (
    "failed or diverged runs, runs that did not reach their plateau, runs less than 2 standard errors above chance, censored thresholds, "
    "open intervals, predictions outside a factor of 2 or with disjoint intervals, symmetry and determinism defects of spectra"
)


@dataclass(frozen=True)
class Warning:
    """One kind of problem: its title with a count, and one sentence per case."""

    title: str
    sentences: list[str]


def warnings(rows: pd.DataFrame) -> list[Warning]:
    """Return the problems in `rows` (from `tidy`), the gravest kinds first. Raises CannotDraw for ambiguous thresholds."""
    found = [_failed(rows), _diverged(rows), *_training(rows), *_thresholds(rows), *_defects(rows)]
    return [warning for warning in found if warning.sentences]


def unchecked(rows: pd.DataFrame) -> list[str]:
    """Return a sentence for every check that was impossible because rows are missing. `rows` come from `tidy`."""
    table, thresholds = runs(rows), _named_pairs(rows)
    sentences = []
    if not thresholds:
        sentences.append("The rows hold no threshold, so no prediction could be compared.")
    if incomplete := [name for name, pair in thresholds if not pair.measured or not pair.predicted]:
        sentences.append(f"The rows hold only one of measured and predicted k for {'; '.join(incomplete)}.")
    missing = {
        "whether they reached their plateau": table["plateau"].isna(),
        "whether they are above chance (score, standard error or chance is missing)": (
            table[["score", "score_stderr", "chance"]].isna().any(axis=1)
        ),
    }
    for question, mask in missing.items():
        if count := int(mask.sum()):
            sentences.append(f"{count} of {counted(len(table), 'training run')} do not state {question}.")
    spectra = where(rows, rows["kind"] == "spectrum")
    for quantity in ("symmetry_defect", "determinism_defect"):
        if count := len(set(spectra["run_id"]) - set(pick(spectra, quantity)["run_id"])):
            sentences.append(f"{counted(count, 'spectrum/spectra')} do not state their {quantity.replace('_', ' ')}.")
    return sentences


def _named_pairs(rows: pd.DataFrame) -> list[tuple[str, Pair]]:
    """Return (name, thresholds) for every model, setting and target."""
    thresholds = [(target, pair) for target, found in pairs_by_target(rows).items() for pair in found]
    return [(f"{pair.model} on {on_target(pair.question, target)}", pair) for target, pair in thresholds]


def _failed(rows: pd.DataFrame) -> Warning:
    failed = pick(rows, "failed")
    return Warning(f"{counted(len(failed), 'run')} failed", [f"{_run_name(row)}: {row.note}" for row in records(failed)])


def _diverged(rows: pd.DataFrame) -> Warning:
    diverged = pick(rows, "diverged")
    sentences = [f"{_run_name(row)}: diverged at step {row.value:.0f}." for row in records(diverged)]
    return Warning(f"{counted(len(diverged), 'training run')} diverged", sentences)


def _run_name(row) -> str:
    seeds = [f"{name} seed {seed:.0f}" for name, seed in (("position", row.position_seed), ("train", row.train_seed)) if seed == seed]
    how = [method_name(row.method)] if row.method else [row.kind] if row.kind else []
    return f"{row.model} on {row.task}, {', '.join([*how, *([f'k = {row.k:,.0f}'] if row.k == row.k else []), *seeds])} (run {row.run_id})"


def _training(rows: pd.DataFrame) -> Iterator[Warning]:
    """Yield warnings about training runs that did not reach their plateau or are not above chance."""
    trained = where(rows, rows["kind"] == "train")
    groups = [
        (f"{model} on {setting.label}, {method_name(str(method))}", table)
        for setting in settings(rows)
        for model in models(trained)
        for method, table in runs(in_setting(of_model(trained, model), setting)).groupby("method")
    ]
    moving = {name: (table, (table["plateau"] == 0).to_numpy()) for name, table in groups}
    yield Warning(f"{_runs(moving)} did not reach the plateau", [
        f"{name}: {_share(table, chosen)} did not reach the plateau{_gradient(table, chosen)}."
        for name, (table, chosen) in moving.items() if chosen.any()
    ])  # fmt: skip
    low = {name: (table, _not_above_chance(table)) for name, table in groups}
    yield Warning(f"{_runs(low)} did not exceed chance by 2 standard errors", [
        f"{name}: {_share(table, chosen)} did not exceed chance by 2 standard errors."
        for name, (table, chosen) in low.items() if chosen.any()
    ])  # fmt: skip


def _runs(groups: dict[str, tuple[pd.DataFrame, np.ndarray]]) -> str:
    return counted(sum(int(chosen.sum()) for _, chosen in groups.values()), "training run")


def _not_above_chance(table: pd.DataFrame) -> np.ndarray:
    judged = table[["score", "score_stderr", "chance"]].notna().all(axis=1)
    return (judged & (table["score"] - table["chance"] < 2 * table["score_stderr"])).to_numpy()


def _gradient(table: pd.DataFrame, chosen: np.ndarray) -> str:
    gradient = float(table["residual_gradient"].to_numpy()[chosen].max())
    return f"; largest residual gradient {number(gradient)}" if math.isfinite(gradient) else ""


def _share(table: pd.DataFrame, chosen: np.ndarray) -> str:
    k = [float(value) for value in table["k"].to_numpy()[chosen]]
    return f"{len(k)} of {counted(len(table), 'run')} (k = {listed(k)})"


def _thresholds(rows: pd.DataFrame) -> Iterator[Warning]:
    """Yield warnings about censored thresholds, open intervals, and predictions that do not fit."""
    censored, still_open, wrong = [], [], []
    for name, pair in _named_pairs(rows):
        measured, predicted = pair.measured, pair.predicted
        for what, threshold in (("measured k*", measured), ("predicted k", predicted)):
            if threshold and threshold.why_open:
                still_open.append(f"{name}: {what} has {threshold.why_open}.")
            elif threshold and threshold.censored:
                censored.append(f"{name}: {what} is {interval(threshold)}.")
        if pair.ratio and not 1 / FACTOR <= pair.ratio.value <= FACTOR:
            wrong.append(f"{name}: predicted k / measured k* is {number(pair.ratio.value)}, outside a factor of {FACTOR:g}.")
        if measured and predicted and measured.is_disjoint(predicted):
            wrong.append(f"{name}: measured {interval(measured)} and predicted {interval(predicted)} are disjoint.")
    yield Warning(f"{counted(len(censored), 'threshold')} censored", censored)
    yield Warning(f"{counted(len(still_open), 'threshold')} with an open interval", still_open)
    yield Warning(f"{counted(len(wrong), 'misfit')} of predicted and measured thresholds", wrong)


def _defects(rows: pd.DataFrame) -> Iterator[Warning]:
    for quantity, limit, verb in (
        ("symmetry_defect", DEFECT, f"a symmetry defect above {DEFECT:g}"),
        ("determinism_defect", 0.0, "products that differ when repeated"),
    ):
        defects = pick(rows, quantity)
        large = where(defects, defects["value"] > limit)
        sentences = [
            f"{row.model} on {row.task}, {MATRICES.get(row.matrix, row.matrix)}, k = {row.k:,.0f} (run {row.run_id}): "
            f"{quantity.replace('_', ' ')} {number(row.value)}." for row in records(large)
        ]  # fmt: skip
        yield Warning(f"{counted(len(large), 'spectrum/spectra')} with {verb}", sentences)
