"""Performance against the number of tuned parameters: the main metric above, training loss below, one stack of panels per model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.store import QUANTITIES, quantities, statuses
from figures import layout, style
from figures.interval import PREDICTED, Interval, prediction, threshold, thresholds
from figures.rows import (
    CannotDraw,
    Setting,
    chance,
    in_setting,
    means,
    metric_label,
    models,
    of,
    of_model,
    pick,
    run_rows,
    runs,
    settings,
    tidy,
    where,
)
from figures.words import method_name

HEIGHTS = ("score", "train_loss")  # columns of runs, from the top
PANEL_HEIGHT = 1.55  # inches
# Drawn elements in the order of the legend. Each of the two thresholds is a line with a band.
RUN = "single APET run"
FULL = "full fine-tuning (mean ± s.e.)"
FULL_DASHES = style.DASHES[5]
CHANCE = "chance"
TARGET = "target loss"
THEORY = "predicted loss (T1)"
CENSORED = "censored on this side"
# Threshold -> label, colour, dashes, and height of the arrow if censored.
PREDICTION = "prediction"
THRESHOLDS = {
    quantities.K_STAR: ("measured k*, 95 % CI", style.MEASURED, "-", 0.9),
    PREDICTION: ("predicted k, 95 % CI", style.PREDICTED, "--", 0.8),
    quantities.K_HIGH: (f"{QUANTITIES[quantities.K_HIGH].label} (full fine-tuning)", "#0072b2", "-.", 0.7),
    quantities.K_LOW: (f"{QUANTITIES[quantities.K_LOW].label} (chance)", "#009e73", ":", 0.6),
}
OF_SCORE = (quantities.K_HIGH, quantities.K_LOW)  # drawn in the panels of the main metric only


@dataclass(frozen=True)
class Panel:
    """The contents of one panel: rows of one model and setting, and a column of its runs."""

    model: str
    setting: Setting
    column: str
    rows: pd.DataFrame
    runs: pd.DataFrame


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    of_thresholds = of(rows, quantities.K_STAR, *OF_SCORE, *PREDICTED, "predicted_loss", "target_loss")
    parts = pd.concat([run_rows(rows, "score", "train_loss", "chance"), of_thresholds]).sort_index()
    return where(parts, parts["model"].isin(_with_apet(parts)))


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: the main metric and the training loss against k (log scale), one stack of panels per model, by size.

    The stack of a model holds all settings. Points are runs, bars the standard error over runs. Raises CannotDraw if `rows` hold no APET
    run.
    """
    rows = tidy(rows)
    names = _with_apet(rows)
    if not names:
        raise CannotDraw("no APET run with a validation score or a training loss in the rows")
    lines = [(setting, column) for setting in settings(rows) for column in HEIGHTS]
    panels = [{p.model: p for p in _panels(rows, names, *line)} for line in lines]
    panels = [line for line in panels if line]
    figure, grid = layout.stacks(len(names), [PANEL_HEIGHT] * len(panels), sharex=True)
    colours = style.model_colours(models(rows))
    for line, row in zip(panels, grid.T, strict=True):
        for name, axes in zip(names, row, strict=True):
            if name in line:
                _fill(axes, line[name], colours[name])
        _share_y([axes for name, axes in zip(names, row, strict=True) if name in line])
    _label(grid, panels, names, models(rows), one_task=len(settings(rows)) == 1)
    present = next(axes for line, row in zip(panels, grid.T, strict=True) for name, axes in zip(names, row, strict=True) if name in line)
    style.log_counts(present.xaxis, *_x_range(panels), most=5 if len(names) < 5 else 3)
    layout.outside_legend(figure, _legend(layout.used_labels(figure), _methods(panels)))
    return layout.finish(figure)


def _with_apet(rows: pd.DataFrame) -> list[str]:
    """Return the models that have APET runs, by size."""
    return [name for name in models(rows) if _apet(runs(of_model(rows, name)))]


def _share_y(row: list[Axes]) -> None:
    """Give the panels of one setting and quantity the same y axis, although they may stand in several lines of the grid."""
    for axes in row[1:]:
        axes.sharey(row[0])
    for axes in row:
        axes.autoscale()
        axes.tick_params(labelleft=layout.is_first(axes))


def _apet(table: pd.DataFrame) -> bool:
    return bool((table["method"] == "apet").any())


def _panels(rows: pd.DataFrame, names: list[str], setting: Setting, column: str) -> Iterator[Panel]:
    """Yield the panels of one line of the grid. A model without APET runs in this setting is left out."""
    for name in names:
        selected = in_setting(of_model(rows, name), setting)
        table = runs(selected).dropna(subset=[column])
        if _apet(table):
            yield Panel(name, setting, column, selected, table)


def _fill(axes: Axes, panel: Panel, colour: style.Colour) -> None:
    for method, table in panel.runs.groupby("method"):
        if method == "full":
            _full(axes, table, panel.column)
        else:
            _series(axes, str(method), table, panel.column, colour)
    if panel.column == "score" and math.isfinite(level := chance(panel.runs)):
        axes.axhline(level, color=style.GREY, linestyle=":", label=CHANCE, zorder=1)
    if panel.column == "train_loss":
        _theory(axes, panel.rows)
    for name, interval in _thresholds(panel.rows, panel.column):
        _threshold(axes, name, interval)


def _series(axes: Axes, method: str, table: pd.DataFrame, column: str, colour: style.Colour) -> None:
    """Draw runs as points and their mean at each k. The means of APET are joined."""
    marker = style.MARKERS.get(method, style.OTHER_MARKER)
    if method == "apet":
        axes.plot(table["k"], table[column], ".", ms=3.2, mew=0, alpha=0.5, color=colour, label=RUN, zorder=3)
    mean = means(table, column)
    axes.errorbar(
        mean["k"], mean["mean"], yerr=mean["stderr"], color=colour, marker=marker, ms=3.2, capsize=1.5, elinewidth=0.8,
        linestyle="-" if method == "apet" else "none", mfc=colour if method == "apet" else "white",
        label=_mean_label(method), zorder=4,
    )  # fmt: skip


def _mean_label(method: str) -> str:
    return f"{method_name(method)} (mean ± s.e.)"


def _full(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw full fine-tuning as a horizontal line. A point at its k would squeeze everything else into a corner."""
    mean = means(table, column).iloc[-1]
    axes.axhline(mean["mean"], color=style.INK, linestyle=FULL_DASHES, linewidth=0.9, label=FULL, zorder=2)
    if math.isfinite(mean["stderr"]):
        ends = mean["mean"] - mean["stderr"], mean["mean"] + mean["stderr"]
        axes.axhspan(*ends, color=style.INK, alpha=0.15, linewidth=0, zorder=1)


def _theory(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the target line and T1's curve. The curve is an artist, not a plot, so that it does not stretch the axes."""
    if math.isfinite(target := target_loss(rows)):
        axes.axhline(target, color=style.GREY, linestyle="-.", linewidth=0.9, label=TARGET, zorder=1)
    curve = pick(rows, "predicted_loss").sort_values("x")
    if len(curve) > 1:
        line = Line2D(curve["x"], curve["value"], color=style.PREDICTED, linewidth=0.7, label=THEORY, zorder=2)
        axes.add_artist(line)
        line.set_clip_path(axes.patch)


def target_loss(rows: pd.DataFrame) -> float:
    """Return the training loss that k* refers to: of the measured threshold, else of the prediction, else `target_loss`."""
    for _, interval in _thresholds(rows, "train_loss"):
        if math.isfinite(interval.target):
            return interval.target
    stated = pick(rows, "target_loss")["value"]
    return float(stated.iloc[-1]) if len(stated) else math.nan


def _thresholds(rows: pd.DataFrame, column: str) -> list[tuple[str, Interval]]:
    """Return (name, threshold) of the thresholds that the panel of a column of runs shows."""
    of_loss = [(quantities.K_STAR, threshold(rows, quantities.K_STAR)), (PREDICTION, prediction(rows))]
    found = [(name, interval) for name, interval in of_loss if interval is not None]
    return found + [(name, i) for name in OF_SCORE if column == "score" for i in thresholds(rows, name).values()]


def _threshold(axes: Axes, name: str, interval: Interval) -> None:
    """Draw a line with its interval, or an arrowhead at the edge on the side where a censored threshold lies."""
    label, colour, dashes, height = THRESHOLDS[name]
    if interval.censored:
        x, marker = {statuses.ABOVE: (0.97, ">"), statuses.BELOW: (0.03, "<")}.get(interval.censored, (math.nan, ""))
        axes.plot(x, height, marker, color=colour, transform=axes.transAxes, label=CENSORED, zorder=5)
        return
    if all(map(math.isfinite, interval.ends)):
        axes.axvspan(*interval.ends, color=colour, alpha=0.13, linewidth=0, zorder=0)
    axes.axvline(interval.value, color=colour, linestyle=dashes, linewidth=0.9, label=label, zorder=2)


def _x_range(panels: list[dict[str, Panel]]) -> tuple[float, float]:
    """Return the range of all drawn k with a margin. Full fine-tuning is a horizontal line and does not count."""
    values: list[float] = []
    for panel in (panel for line in panels for panel in line.values()):
        values += panel.runs.loc[panel.runs["method"] != "full", "k"].to_list()
        for _, interval in _thresholds(panel.rows, panel.column):
            values += [] if interval.censored else [interval.value, *interval.ends]
    values = [value for value in values if math.isfinite(value) and value > 0]
    return min(values) / 1.5, max(values) * 1.5


def _label(
    grid: np.ndarray, panels: list[dict[str, Panel]], names: list[str], sizes: dict[str, int], *, one_task: bool
) -> None:  # fmt: skip
    """Set titles on top and axis labels on the outermost existing panels. Remove cells without a panel."""
    for line, row in zip(panels, grid.T, strict=True):
        present = [axes for name, axes in zip(names, row, strict=True) if name in line]
        panel = next(iter(line.values()))
        height = "training loss" if panel.column == "train_loss" else f"validation {metric_label(panel.rows)}"
        for axes in dict.fromkeys([present[0], *filter(layout.is_first, present)]):
            axes.set_ylabel(height if one_task else f"{panel.setting.label}\n{height}")
            axes.tick_params(labelleft=True)
    for name, stack in zip(names, grid, strict=True):
        present = [axes for line, axes in zip(panels, stack, strict=True) if name in line]
        present[0].set_title(f"{style.short_name(name)}\n{sizes[name]:,} parameters")
        present[-1].tick_params(labelbottom=True)
        present[-1].set_xlabel("tuned parameters k")
        for axes in set(stack) - set(present):
            axes.remove()


def _methods(panels: list[dict[str, Panel]]) -> list[str]:
    """Return the methods that are drawn as series, in the order of their markers, then all others."""
    methods = {method for line in panels for panel in line.values() for method in panel.runs["method"]} - {"full"}
    return [method for method in style.MARKERS if method in methods] + sorted(methods - set(style.MARKERS))


def _legend(used: set[str], methods: list[str]) -> dict[str, layout.Key]:
    """Return the legend's keys in neutral colours, since each panel has the colour of its model."""
    ink, grey = style.INK, style.GREY
    keys: dict[str, layout.Key] = {RUN: Line2D([], [], marker=".", ms=3.2, ls="none", color=ink)}
    for method in methods:
        marker = style.MARKERS.get(method, style.OTHER_MARKER)
        key = Line2D([], [], marker=marker, ms=3.2, color=ink)
        if method != "apet":
            key.set(linestyle="none", markerfacecolor="white")
        keys[_mean_label(method)] = key
    keys[FULL] = (Patch(color=ink, alpha=0.15, lw=0), Line2D([], [], color=ink, ls=FULL_DASHES, lw=0.9))
    keys[CHANCE] = Line2D([], [], color=grey, ls=":")
    keys[TARGET] = Line2D([], [], color=grey, ls="-.", lw=0.9)
    for label, colour, dashes, _ in THRESHOLDS.values():
        keys[label] = (Patch(color=colour, alpha=0.13, lw=0), Line2D([], [], color=colour, ls=dashes, lw=0.9))
    keys[THEORY] = Line2D([], [], color=style.PREDICTED, lw=0.7)
    keys[CENSORED] = Line2D([], [], marker=">", ls="none", color=ink)
    return {label: key for label, key in keys.items() if label in used}
