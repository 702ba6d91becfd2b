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
        scored, differ = runs(of_panel).dropna(subset=["score"]), of(of_panel, "method_gap")
        drawn = [(_scores, scored, f"validation {metric_label(of_panel)}")] if len(table) else []
        drawn += [(_gaps, differ, QUANTITIES["method_gap"].label)] if len(gaps) else []
        for axes, (draw_panel, lines, label) in zip(stack, drawn, strict=True):
            if lines.empty:
                axes.remove()
                continue
            draw_panel(axes, lines, looks)
            sizes = lines["parameters"].to_numpy(float)
            style.log_counts(axes.xaxis, sizes.min() / 1.6, sizes.max() * 1.6, most=4)
            axes.set(xlabel="model parameters N", ylabel=label if layout.is_first(axes) else "")
        present = [axes for axes, (_, lines, _) in zip(stack, drawn, strict=True) if len(lines)]
        if title := panel_title(panel, list(panels)):
            layout.letter(present[0], index, title)
    layout.outside_legend(figure, _legend(figure, looks))
    return layout.finish(figure)


def _panels(rows: pd.DataFrame) -> dict[Panel, pd.DataFrame]:
    """Return the rows of each setting and family that has a score or a gap."""
    panels = {}
    for setting in settings(rows):
        of_setting = data(in_setting(rows, setting))
        families = of_setting["model"].map(family)
        for name in sorted(set(families)):
            own = where(of_setting, families == name)
            if len(runs(own).dropna(subset=["score"])) or len(of(own, "method_gap")):  # a chance level alone makes no panel
                panels[setting, name] = own
    return panels


def _scores(axes: Axes, table: pd.DataFrame, looks: dict[str, style.Look]) -> None:
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


def _legend(figure: Figure, looks: dict[str, style.Look]) -> dict[str, layout.Key]:
    keys: dict[str, layout.Key] = {method_name(method): look.key() for method, look in looks.items()}
    drawn = CHANCE in layout.used_labels(figure)
    return keys | ({CHANCE: Line2D([], [], color=style.GREY, ls=":", lw=1.0)} if drawn else {})
