"""The spread of the main metric over positions of the tuned entries against other spreads, over scale (finding F1 of arXiv 2306.02320)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.findings import family
from analyses.store import QUANTITIES
from figures import layout, style
from figures.rows import CannotDraw, of, tidy, where
from figures.words import method_name

HEIGHT, LOWER = 1.8, 1.5  # inches: spreads of the metric, spreads of the loss
APART = 1.05  # factor between series on the x axis, so that their bars do not overlap
SPREADS = ("position_sd", "train_sd", "method_sd")
LOOKS = {"position_sd": ("o", style.SERIES[0]), "train_sd": ("s", style.SERIES[1]), "method_sd": ("^", style.SERIES[2])}
PLACED = "placement_spread"
LOSSES = {"measured": ("D", style.SERIES[0], "full"), "predicted": ("D", style.SERIES[1], "none")}
Panel = tuple[str, str]  # task and family
Series = tuple[str, str]  # name of the spread, and k


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, *SPREADS, PLACED)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one stack of panels per task and family, on log axes.

    Above: standard deviations of the main metric over positions, train seeds and methods, with 95 % intervals. Below, if the rows hold it:
    the standard deviation of the training loss over placements, measured and predicted. Raises CannotDraw without position_sd.
    """
    rows = tidy(rows)
    spreads = data(rows)
    if of(spreads, "position_sd").empty:
        raise CannotDraw("no position_sd in the rows: 'findings' writes them")
    spreads = spreads.assign(family=spreads["model"].map(family), of_k=[_of_k(row) for row in spreads.itertuples()])
    placed = of(spreads, "position_sd")
    panels: list[Panel] = sorted(set(zip(placed["task"], placed["family"], strict=True)))
    spreads = where(spreads, [panel in panels for panel in zip(spreads["task"], spreads["family"], strict=True)])
    looks = _looks(spreads)
    heights = [HEIGHT] + ([LOWER] if len(of(spreads, PLACED)) else [])
    figure, grid = layout.stacks(len(panels), heights, width=1.6)
    for index, (panel, stack) in enumerate(zip(panels, grid, strict=True)):
        of_panel = where(spreads, (spreads["task"] == panel[0]) & (spreads["family"] == panel[1]))
        for axes, names, label in zip(stack, (SPREADS, (PLACED,)), ("sd of the main metric", "sd of loss / initial loss"), strict=False):
            drawn = of(of_panel, *names)
            if drawn.empty:
                axes.remove()
                continue
            _panel(axes, drawn, looks)
            axes.set_xlabel("model parameters N")
            if layout.is_first(axes):
                axes.set_ylabel(label)
        shown = [part for i, part in enumerate(panel) if len({other[i] for other in panels}) > 1]
        if shown:
            layout.letter(stack[0], index, "\n".join(shown))
    layout.outside_legend(figure, {_label(key, looks): look.key() for key, look in looks.items()})
    return layout.finish(figure)


def _of_k(row: Any) -> str:
    """Return the number of tuned entries in words: as many as a method, or k."""
    if row.series and row.quantity != PLACED:
        return f"k of {method_name(row.series)}"
    return f"k = {row.k:,.0f}" if math.isfinite(row.k) else ""


def _key(row: Any) -> Series:
    return (row.series if row.quantity == PLACED else row.quantity, row.of_k)


def _looks(spreads: pd.DataFrame) -> dict[Series, style.Look]:
    """Return the look of each series: marker and colour by the kind of spread, dashes by k."""
    keys = sorted({_key(row) for row in spreads.itertuples()}, key=lambda key: ([*LOOKS, *LOSSES].index(key[0]), key[1]))
    ks = sorted({k for _, k in keys})
    looks = {}
    for name, k in keys:
        marker, colour, fill = (*LOOKS[name], "full") if name in LOOKS else LOSSES[name]
        looks[name, k] = style.Look(colour, marker, style.DASHES[ks.index(k) % len(style.DASHES)], fill)
    return looks


def _panel(axes: Axes, spreads: pd.DataFrame, looks: dict[Series, style.Look]) -> None:
    keys = [_key(row) for row in spreads.itertuples()]
    present = [key for key in looks if key in keys]
    values, ends = spreads["value"].to_numpy(float), [_ends(row) for row in spreads.itertuples()]
    shown = [n for n in (*values, *(end for pair in ends for end in pair)) if n > 0 and math.isfinite(n)]
    most = max(shown, default=1.0)
    foot = max(min((value for value in values if value > 0), default=most) / 2.5, most * 1e-4)
    for place, key in enumerate(present):
        chosen = [i for i, other in enumerate(keys) if other == key]
        of_key = spreads.iloc[chosen].sort_values("parameters")
        low, high = np.array([_ends(row) for row in of_key.itertuples()]).T
        x = of_key["parameters"].to_numpy(float) * APART ** (place - (len(present) - 1) / 2)
        style.log_bars(axes, x, of_key["value"].to_numpy(float), low, high, foot, **looks[key].line(markersize=3.5, linewidth=0.8))
    sizes = spreads["parameters"].to_numpy(float)
    style.log_counts(axes.xaxis, sizes.min() / 1.6, sizes.max() * 1.6, most=4)
    style.log_counts(axes.yaxis, foot, most * 1.5, label=style.power_label)


def _ends(row: Any) -> tuple[float, float]:
    """Return the ends of the 95 % interval, or of one standard error where the row has only that."""
    return (row.low, row.high) if math.isfinite(row.low) or math.isfinite(row.high) else (row.value - row.stderr, row.value + row.stderr)


def _label(key: Series, looks: dict[Series, style.Look]) -> str:
    name, k = key
    label = QUANTITIES[name].label if name in LOOKS else f"loss over placements, {name}"
    return f"{label}, {k}" if k and len({other for _, other in looks}) > 1 else label
