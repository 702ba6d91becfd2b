"""Predicted against measured k*, and both against the size of the model."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.findings import family
from analyses.store import statuses
from figures import style
from figures.interval import Interval, Pair, pairs
from figures.rows import CannotDraw, models, tidy

HEIGHT = 3.3  # inches
SETTING_MARKERS = "oDs^vPX*"
Colours = dict[str, style.Colour]  # by model
Markers = dict[str, str]  # by setting
SERIES = {"measured": ("measured k*", style.MEASURED, "-"), "predicted": ("predicted k", style.PREDICTED, "--")}
MARGIN = 1.6  # factor from the data to the limits of the axes, which keeps arrows at the edge apart from points
ARROWS = {("x", statuses.ABOVE): ">", ("x", statuses.BELOW): "<", ("y", statuses.ABOVE): "^", ("y", statuses.BELOW): "v"}
INSIDE = {statuses.ABOVE: 0.97, statuses.BELOW: 0.03}  # position of an arrow, as a fraction of the axis


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: predicted against measured k* (if any model has both), and both against the number of parameters.

    Bars are the recorded intervals. Arrows at an edge are censored thresholds. Raises CannotDraw if the rows hold no threshold with a
    value.
    """
    rows = tidy(rows)
    thresholds = pairs(rows)
    if not any(i and not i.censored for pair in thresholds for i in (pair.measured, pair.predicted)):
        raise CannotDraw("every threshold in the rows is censored" if thresholds else "no threshold in the rows")
    # A pair without any value has no position in (a). In (b) it is shown by two arrows.
    both = [p for p in thresholds if p.measured and p.predicted and not (p.measured.censored and p.predicted.censored)]
    colours = style.model_colours(models(rows))
    markers = dict(zip(sorted({pair.question for pair in thresholds}), SETTING_MARKERS * 9, strict=False))
    figure = style.new_figure(style.TEXT_WIDTH if both else style.COLUMN_WIDTH, HEIGHT)
    axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    if both:
        _predicted_against_measured(axes[0], both, colours, markers)
    _against_size(axes[-1], thresholds, colours, markers)
    style.outside_legend(figure, _legend(thresholds, both, colours, markers))
    if both:
        style.letter(axes[0], 0, "predicted against measured")
        style.letter(axes[1], 1, "against model size")
    return style.finish(figure)


def _numbers(thresholds: list[Pair]) -> list[float]:
    """Return all positive finite values and ends, which set the limits. Bounds count, so that arrows lie beyond them."""
    intervals = [i for pair in thresholds for i in (pair.measured, pair.predicted) if i]
    return [n for i in intervals for n in (i.value, *i.ends) if math.isfinite(n) and n > 0]


def _limits(thresholds: list[Pair]) -> tuple[float, float]:
    numbers = _numbers(thresholds)
    return min(numbers) / MARGIN, max(numbers) * MARGIN


def _bar(interval: Interval) -> np.ndarray | None:
    """Return the distances from the value to its ends in the form that errorbar takes; None if an end is unknown."""
    below, above = interval.value - interval.low, interval.high - interval.value
    return np.array([[max(below, 0.0)], [max(above, 0.0)]]) if math.isfinite(below + above) else None


def _predicted_against_measured(axes: Axes, both: list[Pair], colours: Colours, markers: Markers) -> None:
    limits = _limits(both)
    style.log_counts(axes.xaxis, *limits)
    style.log_counts(axes.yaxis, *limits)
    line = np.array(limits)
    axes.fill_between(line, line / 2, line * 2, color=style.GREY, alpha=0.18, linewidth=0)
    axes.plot(line, line, color=style.GREY, linewidth=0.8)
    for pair in both:
        _point(axes, pair, colours[pair.model], markers[pair.question])
    axes.set(xlabel="measured k*", ylabel="predicted k", aspect="equal")


def _point(axes: Axes, pair: Pair, colour: style.Colour, marker: str) -> None:
    """Draw a point with both bars. A censored threshold is an open arrow at its edge, since only a bound is known."""
    measured, predicted = pair.measured, pair.predicted
    assert measured is not None
    assert predicted is not None
    if not measured.censored and not predicted.censored:
        axes.errorbar(
            measured.value, predicted.value, xerr=_bar(measured), yerr=_bar(predicted), color=colour, marker=marker,
            elinewidth=0.8, capsize=1.5,
        )  # fmt: skip
        return
    x, at_x = _edge(measured)
    y, _ = _edge(predicted)
    if x is None or y is None:
        return
    arrow = ARROWS["x" if at_x else "y", measured.censored or predicted.censored]
    transform = axes.get_yaxis_transform() if at_x else axes.get_xaxis_transform()
    axes.plot(x, y, arrow, color=colour, mfc="white", transform=transform, zorder=4)


def _edge(interval: Interval) -> tuple[float | None, bool]:
    """Return a position: (value, False) in data units, (fraction, True) of the axis if censored, (None, True) if unknown."""
    return (INSIDE.get(interval.censored), True) if interval.censored else (interval.value, False)


def _against_size(axes: Axes, thresholds: list[Pair], colours: Colours, markers: Markers) -> None:
    sizes = [pair.parameters for pair in thresholds]
    style.log_counts(axes.xaxis, min(sizes) / MARGIN, max(sizes) * MARGIN)
    style.log_counts(axes.yaxis, *_limits(thresholds))
    for series, (_, colour, dashes) in SERIES.items():
        for setting, marker in markers.items():
            in_setting = [pair for pair in thresholds if pair.question == setting]
            for name in dict.fromkeys(family(pair.model) for pair in in_setting):  # sizes of different families are not joined
                _sizes(axes, [pair for pair in in_setting if family(pair.model) == name], series, colour, dashes, marker)
    axes.set(xlabel="parameters of the model", ylabel="tuned parameters k")


def _sizes(axes: Axes, thresholds: list[Pair], series: str, colour: str, dashes: str, marker: str) -> None:
    """Draw one series over models. Measured and predicted points are shifted slightly apart, so that their bars do not overlap."""
    aside, filled = (0.96, colour) if series == "measured" else (1.04, "white")
    points: list[tuple[float, Interval | None]] = [(p.parameters * aside, getattr(p, series)) for p in thresholds]
    # A censored model breaks the line, since a line between its neighbours would suggest a value.
    values = [math.nan if i is None or i.censored else i.value for _, i in points]
    axes.plot([x for x, _ in points], values, linestyle=dashes, color=colour, linewidth=0.8)
    for x, interval in points:
        if interval is not None and interval.censored in INSIDE:
            arrow, height = ARROWS["y", interval.censored], INSIDE[interval.censored]
            axes.plot(x, height, arrow, color=colour, mfc="white", transform=axes.get_xaxis_transform(), zorder=4)
        elif interval is not None and not interval.censored:
            axes.errorbar(
                x, interval.value, yerr=_bar(interval), color=colour, marker=marker, mfc=filled, elinewidth=0.8,
                capsize=1.5,
            )  # fmt: skip


def _legend(thresholds: list[Pair], both: list[Pair], colours: Colours, markers: Markers) -> dict[str, style.Key]:
    """Return the legend's keys: colours are models (left), line and fill the series (right), markers the settings if several."""
    keys: dict[str, style.Key] = {}
    for model in dict.fromkeys(pair.model for pair in both):
        keys[style.short_name(model)] = Line2D([], [], marker="o", linestyle="none", color=colours[model])
    for series, (label, colour, dashes) in SERIES.items():
        filled = colour if series == "measured" else "white"
        if any(getattr(pair, series) for pair in thresholds):
            keys[label] = Line2D([], [], marker="o", color=colour, mfc=filled, ls=dashes, lw=0.8)
    if both:
        keys["equality, within a factor of 2"] = (
            Patch(color=style.GREY, alpha=0.18, linewidth=0),
            Line2D([], [], color=style.GREY, linewidth=0.8),
        )
    if any(i and i.censored in INSIDE for pair in thresholds for i in (pair.measured, pair.predicted)):
        keys["censored on this side"] = Line2D([], [], marker=">", ls="none", color=style.INK, mfc="white")
    for setting, marker in markers.items() if len(markers) > 1 else ():
        keys[setting] = Line2D([], [], marker=marker, linestyle="none", color=style.INK)
    return keys
