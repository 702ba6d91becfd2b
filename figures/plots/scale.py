"""Numbers of the spectrum against the size of the model: one line per family, with mean and standard error over position seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses import runs
from analyses.findings import family
from analyses.store import QUANTITIES
from figures import layout, style
from figures.rows import CannotDraw, at_pretrained, of, tidy, where
from figures.venues import page
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
OF_RANK = {"eigenvalue": 1, "top_alignment": 10}  # the rank of a curve that a panel shows
LINES = {matrix.name: matrix.dashes for matrix in runs.MATRICES.values()}
SEMIDEFINITE = [matrix.name for matrix in runs.MATRICES.values() if matrix.semidefinite]  # their negative mass is zero


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    numbers = of(at_pretrained(rows), *PANELS)
    return where(numbers, numbers["x"].isna() | (numbers["x"] == numbers["quantity"].map(OF_RANK.get)))


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
    columns = min(COLUMNS, layout.most_columns())
    lines = math.ceil(len(PANELS) / columns)  # lines of panels per task
    figure = layout.new_figure(page().wide, HEIGHT * lines * len(tasks) + 0.45)
    grid = figure.subplots(lines * len(tasks), columns, squeeze=False).reshape(len(tasks), -1)
    looks = style.model_looks(families)
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
            layout.letter(axes, index, f"{task}: {title}" if len(tasks) > 1 else title)
            index += 1
    layout.outside_legend(figure, _legend(looks, set(numbers["matrix"])))
    return layout.finish(figure)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a line per spectrum and number: task, family, model, parameters, matrix, quantity, value, stderr, ..."""
    numbers = data(rows).reset_index(drop=True)
    numbers["family"] = [family(name) for name in numbers["model"]]
    for column in ("k", "placement"):
        if len(set(numbers[column])) > 1:
            raise CannotDraw(f"spectra of several {column} in the rows: {', '.join(map(str, sorted(set(numbers[column]))))}; select one")
    return numbers


def _panel(axes: Axes, numbers: pd.DataFrame, looks: dict[str, style.Look], log: bool) -> None:
    values = numbers["value"].to_numpy(float)
    foot = float(values[values > 0].min()) / 2 if log and (values > 0).any() else 0.0
    for name, matrix in sorted(set(zip(numbers["family"], numbers["matrix"], strict=True))):
        group = where(numbers, (numbers["family"] == name) & (numbers["matrix"] == matrix))
        sizes = sorted(set(group["parameters"]))
        middle, spread = zip(*(_mean(where(group, group["parameters"] == size)) for size in sizes), strict=True)
        look = looks[name].line(linestyle=LINES[matrix], markersize=3, linewidth=0.9)
        if log:
            y, error = np.array(middle), np.array(spread)
            style.log_bars(axes, np.array(sizes, float), y, y - error, y + error, foot, **look)
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


def _legend(looks: dict[str, style.Look], matrices: set[str]) -> dict[str, layout.Key]:
    keys: dict[str, layout.Key] = {family: look.key(ls="none") for family, look in looks.items()}
    return keys | {MATRICES[name]: Line2D([], [], color=style.INK, ls=dashes) for name, dashes in LINES.items() if name in matrices}
