"""The distribution of the curvature over the model: mean curvature per tuned entry in each layer and kind of tensor, by model."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures import layout, style
from figures.rows import CannotDraw, at_pretrained, models, of, pick, tidy, where
from figures.venues import page
from figures.words import MATRICES

ROW = 0.135  # inches per line of the heat map
PANELS = 0.66  # share of the width that the panels have, beside their labels and the colour bar
NARROWEST, TITLE, CHARACTER = 0.085, 0.75, 0.06  # inches: smallest width of a column and of a title, width of a character
SMALLEST = 1e-8  # relative to the largest value; smaller values have the darkest colour


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(at_pretrained(rows), "block_trace", "block_size")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per task and matrix, with one column per model and lines for layers, then for kinds of tensors.

    Colour is the trace of the block divided by its number of tuned entries, on a log scale. Values are means over position seeds at the
    pretrained point. A trace that is not positive is hatched. Raises CannotDraw if the rows hold no blocks.
    """
    blocks = _blocks(tidy(rows))
    names = sorted(
        models(blocks), key=lambda name: (name.rpartition("-")[0], models(blocks)[name])
    )  # keeps the models of a family together
    parts = sorted(set(zip(blocks["series"], blocks["group"], strict=True)), key=_order)
    cells = sorted(set(zip(blocks["task"], blocks["matrix"], strict=True)))
    columns = min(len(cells), max(1, int(PANELS * page().wide / max(NARROWEST * len(names), TITLE))))
    lines = -(-len(cells) // columns)
    figure = layout.new_figure(page().wide, (ROW * len(parts) + 1.3) * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(cells) :]:
        axes.remove()
    crowded = PANELS * page().wide / (len(names) * columns) < CHARACTER * max(len(style.short_name(name)) for name in names)
    values = blocks["value"].to_numpy(float)
    largest = float(values.max())
    norm = LogNorm(max(float(values[values > 0].min()), largest * SMALLEST), largest)
    for index, (axes, (task, matrix)) in enumerate(zip(grid, cells, strict=False)):
        panel = where(blocks, (blocks["task"] == task) & (blocks["matrix"] == matrix))
        table = panel.pivot_table(index=["series", "group"], columns="model", values="value", aggfunc="mean").reindex(
            index=parts, columns=names
        )
        shown = np.ma.masked_less_equal(np.ma.masked_invalid(table.to_numpy(float)), 0)
        for row, column in zip(*np.nonzero(np.nan_to_num(table.to_numpy(float), nan=1.0) <= 0), strict=True):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", edgecolor=style.GREY, linewidth=0))
        axes.imshow(shown, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(names)), [style.short_name(name) for name in names], rotation=90 if crowded else 0)
        axes.set_yticks(range(len(parts)), [group for _, group in parts])
        axes.axhline(sum(grouping == "layer" for grouping, _ in parts) - 0.5, color="white", linewidth=2)
        layout.letter(axes, index, f"{task}\n{MATRICES[matrix]}")
    figure.colorbar(grid[0].images[0], ax=list(grid[: len(cells)]), label="trace / number of tuned entries", pad=0.01)
    return layout.finish(figure)


def _blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns model, parameters, task, matrix, series, group and value (trace of a block / its number of entries)."""
    traces = pick(at_pretrained(rows), "block_trace").dropna(subset=["value"])
    if not (traces["value"].to_numpy(float) > 0).any():
        raise CannotDraw("no positive block_trace at a pretrained point in the rows")
    trace, size = (part.set_index(["run_id", "x"]) for part in (traces, pick(rows, "block_size")))
    columns = trace[["model", "parameters", "task", "matrix", "series", "group"]]
    return columns.assign(value=trace["value"] / size["value"].reindex(trace.index)).reset_index()


def _order(part: tuple[str, str]) -> tuple:
    """Return a sort key: layers before kinds of tensors, encoder before decoder, layer 2 before layer 10."""
    grouping, name = part
    number = re.search(r"\d+", name)
    return grouping != "layer", "decoder" in name, int(number[0]) if number else -1, name
