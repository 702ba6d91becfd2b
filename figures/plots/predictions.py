"""Every predictor of k* against the measured k*: T3, the path's m0, m1 and gm, Gordon's bound, and the formula of Larsen et al."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.store import QUANTITIES, quantities
from figures import style
from figures.interval import threshold
from figures.rows import CannotDraw, in_setting, models, of_model, settings, tidy

HEIGHT = 3.1  # inches
MARGIN = 1.4
APART = 1.03  # factor between predictors of one threshold on the x axis, so that their bars do not overlap
# Quantity -> marker, fill style.
PREDICTORS = {
    quantities.K_PRED: ("o", "full"),
    quantities.K_GM: ("s", "full"),
    quantities.K_M0: ("v", "none"),
    quantities.K_M1: ("^", "none"),
    quantities.K_GORDON: ("D", "none"),
    quantities.K_LARSEN: ("X", "none"),
}


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: predicted against measured k* on log scales, with the line of equality and the band of a factor of 2.

    Each model has a colour. Censored thresholds are left out. Bars are the recorded intervals or standard errors. Raises CannotDraw if no
    model has a measured and a predicted number.
    """
    rows = tidy(rows)
    points = _points(rows)
    if not points:
        raise CannotDraw("no measured k* that also has a prediction on the Moreau path in the rows")
    colours = style.model_colours(models(rows))
    figure = style.new_figure(style.TEXT_WIDTH * 0.62, HEIGHT)
    axes = figure.subplots()
    band(axes, [number for _, _, measured, value, *ends in points for number in (measured, value, *ends)])
    for model, name, measured, value, low, high in points:
        marker, fill = PREDICTORS[name]
        bar = [[value - low], [high - value]] if math.isfinite(high - low) else None
        at = measured * APART ** (list(PREDICTORS).index(name) - len(PREDICTORS) / 2)
        axes.errorbar(at, value, yerr=bar, color=colours[model], marker=marker, fillstyle=fill, elinewidth=0.6, ls="none")
    axes.set(xlabel="measured k*", ylabel="predicted k", aspect="equal")
    style.outside_legend(figure, _legend({p[0] for p in points}, {p[1] for p in points}, colours))
    return style.finish(figure)


def band(axes: Axes, numbers: list[float]) -> None:
    """Draw equal log axes that contain the numbers, the line of equality, and the band of a factor of 2 around it."""
    known = [number for number in numbers if math.isfinite(number) and number > 0]
    limits = min(known) / MARGIN, max(known) * MARGIN
    style.log_counts(axes.xaxis, *limits)
    style.log_counts(axes.yaxis, *limits)
    line = np.array(limits)
    axes.fill_between(line, line / 2, line * 2, color=style.GREY, alpha=0.18, linewidth=0)
    axes.plot(line, line, color=style.GREY, linewidth=0.8)


def _points(rows: pd.DataFrame) -> list[tuple[str, str, float, float, float, float]]:
    """Return (model, predictor, measured k*, predicted k, its two ends) wherever both k are known and the path was followed."""
    points = []
    for setting in settings(rows):
        for model in models(rows):
            selected = in_setting(of_model(rows, model), setting)
            measured, followed = threshold(selected, quantities.K_STAR), threshold(selected, quantities.K_GM)
            if measured is None or measured.censored or followed is None:
                continue
            for name in PREDICTORS:
                predicted = threshold(selected, name)
                if predicted is not None and not predicted.censored:
                    points.append((model, name, measured.value, predicted.value, predicted.low, predicted.high))
    return points


def _legend(drawn: set[str], names: set[str], colours: dict[str, style.Colour]) -> dict[str, style.Key]:
    keys: dict[str, style.Key] = {
        style.short_name(model): Line2D([], [], marker="o", ls="none", color=colour) for model, colour in colours.items() if model in drawn
    }
    for name, (marker, fill) in PREDICTORS.items():
        if name in names:
            label = QUANTITIES[name].label
            keys[label] = Line2D([], [], marker=marker, ls="none", color=style.INK, fillstyle=fill)  # pyright: ignore[reportArgumentType]
    return keys | {"within a factor of 2": Patch(color=style.GREY, alpha=0.18, linewidth=0)}
