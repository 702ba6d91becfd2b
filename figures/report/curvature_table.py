"""Tables of spectra and of slices."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analyses.store import QUANTITIES
from figures.numbers import MISSING, number, with_error
from figures.rows import models, of_model, pick, records, where
from figures.words import DIRECTIONS, MATRICES

SCALARS = ("trace", "negative_mass", "symmetry_defect")
CURVATURES = ("task", "model", "matrix", "k", "top eigenvalue ± residual",
              *(QUANTITIES[name].label + (" ± s.e." if QUANTITIES[name].interval else "") for name in SCALARS))  # fmt: skip
SLICES = ("task", "model", "directions", "point", "k", "points", "lowest training loss", "highest training loss", "roughness ± s.e.")


def curvatures(rows: pd.DataFrame) -> list[list[str]]:
    """Return the scalars of each spectrum with standard errors, and its top eigenvalue with the residual. `rows` come from `tidy`."""
    spectra = where(rows, rows["quantity"].isin([*SCALARS, "eigenvalue"]))
    lines = []
    for name in models(spectra):
        of_this = of_model(spectra, name)
        by_matrix = [(_matrix(records(spectrum)[0]), spectrum) for _, spectrum in of_this.groupby("run_id")]
        for matrix, spectrum in sorted(by_matrix, key=lambda pair: pair[0]):
            top = pick(spectrum, "eigenvalue").sort_values(by="value")
            scalars = [_last(pick(spectrum, scalar)) for scalar in SCALARS]
            lines.append([str(spectrum["task"].iloc[0]), name, matrix, number(float(spectrum["k"].iloc[0])), _last(top), *scalars])
    return lines


def slices(rows: pd.DataFrame) -> list[list[str]]:
    """Return the range of the training loss over each slice, and its roughness. `rows` come from `tidy`."""
    losses = pick(rows, "slice_loss", "train")
    roughness = {row.run_id: with_error(row.value, row.stderr) for row in records(pick(rows, "roughness"))}
    lines = []
    for run_id, part in losses.groupby("run_id", sort=False):
        first, finite = records(part)[0], part["value"].dropna().to_numpy(float)
        ends = [number(float(end)) for end in (finite.min(), finite.max())] if len(finite) else [MISSING, MISSING]
        point = f"end of {first.at_run}" if first.at_run else "initial point"
        directions = DIRECTIONS.get(first.directions, first.directions)
        rough = roughness.get(str(run_id), MISSING)
        lines.append([first.task, first.model, directions, point, number(first.k), f"{len(part):,}", *ends, rough])
    return lines


def _matrix(row: Any) -> str:
    """Return the matrix in words, with the number of sampled labels and the point if the row states them."""
    samples = "" if math.isnan(row.samples) else f" of {row.samples:.0f} sampled labels"
    step = "" if math.isnan(row.at_step) else f" step {row.at_step:.0f}"
    return MATRICES.get(row.matrix, "") + samples + (f" at {row.at_run}{step}" if row.at_run else "")


def _last(rows: pd.DataFrame) -> str:
    if rows.empty:
        return MISSING
    value, stderr = (float(rows[column].iloc[-1]) for column in ("value", "stderr"))
    exact = not QUANTITIES[rows["quantity"].iloc[-1]].interval and math.isnan(stderr)
    return number(value) if exact else with_error(value, stderr)
