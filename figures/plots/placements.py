"""The effect of the choice of entries: the loss of each placement by the quadratic and by training, and the spread of both over scale."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style
from figures.rows import CannotDraw, models, pick, tidy, where

HEIGHT = 2.9  # inches
PLACE = ["model", "task", "placement", "k", "position_seed"]
SERIES = {"measured": ("o", style.MEASURED), "predicted": ("s", style.PREDICTED)}


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure.

    (a) Training loss of each placement as a share of the untuned model's loss, measured against predicted, one colour per model. (b) Its
    standard deviation over placements against model size, one line per task and k. Raises CannotDraw without placements that were both
    predicted and trained.
    """
    rows = tidy(rows)
    both, spreads = _pairs(rows), pick(rows, "placement_spread")
    if both.empty or spreads.empty:
        raise CannotDraw(
            "no placements that were both predicted (predict with k) and trained (several position seeds at one k) in the rows"
        )
    colours = style.model_colours(models(rows))
    figure = style.new_figure(style.TEXT_WIDTH, HEIGHT)
    left, right = figure.subplots(1, 2)
    for name, colour in colours.items():
        of_model = where(both, both["model"] == name)
        left.plot(of_model["predicted"], of_model["measured"], "o", color=colour, markersize=3)
    ends = [min(both[["predicted", "measured"]].min()), max(both[["predicted", "measured"]].max())]
    left.plot(ends, ends, color=style.GREY, linewidth=0.8)
    left.set(xlabel="predicted loss / initial loss", ylabel="measured loss / initial loss")
    dashes = _spreads(right, spreads)
    style.letter(left, 0, "each placement")
    style.letter(right, 1, "spread over placements" + (f", {next(iter(dashes))}" if len(dashes) == 1 else ""))
    keys: dict[str, style.Key] = {
        style.short_name(name): Line2D([], [], marker="o", ls="none", color=colour)
        for name, colour in colours.items() if name in set(both["model"])
    }  # fmt: skip
    keys |= {series: Line2D([], [], marker=marker, color=colour) for series, (marker, colour) in SERIES.items()}
    if len(dashes) > 1:
        keys |= {name: Line2D([], [], color=style.INK, ls=ls) for name, ls in dashes.items()}
    style.outside_legend(figure, keys)
    return style.finish(figure)


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the placements with both losses, as shares of the untuned model's loss."""
    table = pick(rows, "placement_loss").pivot_table("value", index=PLACE, columns="series")
    return table.dropna().reset_index() if set(SERIES) <= set(table.columns) else pd.DataFrame()


def _spreads(axes: Axes, spreads: pd.DataFrame) -> dict[str, str]:
    """Draw the lines, and return the dashes of each task and k."""
    dashes: dict[str, str] = {}
    for (task, k), spread in spreads.groupby(["task", "k"]):  # pyright: ignore[reportGeneralTypeIssues]
        name = f"{task}, k = {k:g}"
        dashes[name] = ("-", "--", ":", "-.")[len(dashes) % 4]
        for series, (marker, colour) in SERIES.items():
            line = where(spread, spread["series"] == series).sort_values("parameters")
            axes.errorbar(line["parameters"], line["value"], line["stderr"], color=colour, marker=marker, ls=dashes[name], elinewidth=0.6)
    sizes = [float(size) for size in spreads["parameters"]]
    style.log_counts(axes.xaxis, min(sizes) / 1.4, max(sizes) * 1.4)
    axes.set(xlabel="parameters", ylabel="standard deviation of loss / initial loss", ylim=(0, None))
    return dashes
