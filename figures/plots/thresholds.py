"""Measured and predicted thresholds over the number of model parameters, and as a share of it: a stack of panels per task and family."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.findings import EVERY_TASK, SHARE, family
from analyses.store import QUANTITIES, quantities, statuses
from figures import layout, style
from figures.interval import PREDICTED, Interval, Pair, pairs
from figures.rows import CannotDraw, Panel, Setting, of, panel_title, tidy, where

HEIGHT, LOWER = 1.7, 1.35  # inches: k, and k / N
MARGIN = 1.6  # factor from the data to the limits of the axes, which keeps arrows at the edge apart from points
APART = 1.05  # factor between series on the x axis, so that their bars do not overlap
PREDICTION = "predicted"
# Threshold -> marker, colour, dashes. The line of a slope has the dashes of its threshold.
LOOKS = {
    quantities.K_STAR: ("o", style.SERIES[0], "-"),
    PREDICTION: ("s", style.SERIES[1], "--"),
    quantities.K_HIGH: ("^", style.SERIES[2], "-."),
    quantities.K_LOW: ("v", style.SERIES[3], ":"),
    quantities.K_PART: ("D", style.SERIES[4], style.DASHES[4]),
    quantities.K_LOSS: ("P", style.SERIES[5], style.DASHES[5]),
    quantities.K_METRIC: ("X", style.SERIES[6], style.DASHES[6]),
}
FILLS = ("full", "none", "left", "bottom", "right", "top")  # of the targets of one kind of threshold
Series = tuple[str, str]  # threshold and target
SLOPE = "fitted slope, 95 % CI"
SIZES = {quantities.SLOPE: "N", quantities.BODY_SLOPE: "N without embeddings"}  # quantity of a slope -> label of its axis


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    slopes = of(rows, *SIZES)
    drawn = [*quantities.MEASURED, *(name + SHARE for name in quantities.MEASURED)]
    return pd.concat(
        [of(rows, *quantities.MEASURED, *PREDICTED, "without_embeddings"), where(slopes, slopes["series"].isin(drawn))]
    ).sort_index()


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: k over N, k / N over N, and k / N again with N without embeddings if the rows state this N for every model.

    Bars are 95 % intervals, arrows at an edge are censored thresholds, and lines are fitted slopes if the rows hold them. Raises CannotDraw
    if the rows hold no threshold with a value.
    """
    rows = tidy(rows)
    found = pairs(rows)
    if not any(i and not i.censored for pair in found for i in (pair.measured, pair.predicted)):
        raise CannotDraw("every threshold in the rows is censored" if found else "no threshold in the rows")
    panels, sizes = _panels(found), _sizes(rows, found)
    looks = _looks(panels)
    figure, grid = layout.stacks(len(panels), [HEIGHT, LOWER, LOWER][: 1 + len(sizes)], width=1.6)
    for index, ((panel, series), stack) in enumerate(zip(panels.items(), grid, strict=True)):
        for axes, (count, share) in zip(stack, [(quantities.SLOPE, False), *((name, True) for name in sizes)], strict=True):
            _panel(axes, series, looks, sizes[count], share)
            _slope_lines(axes, _slopes(rows, panel, count, share), series, looks, sizes[count], share)
            axes.set_xlabel(SIZES[count])
            if layout.is_first(axes):
                axes.set_ylabel("k / N" if share else "tuned parameters k")
        if title := panel_title(panel, list(panels)):
            layout.letter(stack[0], index, title)
    layout.outside_legend(figure, _legend(figure, panels, looks))
    return layout.finish(figure)


def _panels(found: list[Pair]) -> dict[Panel, dict[Series, list[tuple[Pair, Interval]]]]:
    """Return the thresholds of each panel, by kind and target, from the smallest model to the largest."""
    panels: dict[Panel, dict[Series, list[tuple[Pair, Interval]]]] = {}
    for pair in sorted(found, key=lambda pair: (pair.setting.label, family(pair.model), pair.parameters)):
        series = panels.setdefault((pair.setting, family(pair.model)), {})
        for name, interval in ((pair.quantity, pair.measured), (PREDICTION, pair.predicted)):
            if interval is not None:
                series.setdefault((name, pair.named), []).append((pair, interval))
    return panels


def _sizes(rows: pd.DataFrame, found: list[Pair]) -> dict[str, dict[str, int]]:
    """Return what N counts -> model -> N. N without embeddings is left out unless the rows state it for every model."""
    everything = {pair.model: pair.parameters for pair in found}
    stated = of(rows, "without_embeddings")
    blocks = {str(name): int(value) for name, value in zip(stated["model"], stated["value"], strict=True)}
    return {quantities.SLOPE: everything} | ({quantities.BODY_SLOPE: blocks} if set(everything) <= set(blocks) else {})


def _looks(panels: dict[Panel, dict[Series, list[tuple[Pair, Interval]]]]) -> dict[Series, style.Look]:
    """Return the look of each kind of threshold and target. Targets of one kind differ in the fill of the marker."""
    every = sorted({key for series in panels.values() for key in series}, key=lambda key: (list(LOOKS).index(key[0]), key[1]))
    looks = {}
    for name, target in every:
        marker, colour, dashes = LOOKS[name]
        fill = FILLS[[other for kind, other in every if kind == name].index(target) % len(FILLS)]
        looks[name, target] = style.Look(colour, marker, dashes, fill)
    return looks


def _panel(
    axes: Axes, series: dict[Series, list[tuple[Pair, Interval]]], looks: dict[Series, style.Look], sizes: dict[str, int], share: bool
) -> None:  # fmt: skip
    """Draw each series over N. The series are shifted slightly apart, so that their bars do not overlap."""
    members = [member for points in series.values() for member in points]
    numbers = [n / (sizes[pair.model] if share else 1) for pair, i in members for n in (i.value, *i.ends) if math.isfinite(n) and n > 0]
    drawn = [sizes[pair.model] for pair, _ in members]
    style.log_counts(axes.xaxis, min(drawn) / MARGIN, max(drawn) * MARGIN, most=4)
    label = style.power_label if share else style.count_label
    style.log_counts(axes.yaxis, min(numbers) / MARGIN, max(numbers) * MARGIN, label=label)
    for place, key in enumerate(key for key in looks if key in series):
        aside = APART ** (place - (len(series) - 1) / 2)
        _series(axes, [(sizes[pair.model] * aside, i, sizes[pair.model] if share else 1) for pair, i in series[key]], looks[key])


def _series(axes: Axes, points: list[tuple[float, Interval, int]], look: style.Look) -> None:
    """Draw (x, threshold, unit of the threshold) as points with bars, joined by a line that a censored threshold interrupts."""
    values = [math.nan if interval.censored else interval.value / unit for _, interval, unit in points]
    axes.plot([x for x, _, _ in points], values, **look.line(linewidth=0.7, marker="none"))
    for (x, interval, unit), value in zip(points, values, strict=True):
        if interval.censored:
            style.edge_arrow(axes, x, interval.censored, "y", look.colour)
        else:
            low, high = ((value - interval.low / unit), (interval.high / unit - value))
            bar = np.array([[max(low, 0.0)], [max(high, 0.0)]]) if math.isfinite(low + high) else None
            axes.errorbar(x, value, yerr=bar, **look.line(linestyle="none"), elinewidth=0.8, capsize=1.5, markersize=3.5)


def _slopes(rows: pd.DataFrame, panel: Panel, count: str, share: bool) -> pd.DataFrame:
    """Return the slopes of a panel's family: of its task, or else of all tasks together."""
    setting, name = panel
    slopes = of(rows, count)
    slopes = where(slopes, (slopes["model"] == name) & (slopes["series"].str.endswith(SHARE) == share))
    of_task = where(slopes, slopes["task"] == setting.task)
    return where(slopes, slopes["task"] == EVERY_TASK) if of_task.empty else of_task


def _slope_of(slopes: pd.DataFrame, target: str, setting: Setting) -> pd.DataFrame:
    """Return the slopes of the target and, if that leaves several, of the subspace."""
    if target:
        slopes = where(slopes, slopes["group"] == target)
    return slopes if len(slopes) == 1 else where(slopes, slopes["subspace"] == (setting.subspace or "coordinates"))


def _slope_lines(
    axes: Axes, slopes: pd.DataFrame, series: dict[Series, list[tuple[Pair, Interval]]], looks: dict[Series, style.Look],
    sizes: dict[str, int], share: bool,
) -> None:  # fmt: skip
    """Draw each slope with its interval as a line and a fan through the geometric mean of the points, which the rows do not state."""
    for key, members in series.items():
        name, target = key
        of_series = where(slopes, slopes["series"] == name + SHARE * share)
        fitted = _slope_of(of_series, target, members[0][0].setting)
        known = [(sizes[pair.model], i.value / (sizes[pair.model] if share else 1)) for pair, i in members if not i.censored]
        if len(fitted) != 1 or len(known) < 2:
            continue
        x = np.geomspace(min(size for size, _ in known), max(size for size, _ in known), 30)
        middle_x, middle_y = np.exp(np.log(np.array(known)).mean(axis=0))
        line, low, high = (middle_y * (x / middle_x) ** float(fitted[end].iloc[0]) for end in ("value", "low", "high"))
        colour = looks[key].colour
        axes.plot(x, line, color=colour, linewidth=1.6, alpha=0.5, solid_capstyle="butt", label=SLOPE, zorder=1)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=0)


def _legend(figure: Figure, panels: dict[Panel, dict[Series, list[tuple[Pair, Interval]]]], looks: dict[Series, style.Look]) -> dict:
    keys: dict[str, layout.Key] = {_label(*key): look.key() for key, look in looks.items()}
    if any(i.censored in statuses.CENSORED for series in panels.values() for points in series.values() for _, i in points):
        keys["censored on this side"] = style.arrow_key("y")
    if SLOPE in layout.used_labels(figure):
        keys[SLOPE] = (Patch(color=style.INK, alpha=0.12, lw=0), Line2D([], [], color=style.INK, alpha=0.5, lw=1.6))
    return keys


def _label(name: str, target: str) -> str:
    label = {PREDICTION: "predicted k*", quantities.K_STAR: "measured k*"}.get(name) or QUANTITIES[name].label
    return f"{label}, {target}" if target else label
