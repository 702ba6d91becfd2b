"""The data of the page's interactive charts, as JSON: spectra as curves, and the loss over planes. report.js draws them with plotly."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from figures import style
from figures.plots import Grid, grids
from figures.rows import CannotDraw, models, pick, records, where
from figures.words import MATRICES

DIGITS = 5  # significant digits of the numbers, more than a screen shows
# Quantity -> name in the menu, title of the x axis, title of the y axis, whether each axis is logarithmic.
CURVES = {
    "eigenvalue": ("eigenvalues", "rank by magnitude", "|eigenvalue|", "linear", "log"),
    "density": ("density", "eigenvalue", "density", "linear", "log"),
    "n_eff": ("effective dimension", "ridge kappa", "N_eff(kappa)", "log", "log"),
    "top_alignment": ("gradient share by rank", "number of top eigenvectors", "share of |g|^2", "linear", "linear"),
}
SMALLEST = 1e-7  # relative to the largest value; smaller values of a density are left out


def script() -> str:
    """Return plotly's program, compressed, as base64: 1.9 MB in place of 4.8 MB."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")


def spectra(rows: pd.DataFrame) -> dict[str, Any] | None:
    """Return the curves of all spectra by quantity and by task, matrix and point; None without spectra. `rows` come from `tidy`."""
    rows = where(rows, (rows["kind"] == "spectrum") & rows["quantity"].isin(list(CURVES)) & rows["x"].notna() & rows["value"].notna())
    if rows.empty:
        return None
    colours = {name: to_hex(colour) for name, colour in style.model_colours(models(rows)).items()}
    groups: dict[str, list[dict[str, Any]]] = {}
    for run_id in dict.fromkeys(rows["run_id"]):
        of_run = where(rows, rows["run_id"] == run_id)
        groups.setdefault(_spectrum_name(records(of_run)[0]), []).append(_curves(of_run, colours))
    return {"views": {name: _view(*words) for name, words in CURVES.items() if name in set(rows["quantity"])}, "groups": groups}


def _spectrum_name(row: Any) -> str:
    """Return the task, the matrix and the point of a spectrum in words, as in "sst2, Hessian at the initial point"."""
    point = f"at {row.at_run}" if row.at_run else "at the initial point"
    step = "" if np.isnan(row.at_step) else f", step {row.at_step:.0f}"
    return f"{row.task}, {MATRICES.get(row.matrix, row.matrix)} {point}{step}"


def _view(name: str, x: str, y: str, x_scale: str, y_scale: str) -> dict[str, str]:
    return {"name": name, "x": x, "y": y, "x_scale": x_scale, "y_scale": y_scale}


def _curves(rows: pd.DataFrame, colours: dict[str, str]) -> dict[str, Any]:
    first = records(rows)[0]
    seed = "" if np.isnan(first.position_seed) else f", seed {first.position_seed:.0f}"
    curves = {}
    for name in CURVES:
        part = pick(rows, name).sort_values("x")
        if name == "density":
            part = where(part, part["value"] > SMALLEST * part["value"].max())
        if len(part):
            curves[name] = {"x": _short(part["x"]), "y": _short(part["value"]), "error": _short(part["stderr"])}
    model = style.short_name(first.model)
    return {"model": model, "name": f"{model}, k = {first.k:,.0f}{seed}", "colour": colours[first.model], "curves": curves}


def surfaces(rows: pd.DataFrame) -> list[dict[str, Any]] | None:
    """Return the loss over every plane, with its marked points; None without planes. `rows` come from `tidy`."""
    try:
        return [_surface(grid) for grid in grids(rows, 2)]
    except CannotDraw:
        return None


def _surface(grid: Grid) -> dict[str, Any]:
    places = [
        {"x": _short([place.x])[0], "y": _short([place.y])[0], "step": place.step, "loss": _short([place.loss])[0]} for place in grid.places
    ]
    return {
        "name": f"{grid.title}, {grid.task}, {grid.directions} directions, {grid.taken}",
        "x": _short(grid.x), "y": _short(grid.y if grid.y is not None else []), "loss": [_short(line) for line in grid.loss.T],
        "x_title": grid.label(0), "y_title": grid.label(1), "places": places, "path": grid.directions == "trajectory",
    }  # fmt: skip


def _short(values: Any) -> list[float | None]:
    """Return numbers with DIGITS significant digits; None stands for values that are not finite, which JSON lacks."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def as_json(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
