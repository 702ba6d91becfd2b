"""Every predictor of k* against the measured k*, one panel each: T3, the path's m0, m1 and gm, Gordon's bound, and Larsen's formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.store import QUANTITIES, quantities
from figures import layout, style
from figures.interval import Interval, threshold
from figures.rows import CannotDraw, in_setting, models, of, of_model, settings, tidy

HEIGHT = 2.1  # inches per line of panels
MARGIN = 1.4
PREDICTORS = (quantities.K_PRED, quantities.K_GM, quantities.K_M0, quantities.K_M1, quantities.K_GORDON, quantities.K_LARSEN)
BAND, CENSORED = "equality, within a factor of 2", "censored on this side"


@dataclass(frozen=True)
class Point:
    """The measured threshold of a model and one prediction of it. At most one of the two is censored."""

    model: str
    measured: Interval
    predicted: Interval

    @property
    def numbers(self) -> list[float]:
        """All numbers that the axes must hold. Ends of the measured interval far from its value are drawn as arrows at the edge."""
        near = [end for end in self.measured.ends if 0.25 <= end / self.measured.value <= 4]
        return [self.measured.value, *near, self.predicted.value, *self.predicted.ends]


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, quantities.K_STAR, *PREDICTORS)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: predicted against measured k* on log scales, with the line of equality and the band of a factor of 2.

    Each model has a colour and a marker. Bars are the recorded intervals, and an arrow at an edge is a censored threshold. Raises
    CannotDraw if no model has a measured and a predicted number.
    """
    rows = tidy(rows)
    points = {name: found for name in PREDICTORS if (found := _points(rows, name))}
    if not any(not point.measured.censored and not point.predicted.censored for found in points.values() for point in found):
        raise CannotDraw("no measured k* that also has a prediction in the rows")
    looks = style.model_looks(models(rows))
    figure, cells = layout.small_multiples(len(points), HEIGHT, most=3)
    for index, (axes, (name, found)) in enumerate(zip(cells, points.items(), strict=True)):
        band(axes, [number for every in points.values() for point in every for number in point.numbers])
        for point in found:
            _point(axes, point, looks[point.model])
        layout.letter(axes, index, QUANTITIES[name].label)
        axes.set(xlabel="measured k*", ylabel="predicted k" if layout.is_first(axes) else "", aspect="equal")
    layout.outside_legend(figure, _legend([point for found in points.values() for point in found], looks))
    return layout.finish(figure)


def band(axes: Axes, numbers: list[float]) -> None:
    """Draw equal log axes that contain the numbers, the line of equality, and the band of a factor of 2 around it."""
    known = [number for number in numbers if math.isfinite(number) and number > 0]
    limits = min(known) / MARGIN, max(known) * MARGIN
    style.log_counts(axes.xaxis, *limits, most=4)
    style.log_counts(axes.yaxis, *limits, most=4)
    line = np.array(limits)
    axes.fill_between(line, line / 2, line * 2, color=style.GREY, alpha=0.18, linewidth=0)
    axes.plot(line, line, color=style.GREY, linewidth=0.8)


def band_key() -> dict[str, layout.Key]:
    """Return the legend's key of `band`."""
    return {BAND: (Patch(color=style.GREY, alpha=0.18, linewidth=0), Line2D([], [], color=style.GREY, linewidth=0.8))}


def _points(rows: pd.DataFrame, name: str) -> list[Point]:
    """Return the points of a predictor. A pair without any value has no position."""
    points = []
    for setting in settings(rows):
        for model in models(rows):
            selected = in_setting(of_model(rows, model), setting)
            measured, predicted = threshold(selected, quantities.K_STAR), threshold(selected, name)
            if measured and predicted and not (measured.censored and predicted.censored):
                points.append(Point(model, measured, predicted))
    return points


def _point(axes: Axes, point: Point, look: style.Look) -> None:
    """Draw a point with both bars. A censored threshold is an arrow at its edge, since only a bound is known."""
    measured, predicted = point.measured, point.predicted
    if not measured.censored and not predicted.censored:
        axes.errorbar(measured.value, predicted.value, yerr=_bar(predicted), **look.line(linestyle="none"), elinewidth=0.7, markersize=3.5)
        style.bar_along(axes, predicted.value, *measured.ends, look.colour)
        return
    if measured.censored:
        style.edge_arrow(axes, predicted.value, measured.censored, "x", look.colour)
    else:
        style.edge_arrow(axes, measured.value, predicted.censored, "y", look.colour)


def _bar(interval: Interval) -> np.ndarray | None:
    """Return the distances from the value to its ends in the form that errorbar takes; None if an end is unknown."""
    below, above = interval.value - interval.low, interval.high - interval.value
    return np.array([[max(below, 0.0)], [max(above, 0.0)]]) if math.isfinite(below + above) else None


def _legend(points: list[Point], looks: dict[str, style.Look]) -> dict[str, layout.Key]:
    drawn = {point.model for point in points}
    keys: dict[str, layout.Key] = {style.short_name(name): look.key(ls="none") for name, look in looks.items() if name in drawn}
    if any(point.measured.censored or point.predicted.censored for point in points):
        keys[CENSORED] = style.arrow_key("y")
    return keys | band_key()
