"""The measurement of each threshold: the gap of every run to the target against k, the fitted line and its zero."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.store import quantities, statuses
from figures import layout, style
from figures.rows import CannotDraw, models, of, pick, tidy, where

HEIGHT = 2.1  # inches per line of panels
# Quantity of a threshold -> definition of the gap.
LOSS, METRIC = "log target loss − log loss", "logit metric − logit target"
THRESHOLDS = {name: LOSS if name in quantities.ON_LOSS else METRIC for name in quantities.MEASURED}
# Status of a gap -> label, marker, whether the marker is filled.
STATES = {statuses.USED: ("run used in the fit", "o", True), statuses.FAR: ("run far from the crossing", "o", False),
          statuses.FAILED_TRAINING: ("failed training, set aside", "x", True)}  # fmt: skip
ROOM = 1.6  # limit of the axis relative to the largest gap in the fit; larger gaps are drawn at the edge
EDGE = 0.94
LINE, ZERO, CENSORED, BEYOND = "robust line", "k*, 95 % CI", "censored on this side", "gap beyond the axis"


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, "gap", "slope", *THRESHOLDS)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per threshold, by kind of threshold, task and model size.

    The line covers the runs it was fitted to. The interval is shaded up to the edge of the panel if its end is unknown. Raises CannotDraw
    if the rows hold no gaps.
    """
    rows = tidy(rows)
    thresholds = _thresholds(rows)
    if not thresholds:
        raise CannotDraw("no gap of a run to a target in the rows")
    colours = style.model_colours(models(rows))
    figure, cells = layout.small_multiples(len(thresholds), HEIGHT, wide_from=2)
    several = len({str(measured["task"].iloc[0]) for _, measured in thresholds}) > 1
    for index, (axes, (quantity, measured)) in enumerate(zip(cells, thresholds, strict=True)):
        _panel(axes, measured, quantity, colours[str(measured["model"].iloc[0])])
        name, task = style.short_name(str(measured["model"].iloc[0])), str(measured["task"].iloc[0])
        axes.set_title(f"{name}\n{task}" if several else name)
        axes.set_xlabel("tuned parameters k")
        if layout.is_first(axes) or THRESHOLDS[quantity] != THRESHOLDS[thresholds[index - 1][0]]:
            axes.set_ylabel(THRESHOLDS[quantity])
    layout.outside_legend(figure, _legend(rows, thresholds))
    return layout.finish(figure)


def _thresholds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (quantity, its rows) of every threshold that has gaps. The rows of one target share a run id."""
    thresholds = []
    for run_id in dict.fromkeys(pick(rows, "gap")["run_id"]):
        of_run = where(rows, rows["run_id"] == run_id)
        thresholds += [(quantity, of_run) for quantity in THRESHOLDS if not pick(of_run, quantity).empty]
    order = list(THRESHOLDS)
    return sorted(thresholds, key=lambda pair: (order.index(pair[0]), str(pair[1]["task"].iloc[0]), int(pair[1]["parameters"].iloc[0])))


def _panel(axes: Axes, rows: pd.DataFrame, quantity: str, colour: style.Colour) -> None:
    gaps, threshold = pick(rows, "gap"), pick(rows, quantity).iloc[0]
    tried = gaps["x"].to_numpy(float)
    low, high = tried.min() / 1.4, tried.max() * 1.4
    style.log_counts(axes.xaxis, low, high, most=4)
    axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":", zorder=1)
    top = _top(gaps)
    axes.set_ylim(-top, top)
    for state, (_, marker, filled) in STATES.items():
        part = where(gaps, gaps["status"] == state)
        x, y = part["x"].to_numpy(float), part["value"].to_numpy(float)
        at_edge = dict.fromkeys(("^", "v"), marker) if marker == "x" else {"^": "^", "v": "v"}
        for chosen, shape in ((np.abs(y) < top, marker), (y >= top, at_edge["^"]), (y <= -top, at_edge["v"])):
            if chosen.any():
                axes.plot(
                    x[chosen], np.clip(y[chosen], -EDGE * top, EDGE * top), shape, color=colour, mfc=colour if filled else "white",
                    ms=3.2, mew=0.8, linestyle="none", zorder=3,
                )  # fmt: skip
    k_star, *ends = (float(threshold[name]) for name in ("value", "low", "high"))
    if not math.isfinite(k_star):
        if threshold["status"] in statuses.CENSORED:
            x, arrow = (0.97, ">") if threshold["status"] == statuses.ABOVE else (0.03, "<")
            axes.plot([x], [0], arrow, color=style.MEASURED, mfc="white", transform=axes.get_yaxis_transform(), zorder=4)
        return
    axes.axvline(k_star, color=style.MEASURED, linewidth=0.9, zorder=2)
    ends_shown = [end if math.isfinite(end) else edge for end, edge in zip(ends, (low, high), strict=True)]
    axes.axvspan(max(ends_shown[0], low), min(ends_shown[1], high), color=style.MEASURED, alpha=0.12, linewidth=0, zorder=0)
    slope = _slope(rows)
    used = where(gaps, gaps["status"] == statuses.USED)["x"].to_numpy(float)
    if len(slope) and len(used):
        reach = np.array([used.min(), used.max()])
        axes.plot(reach, float(slope["value"].iloc[0]) * np.log(reach / k_star), color=style.MEASURED, linewidth=1.0, zorder=2)


def _slope(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the line's slope; empty if k* follows only from which runs reached the target."""
    slope = pick(rows, "slope")
    return where(slope, slope["series"] == "line")


def _top(gaps: pd.DataFrame) -> float:
    """Return the largest gap on the axis. Only runs in the fit determine it, so that one distant run does not flatten them."""
    used = gaps["value"].to_numpy(float)[(gaps["status"] == statuses.USED).to_numpy()]
    widest = float(np.abs(used if len(used) else gaps["value"].to_numpy(float)).max())
    return ROOM * widest if widest > 0 else 1.0


def _legend(rows: pd.DataFrame, thresholds: list[tuple[str, pd.DataFrame]]) -> dict[str, layout.Key]:
    present = set(pick(rows, "gap")["status"])
    keys: dict[str, layout.Key] = {
        label: Line2D([], [], marker=marker, linestyle="none", ms=3.2, color=style.INK, mfc=style.INK if filled else "white")
        for state, (label, marker, filled) in STATES.items() if state in present
    }  # fmt: skip
    answers = [pick(of_one, quantity).iloc[0] for quantity, of_one in thresholds]
    if any(math.isfinite(float(answer["value"])) for answer in answers):
        keys[ZERO] = (Patch(color=style.MEASURED, alpha=0.12, linewidth=0), Line2D([], [], color=style.MEASURED, linewidth=0.9))
    if any(len(_slope(of_one)) for _, of_one in thresholds):
        keys[LINE] = Line2D([], [], color=style.MEASURED, linewidth=1.0)
    if any(answer["status"] in statuses.CENSORED for answer in answers):
        keys[CENSORED] = Line2D([], [], marker=">", ls="none", color=style.MEASURED, mfc="white")
    if any(
        (gaps["status"].eq(statuses.FAR) & (gaps["value"].abs() >= _top(gaps))).any()
        for gaps in (pick(of_one, "gap") for _, of_one in thresholds)
    ):
        keys[BEYOND] = Line2D([], [], marker="^", ls="none", ms=3.2, color=style.INK, mfc="white")
    return keys
