"""The main metric of every method over the size of the model, and the gap of each method to APET with as many parameters."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.findings import family
from analyses.store import QUANTITIES
from figures import layout, style
from figures.rows import (
    CannotDraw,
    Panel,
    chance,
    in_setting,
    means,
    metric_label,
    models,
    of,
    panel_title,
    run_rows,
    runs,
    settings,
    tidy,
    where,
)
from figures.words import method_name

HEIGHT, LOWER = 1.8, 1.4  # inches: main metric, and gap
APART = 1.06  # factor between methods on the x axis, so that their bars do not overlap
CHANCE = "chance"


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return pd.concat([run_rows(rows, "score", "chance"), of(rows, "method_gap")]).sort_index()


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one stack of panels per setting and family, the main metric above and the gaps (if the rows hold them) below.

    Each method is shown at its largest number of tuned parameters, as a mean over seeds with its standard error. Gaps have 95 % intervals.
    Raises CannotDraw without scores of two methods and without gaps.
    """
    rows = tidy(rows)
    table, gaps = runs(rows).dropna(subset=["score"]), of(rows, "method_gap")
    if len(set(table["method"])) < 2 and gaps.empty:
        raise CannotDraw("no scores of two methods and no method_gap in the rows")
    panels = _panels(rows)
    looks = style.method_looks([*table["method"], *gaps["method"]])
    heights = ([HEIGHT] if len(table) else []) + ([LOWER] if len(gaps) else [])
    figure, grid = layout.stacks(len(panels), heights, width=1.6)
    for index, ((panel, of_panel), stack) in enumerate(zip(panels.items(), grid, strict=True)):
        if len(table):
            _scores(stack[0], of_panel, looks)
        if len(gaps):
            _gaps(stack[-1], of(of_panel, "method_gap"), looks)
        _label(stack, of_panel, bool(len(table)))
        if title := panel_title(panel, list(panels)):
            layout.letter(stack[0], index, title)
    layout.outside_legend(figure, _legend(figure, looks))
    return layout.finish(figure)


def _panels(rows: pd.DataFrame) -> dict[Panel, pd.DataFrame]:
    """Return the rows of each setting and family that has a score or a gap."""
    panels = {}
    for setting in settings(rows):
        of_setting = data(in_setting(rows, setting))
        families = of_setting["model"].map(family)
        for name in sorted(set(families)):
            panels[setting, name] = where(of_setting, families == name)
    return panels


def _scores(axes: Axes, rows: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    table = runs(rows).dropna(subset=["score"])
    for method, x, of_method in _apart(table, looks):
        sizes = sorted(set(of_method["parameters"]))
        of_largest = [means(where(of_method, of_method["parameters"] == size), "score").iloc[-1] for size in sizes]
        middle, error = (np.array([line[name] for line in of_largest], float) for name in ("mean", "stderr"))
        settings = looks[method].line(linewidth=0.8, elinewidth=0.7, markersize=3.5)
        axes.errorbar(np.array(sizes, float) * x, middle, yerr=np.nan_to_num(error), **settings)
    levels = [(size, chance(of_size)) for size, of_size in table.groupby("parameters")]
    known = [(float(size), level) for size, level in levels if math.isfinite(level)]  # pyright: ignore[reportArgumentType]
    if known:
        axes.plot(*zip(*known, strict=True), color=style.GREY, linestyle=":", linewidth=1.0, label=CHANCE, zorder=1)


def _gaps(axes: Axes, gaps: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    axes.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
    for method, x, of_method in _apart(gaps, looks):
        of_method = of_method.sort_values("parameters")
        value, low, high = (of_method[name].to_numpy(float) for name in ("value", "low", "high"))
        bars = np.nan_to_num([value - low, high - value])
        settings = looks[method].line(linestyle="none", elinewidth=0.7, markersize=3.5)
        axes.errorbar(of_method["parameters"].to_numpy(float) * x, value, yerr=bars, **settings)


def _apart(table: pd.DataFrame, looks: dict[str, style.Look]) -> list[tuple[str, float, pd.DataFrame]]:
    """Return (method, factor on the x axis, its lines) of the methods in a table."""
    present = [method for method in looks if method in set(table["method"])]
    middle = (len(present) - 1) / 2
    return [(method, APART ** (i - middle), where(table, table["method"] == method)) for i, method in enumerate(present)]


def _label(stack: np.ndarray, rows: pd.DataFrame, scored: bool) -> None:
    sizes = list(models(rows).values())
    for axes in stack:
        style.log_counts(axes.xaxis, min(sizes) / 1.6, max(sizes) * 1.6, most=4)
    stack[-1].set_xlabel("model parameters N")
    if layout.is_first(stack[0]):
        labels = ([f"validation {metric_label(rows)}"] if scored else []) + [QUANTITIES["method_gap"].label]
        for axes, label in zip(stack, labels, strict=False):
            axes.set_ylabel(label)


def _legend(figure: Figure, looks: dict[str, style.Look]) -> dict[str, layout.Key]:
    keys: dict[str, layout.Key] = {method_name(method): look.key() for method, look in looks.items()}
    drawn = CHANCE in layout.used_labels(figure)
    return keys | ({CHANCE: Line2D([], [], color=style.GREY, ls=":", lw=1.0)} if drawn else {})
