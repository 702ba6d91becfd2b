"""The loss landscape at the initial point over model size: each number that k* depends on, and the direction that would lower k*.

By T3, k* depends on the shape of the spectrum, on the alignment of the gradient with it, and on the gap to the target; for single entries
also on the share of active entries. k* does not depend on the height of the spectrum, so the claim leaves out the trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from analyses.findings.claims import Answer, Case, Population, bracket, cases_of, falls, rises
from analyses.findings.families import family
from analyses.findings.regressions import Point, described, slope
from analyses.findings.scores import Frame, sizes
from analyses.store import QUANTITIES, Row, quantities

RIDGE = 0.01  # N_eff is compared at this share of the largest eigenvalue, because k* does not depend on the spectrum's height
GAUSS_NEWTON = "ggn"  # the matrix of T3; spectra of other matrices count only without spectra of this one
RANK = 10  # the alignment is the gradient's share along this many eigenvectors
# Quantity -> the direction that would lower k*.
LOWERS = {
    "n_eff": falls, "effective_rank": falls, "decay_exponent": rises, "top_alignment": rises, "initial_loss": falls, "live_fraction": rises,
}  # fmt: skip
WORDS = {falls: "falls", rises: "rises"}


def landscape_cases(rows: Frame) -> list[Case]:
    """Return the cases of the claim that a number changes with size so that k* falls, with the slopes."""
    whole = sizes(rows)

    def judge(quantity: str, matrix: str, setting: str, own: Population[Point]) -> Answer:
        estimate, direction = slope(own.members, whole), LOWERS[quantity]
        slope_words = bracket(estimate.value, estimate.low, estimate.high)
        result = f"it changes as N^b with b = {slope_words} (k* would fall if it {WORDS[direction]})"
        number = Row(
            own.models, 0, own.task, quantities.SLOPE, estimate.value, low=estimate.low, high=estimate.high, series=quantity, matrix=matrix,
            kind="finding", note=setting,
        )  # fmt: skip
        return Answer(estimate, direction(estimate), result, described(own.members), (number,))

    return [
        case
        for key, points in sorted(_points(rows).items())
        for case in cases_of("landscape", _in_words(*key), points, partial(judge, *key))
    ]


def _in_words(quantity: str, matrix: str, setting: str) -> str:
    return ", ".join(filter(None, (_label(quantity), matrix, setting)))


def _label(quantity: str) -> str:
    extra = {"n_eff": f" at {100 * RIDGE:g} % of the largest eigenvalue", "top_alignment": f" with the top {RANK}"}.get(quantity, "")
    return QUANTITIES[quantity].label.replace("$N_{eff}$", "N_eff") + extra


def _points(rows: Frame) -> dict[tuple[str, str, str], list[Point]]:
    """Return (quantity, matrix, setting in words) -> the mean log value of each model and task, with its standard error over runs."""
    found: dict[tuple[str, str, str], dict[tuple[str, str], list[float]]] = {}
    for key, model, task, value in _values(rows):
        if value > 0:
            found.setdefault(key, {}).setdefault((model, task), []).append(math.log(value))
    return {
        key: [
            Point(family(model), model, task, float(np.mean(logs)), float(np.mean(logs)), _stderr(logs))
            for (model, task), logs in sorted(by_model.items())
        ]
        for key, by_model in found.items()
    }  # fmt: skip


def _stderr(logs: list[float]) -> float:
    return float(np.std(logs, ddof=1)) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0


def _values(rows: Frame) -> Iterator[tuple[tuple[str, str, str], str, str, float]]:
    """Yield ((quantity, matrix, setting), model, task, value) of every spectrum at the initial point, training run and prediction.

    A spectrum depends on the examples, on the tuned entries, and on k. The setting names each of them that has several values for a model.
    """
    spectra = rows[(rows["matrix"] != "") & (rows["at_run"] == "") & rows["samples"].isna() & (rows["kind"] == "spectrum")]
    if (spectra["matrix"] == GAUSS_NEWTON).any():
        spectra = spectra[spectra["matrix"] == GAUSS_NEWTON]
    several = _several(spectra, "protocol", "subspace", "placement", "k")
    for _, own in spectra.groupby("run_id"):
        first = own.iloc[0]
        matrix, setting, whose = first["matrix"], _setting(first, several), (first["model"], first["task"])
        for quantity in ("effective_rank", "decay_exponent"):
            for value in own.loc[(own["quantity"] == quantity) & own["x"].isna(), "value"]:
                yield (quantity, matrix, setting), *whose, float(value)
        for value in own.loc[(own["quantity"] == "top_alignment") & (own["x"] == RANK), "value"]:
            yield ("top_alignment", matrix, setting), *whose, float(value)
        if (effective := _effective(own)) is not None:
            yield ("n_eff", matrix, setting), *whose, effective
    single = rows[rows["quantity"].isin(["initial_loss", "live_fraction"])]
    single = single[(single["quantity"] == "live_fraction") | (single["split"] == "train")]
    several = _several(single, "protocol")
    for _, row in single.drop_duplicates(["quantity", "protocol", "model", "task", "value"]).iterrows():
        yield (row["quantity"], "", _setting(row, several)), row["model"], row["task"], float(row["value"])


def _several(rows: Frame, *columns: str) -> list[str]:
    """Return the columns that have several values for some model."""
    return [name for name in columns if rows.groupby("model")[name].nunique().max() > 1]


def _setting(row: Any, columns: list[str]) -> str:
    words = (f"k = {row[name]:,.0f}" if name == "k" and row[name] > 0 else str(row[name] or "") for name in columns)
    return ", ".join(word for word in words if word and word != "nan")


def _effective(spectrum: Frame) -> float | None:
    """Return N_eff at RIDGE times the largest eigenvalue, interpolated between the recorded ridges; None if it is beyond them."""
    eigenvalues, curve = (spectrum[spectrum["quantity"] == name] for name in ("eigenvalue", "n_eff"))
    curve = curve.sort_values("x")
    top = float(eigenvalues["value"].max()) if len(eigenvalues) else math.nan
    if not (top > 0) or len(curve) < 2 or not curve["x"].min() <= RIDGE * top <= curve["x"].max():
        return None
    return float(np.interp(math.log(RIDGE * top), np.log(curve["x"].to_numpy(float)), curve["value"].to_numpy(float)))
