"""Accuracy of predictions on quadratics, where k* is known exactly: T3 by kind of subspace, and T5 between its limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import layout, style
from figures.plots.predictions import band
from figures.rows import CannotDraw, of, pick, tidy, where

HEIGHT = 3.2  # inches
FEWEST = 8.0  # smallest k* that is shown; the largest is half of the size
LEAST = 1e-3  # smaller errors are drawn at this value
KINDS = {
    ("Gaussian", None): ("Gaussian", "o", "#0072b2"),
    ("coordinates", 1.0): ("coordinates, Haar eigenvectors", "s", "#009e73"),
    ("coordinates", 0.0): ("coordinates, diagonal", "X", "#d55e00"),
}
METHODS = {"T3": ("--", "#0072b2"), "T5": ("-", "#cc79a7")}


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, "quadratic_k_star", "quadratic_k")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure.

    (a) T3 against the exact k*. (b) |log error| of T3 and T5 for eigenvectors rotated from the coordinates to a Haar rotation. The rows
    come from benchmarks/prediction.py; a point is one spectrum, alignment and target. Raises CannotDraw without these rows.
    """
    rows = tidy(rows)
    exact = pick(rows, "quadratic_k_star").set_index("run_id")
    exact = where(exact, (exact["value"] >= FEWEST) & (exact["value"] <= exact["parameters"] / 2))
    if exact.empty:
        raise CannotDraw("no quadratic_k_star in the rows: benchmarks/prediction.py --rows FILE writes them")
    figure, (left, right) = layout.small_multiples(2, HEIGHT, wide_from=2)
    labels = _against_exact(left, exact, _predicted(rows, "T3"))
    _between_limits(right, exact, rows)
    layout.letter(left, 0, "T3")
    layout.letter(right, 1, "T3 and T5, rotated")
    kinds = [style.Look(colour, marker, "none", "none") for _, marker, colour in KINDS.values()]
    names = [label for label, _, _ in KINDS.values()]
    keys: dict[str, layout.Key] = {name: kind.key() for name, kind in zip(names, kinds, strict=True) if name in labels}
    layout.outside_legend(figure, keys | {label: Line2D([], [], color=c, ls=d) for label, (d, c) in METHODS.items()})
    return layout.finish(figure)


def _predicted(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    return where(rows, (rows["quantity"] == "quadratic_k") & (rows["series"] == method))


def _joined(exact: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Return a table of every quadratic with both numbers: subspace, x (degree of rotation), exact k* (value) and predicted k."""
    other = predicted.set_index("run_id")[["value"]].set_axis(["k"], axis=1)
    return exact[["subspace", "x", "value"]].join(other, how="inner").dropna(subset=["k"])


def _against_exact(axes: Axes, exact: pd.DataFrame, predicted: pd.DataFrame) -> set[str]:
    both = _joined(exact, predicted)
    both = where(both, both["subspace"].isin(["Gaussian", "coordinates"]))
    band(axes, [*both["value"], *both["k"]])
    drawn = set()
    for (subspace, turn), (label, marker, colour) in KINDS.items():
        of_kind = where(both, both["subspace"] == subspace)
        of_kind = of_kind if turn is None else where(of_kind, of_kind["x"] == turn)
        if len(of_kind):
            axes.plot(of_kind["value"], of_kind["k"], marker, color=colour, markersize=3, fillstyle="none")
            drawn.add(label)
    axes.set(xlabel="exact k*", ylabel="k predicted by T3", aspect="equal")
    return drawn


def _between_limits(axes: Axes, exact: pd.DataFrame, rows: pd.DataFrame) -> None:
    turns: list[float] = []
    for aside, (method, (dashes, colour)) in zip((-0.08, 0.08), METHODS.items(), strict=True):
        both = _joined(exact, _predicted(rows, method))
        both = where(both, both["subspace"] == "coordinates, turned")
        turns = sorted(set(both["x"]))
        errors = np.maximum(np.abs(np.log(both["k"].to_numpy(float) / both["value"].to_numpy(float))), LEAST)
        places = np.searchsorted(turns, both["x"].to_numpy(float))
        axes.plot(places + aside, errors, ".", color=colour, alpha=0.45, markersize=3)
        axes.plot(range(len(turns)), [float(np.median(errors[places == place])) for place in range(len(turns))], dashes, color=colour)
    axes.axhline(0.05, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set(yscale="log", xlabel="rotation of eigenvectors (0: none, 1: Haar)", ylabel="|log error| of predicted k")
    axes.set_xticks(range(len(turns)), [f"{turn:g}" for turn in turns])
