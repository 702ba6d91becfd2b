"""Numbers of the spectrum against the size of the model: one line per family, with mean and standard error over position seeds."""

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

HEIGHT = 1.75  # inches per line of panels
COLUMNS = 3
# Quantity -> title, whether the axis is logarithmic.
PANELS = {
    "eigenvalue": ("largest eigenvalue", True),
    "trace": (QUANTITIES["trace"].label, True),
    "effective_rank": (QUANTITIES["effective_rank"].label, True),
    "decay_exponent": (QUANTITIES["decay_exponent"].label, False),
    "top_alignment": ("gradient share, top ten", False),
    "negative_mass": (QUANTITIES["negative_mass"].label, False),
}
LINES = {matrix.name: matrix.dashes for matrix in runs.MATRICES.values()}
SEMIDEFINITE = [matrix.name for matrix in runs.MATRICES.values() if matrix.semidefinite]  # their negative mass is zero
FAMILY_MARKERS = "osD^vPX*"


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per number and task, with families by colour and marker and matrices by dashes.

    Spectra at the final point of a run are left out. Bars are one standard error over position seeds, or the standard error of the estimate
    for a single seed. Raises CannotDraw unless a family has spectra of at least two models.
    """
    numbers = _numbers(tidy(rows))
    families = sorted(set(numbers["family"]))
    if len(set(zip(numbers["family"], numbers["model"], strict=True))) == len(families):
        raise CannotDraw("no spectra at the pretrained point of two models of one family in the rows")
    tasks = sorted(set(numbers["task"]))
    lines = math.ceil(len(PANELS) / COLUMNS)  # lines of panels per task
    figure = style.new_figure(style.TEXT_WIDTH, HEIGHT * lines * len(tasks) + 0.45)
    grid = figure.subplots(lines * len(tasks), COLUMNS, squeeze=False).reshape(len(tasks), -1)
    looks = {family: (colour, FAMILY_MARKERS[i % 8]) for i, (family, colour) in enumerate(style.model_colours(families).items())}
    index = 0
    for task, line in zip(tasks, grid, strict=True):
        for (name, (title, log)), axes in zip(PANELS.items(), line, strict=True):
            panel_rows = where(numbers, (numbers["task"] == task) & (numbers["quantity"] == name))
            if name == "negative_mass":
                panel_rows = where(panel_rows, ~panel_rows["matrix"].isin(SEMIDEFINITE))
            if panel_rows.empty or (log and not (panel_rows["value"].to_numpy(float) > 0).any()):  # a log axis cannot show it
                axes.remove()
                continue
            _panel(axes, panel_rows, looks, log)
            style.letter(axes, index, f"{task}: {title}" if len(tasks) > 1 else title)
            index += 1
    style.outside_legend(figure, _legend(looks, set(numbers["matrix"])))
    return style.finish(figure)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a line per spectrum and number: task, family, model, parameters, matrix, quantity, value, stderr, ..."""
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
    sizes_drawn = numbers["parameters"].to_numpy(float)
    style.log_counts(axes.xaxis, sizes_drawn.min() / 1.4, sizes_drawn.max() * 1.4)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=foot)
    axes.set_xlabel("parameters")


def _mean(group: pd.DataFrame) -> tuple[float, float]:
    """Return the mean over runs and its standard error, or 0 if the standard error is unknown."""
    values, errors = group["value"].to_numpy(float), group["stderr"].to_numpy(float)
    spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else float(errors[0])
    return float(values.mean()), spread if math.isfinite(spread) else 0.0


def _legend(looks: dict[str, tuple[style.Colour, str]], matrices: set[str]) -> dict[str, style.Key]:
    keys: dict[str, style.Key] = {
        family: Line2D([], [], color=colour, marker=marker, markersize=3) for family, (colour, marker) in looks.items()
    }
    return keys | {MATRICES[name]: Line2D([], [], color=style.INK, ls=dashes) for name, dashes in LINES.items() if name in matrices}
