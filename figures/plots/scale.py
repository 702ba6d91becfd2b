"""The spectrum's numbers against the size of the model: one line a family, mean and standard error over position seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses import runs
from analyses.findings import family
from analyses.store import QUANTITIES
from figures import style
from figures.rows import CannotDraw, at_pretrained, pick, tidy, where
from figures.words import MATRICES

HEIGHT = 1.75  # inches a line of panels
COLUMNS = 3
# Quantity -> title, log axis.
PANELS = {
    "eigenvalue": ("largest eigenvalue", True),
    "trace": (QUANTITIES["trace"].label, True),
    "effective_rank": (QUANTITIES["effective_rank"].label, True),
    "decay_exponent": (QUANTITIES["decay_exponent"].label, False),
    "top_alignment": ("gradient in the top ten", False),
    "negative_mass": (QUANTITIES["negative_mass"].label, False),
}
LINES = {matrix.name: matrix.dashes for matrix in runs.MATRICES.values()}
SEMIDEFINITE = [matrix.name for matrix in runs.MATRICES.values() if matrix.semidefinite]  # have no negative mass
FAMILY_MARKERS = "osD^vPX*"


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """One panel a number and task; families by colour and marker, matrices by dashes. Spectra at a run's optimum are left out.

    Bars are one standard error over position seeds, for a single seed that of the estimate. Raises CannotDraw without spectra
    of two models of one family.
    """
    numbers = _numbers(tidy(rows))
    families = sorted(set(numbers["family"]))
    if len(set(zip(numbers["family"], numbers["model"], strict=True))) == len(families):
        raise CannotDraw("no spectra at the pretrained point of two models of one family in the rows")
    tasks = sorted(set(numbers["task"]))
    lines = math.ceil(len(PANELS) / COLUMNS)  # of a task
    figure = style.new_figure(style.TEXT_WIDTH, HEIGHT * lines * len(tasks) + 0.45)
    grid = figure.subplots(lines * len(tasks), COLUMNS, squeeze=False).reshape(len(tasks), -1)
    looks = {family: (colour, FAMILY_MARKERS[i % 8]) for i, (family, colour) in enumerate(style.model_colours(families).items())}
    index = 0
    for task, line in zip(tasks, grid, strict=True):
        for (name, (title, log)), axes in zip(PANELS.items(), line, strict=True):
            own = where(numbers, (numbers["task"] == task) & (numbers["quantity"] == name))
            if name == "negative_mass":
                own = where(own, ~own["matrix"].isin(SEMIDEFINITE))
            if own.empty or (log and not (own["value"].to_numpy(float) > 0).any()):  # there is no place for it on a log axis
                axes.remove()
                continue
            _panel(axes, own, looks, log)
            style.letter(axes, index, f"{task}: {title}" if len(tasks) > 1 else title)
            index += 1
    style.outside_legend(figure, _legend(looks, set(numbers["matrix"])))
    return style.finish(figure)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns task, family, model, parameters, matrix, quantity, value, stderr: one line a spectrum and number."""
    rows = at_pretrained(rows)
    of_rank = {"eigenvalue": 1, "top_alignment": 10}
    parts = [pick(rows, name) for name in PANELS if name not in of_rank]
    parts += [where(numbers, numbers["x"] == rank) for numbers, rank in ((pick(rows, name), rank) for name, rank in of_rank.items())]
    numbers = pd.concat(parts, ignore_index=True)
    numbers["family"] = [family(name) for name in numbers["model"]]
    for column in ("k", "placement"):
        if len(set(numbers[column])) > 1:
            raise CannotDraw(f"spectra of several {column} in the rows: {', '.join(map(str, sorted(set(numbers[column]))))}; select one")
    return numbers


def _panel(axes: Axes, numbers: pd.DataFrame, looks: dict[str, tuple[style.Colour, str]], log: bool) -> None:
    values = numbers["value"].to_numpy(float)
    foot = float(values[values > 0].min()) / 2 if log and (values > 0).any() else 0.0
    for name, matrix in sorted(set(zip(numbers["family"], numbers["matrix"], strict=True))):
        group = where(numbers, (numbers["family"] == name) & (numbers["matrix"] == matrix))
        colour, marker = looks[name]
        sizes = sorted(set(group["parameters"]))
        middle, spread = zip(*(_mean(where(group, group["parameters"] == size)) for size in sizes), strict=True)
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": LINES[matrix], "markersize": 3, "linewidth": 0.9}
        if log:
            style.log_bars(axes, np.array(sizes, float), np.array(middle), np.array(spread), foot, **look)
        else:
            axes.errorbar(np.array(sizes, float), middle, yerr=spread, elinewidth=0.7, **look)
    every = numbers["parameters"].to_numpy(float)
    style.log_counts(axes.xaxis, every.min() / 1.4, every.max() * 1.4)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=foot)
    axes.set_xlabel("parameters")


def _mean(group: pd.DataFrame) -> tuple[float, float]:
    """Mean over runs and its standard error, 0 where none is known."""
    values, errors = group["value"].to_numpy(float), group["stderr"].to_numpy(float)
    spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else float(errors[0])
    return float(values.mean()), spread if math.isfinite(spread) else 0.0


def _legend(looks: dict[str, tuple[style.Colour, str]], matrices: set[str]) -> dict[str, style.Key]:
    keys: dict[str, style.Key] = {
        family: Line2D([], [], color=colour, marker=marker, markersize=3) for family, (colour, marker) in looks.items()
    }
    return keys | {MATRICES[name]: Line2D([], [], color=style.INK, ls=dashes) for name, dashes in LINES.items() if name in matrices}
