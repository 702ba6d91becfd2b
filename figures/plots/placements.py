"""The effect of the choice of entries: the loss of each placement by the quadratic and by training, and the spread of both over scale."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import layout, style
from figures.rows import CannotDraw, models, of, pick, tidy, where

HEIGHT = 2.9  # inches
PLACE = ["model", "task", "placement", "k", "position_seed"]
SERIES = {"measured": style.Look(style.MEASURED, "o"), "predicted": style.Look(style.PREDICTED, "s", fill="none")}


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, "placement_loss", "placement_spread")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure.

    (a) Training loss of each placement as a share of the untuned model's loss, measured against predicted, one colour and marker per model.
    (b) Its standard deviation over placements against model size, one line per task and k. Raises CannotDraw without placements that were
    both predicted and trained.
    """
    rows = tidy(rows)
    both, spreads = _pairs(rows), pick(rows, "placement_spread")
    if both.empty or spreads.empty:
        raise CannotDraw(
            "no placements that were both predicted (predict with k) and trained (several position seeds at one k) in the rows"
        )
    looks = style.model_looks(models(rows))
    figure, (left, right) = layout.small_multiples(2, HEIGHT, wide_from=2)
    for name, look in looks.items():
        of_model = where(both, both["model"] == name)
        left.plot(of_model["predicted"], of_model["measured"], **look.line(linestyle="none"), markersize=3)
    ends = [min(both[["predicted", "measured"]].min()), max(both[["predicted", "measured"]].max())]
    left.plot(ends, ends, color=style.GREY, linewidth=0.8)
    left.set(xlabel="predicted loss / initial loss", ylabel="measured loss / initial loss")
    dashes = _spreads(right, spreads)
    layout.letter(left, 0, "each placement")
    layout.letter(right, 1, "spread over placements" + (f", {next(iter(dashes))}" if len(dashes) == 1 else ""))
    drawn = set(both["model"])
    keys: dict[str, layout.Key] = {style.short_name(name): look.key(ls="none") for name, look in looks.items() if name in drawn}
    keys |= {series: look.key() for series, look in SERIES.items()}
    if len(dashes) > 1:
        keys |= {name: Line2D([], [], color=style.INK, ls=ls) for name, ls in dashes.items()}
    layout.outside_legend(figure, keys)
    return layout.finish(figure)


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the placements with both losses, as shares of the untuned model's loss."""
    table = pick(rows, "placement_loss").pivot_table("value", index=PLACE, columns="series")
    return table.dropna().reset_index() if set(SERIES) <= set(table.columns) else pd.DataFrame()


def _spreads(axes: Axes, spreads: pd.DataFrame) -> dict[str, Any]:
    """Draw the lines, and return the dashes of each task and k."""
    dashes: dict[str, Any] = {}
    for (task, k), spread in spreads.groupby(["task", "k"]):  # pyright: ignore[reportGeneralTypeIssues]
        name = f"{task}, k = {k:g}"
        dashes[name] = style.DASHES[len(dashes) % len(style.DASHES)]
        for series, look in SERIES.items():
            line = where(spread, spread["series"] == series).sort_values("parameters")
            settings = look.line(linestyle=dashes[name], elinewidth=0.6)
            axes.errorbar(line["parameters"], line["value"], line["stderr"], **settings)
    sizes = [float(size) for size in spreads["parameters"]]
    style.log_counts(axes.xaxis, min(sizes) / 1.4, max(sizes) * 1.4)
    axes.set(xlabel="parameters", ylabel="standard deviation of loss / initial loss", ylim=(0, None))
    return dashes
