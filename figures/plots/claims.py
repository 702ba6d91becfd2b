"""Every claim as a forest plot: the estimate of each case with its interval and its verdict, one panel per claim."""

from __future__ import annotations

import math
import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.findings import CLAIMS
from analyses.store import quantities, statuses
from figures import layout, style
from figures.rows import CannotDraw, of, tidy, where
from figures.venues import page

LINE = 0.145  # inches per line of text at 7 pt
SHARE = 0.42  # largest part of the figure's width for the names of the cases
LOOKS = {
    statuses.SUPPORTED: style.Look(style.SERIES[2], "o"),
    statuses.NOT_SUPPORTED: style.Look(style.SERIES[1], "X"),
    statuses.UNDECIDED: style.Look(style.INK, "D", fill="none"),
}


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, quantities.CLAIM)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: estimates with 95 % intervals, a marker per verdict, and a line at zero if zero is on the axis.

    A case without an estimate has its marker at the left edge. Raises CannotDraw if the rows hold no claims.
    """
    claims = data(tidy(rows))
    if claims.empty:
        raise CannotDraw("no claim in the rows: 'findings' writes them")
    keys = sorted(set(claims["series"]), key=lambda key: ([*CLAIMS, key].index(key), key))
    panels = [(key, where(claims, claims["series"] == key).sort_values(["group", "model", "task"], kind="stable")) for key in keys]
    line = LINE * page().small / 7
    names = {key: [_wrapped(str(group)) for group in of_claim["group"]] for key, of_claim in panels}
    heights = [line * (sum(name.count("\n") + 1.4 for name in names[key]) + 1.5) for key in keys]
    figure = layout.new_figure(page().wide, sum(heights) + 4.6 * line * len(keys) + 0.3)
    grid = figure.subplots(len(keys), 1, squeeze=False, height_ratios=heights)[:, 0]
    for index, (axes, (key, of_claim)) in enumerate(zip(grid, panels, strict=True)):
        _forest(axes, of_claim, names[key])
        layout.letter(axes, index, _title(str(key)))
        axes.set_xlabel("estimate, 95 % CI")
    present = set(claims["status"])
    layout.outside_legend(figure, {status: look.key(ls="none") for status, look in LOOKS.items() if status in present})
    return layout.finish(figure)


def _title(key: str) -> str:
    return f"{key}: {CLAIMS[key].statement}" if key in CLAIMS else key


def _wrapped(case: str) -> str:
    """Return the name of a case in lines that leave room for the panel."""
    return textwrap.fill(case, max(12, int(SHARE * page().wide / (0.055 * page().small / 7))), break_on_hyphens=False)


def _forest(axes: Axes, claims: pd.DataFrame, names: list[str]) -> None:
    """Draw the cases from the top, each with as much room as its name has lines."""
    depth, places = 0.0, []
    for name in names:
        size = name.count("\n") + 1.4
        places.append(depth + size / 2)
        depth += size
    numbers = [n for n in claims[["value", "low", "high"]].to_numpy(float).ravel() if math.isfinite(n)]
    low, high = min(numbers, default=-1.0), max(numbers, default=1.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set(xlim=(low - margin, high + margin), ylim=(depth + 0.5, -0.5))
    if low - margin < 0 < high + margin:
        axes.axvline(0.0, color=style.GREY, linewidth=0.6, zorder=0)
    for place, (status, value, low, high) in zip(places, claims[["status", "value", "low", "high"]].to_numpy(), strict=True):
        look = LOOKS[status]
        style.bar_along(axes, place, low, high, look.colour, least=-math.inf)
        at_edge = not math.isfinite(value)
        x, transform = (0.02, axes.get_yaxis_transform()) if at_edge else (value, axes.transData)
        axes.plot(x, place, **look.line(linestyle="none", markersize=4.5), transform=transform, clip_on=False, zorder=3)
        axes.text(1.02, place, status, transform=axes.get_yaxis_transform(), va="center", fontsize=page().small)
    axes.set_yticks(places, names, linespacing=page().spacing)
    axes.tick_params(axis="y", length=0)
