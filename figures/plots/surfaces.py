"""Slices over scale: small multiples on common axes, with displacements in units of |theta| of the tuned entries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import layout, style
from figures.plots.contours import filled, loss_bar, loss_norm, places
from figures.plots.grids import Grid, grids, slice_rows
from figures.plots.slices import fan, legend
from figures.rows import CannotDraw, tidy, where
from figures.words import DIRECTIONS

HEIGHT = 1.3  # inches per panel


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    _, slices = _drawn(rows)
    return slice_rows(where(rows, rows["run_id"].isin([grid.run_id for grid in slices or []])), 1, 2)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per model, by size, of planes if the rows hold them, else of lines.

    All panels share their axes and their colour scale, so that they can be compared by eye. Raises CannotDraw unless two sizes of model
    have slices.
    """
    planes, slices = _drawn(tidy(rows))
    if slices is None:
        raise CannotDraw("no slices with the same directions of models of two sizes in the rows")
    models = list(dict.fromkeys(grid.model for grid in slices))
    groups = [[grid for grid in slices if grid.model == model] for model in models]
    figure, cells = layout.small_multiples(len(groups), HEIGHT, share=True)
    norm = loss_norm(slices)
    for index, (axes, group) in enumerate(zip(cells, groups, strict=True)):
        if planes:
            filled(axes, group[0], norm, relative=True)
            places(axes, group[0], norm, relative=True)
        else:
            fan(axes, group, slices, relative=True)
        layout.letter(axes, index, group[0].title)
    _common(cells, slices, planes)
    if planes:
        loss_bar(figure, cells, norm)
    else:
        layout.outside_legend(figure, legend(slices))
    figure.suptitle(f"{slices[0].task}, {slices[0].taken}: {DIRECTIONS.get(slices[0].directions, slices[0].directions)}", fontsize=7.5)
    return layout.finish(figure)


def _drawn(rows: pd.DataFrame) -> tuple[bool, list[Grid] | None]:
    """Return (whether planes are drawn, the slices); None without slices of two sizes."""
    planes = _comparable(rows, 2)
    return (True, planes) if planes is not None else (False, _comparable(rows, 1))


def _comparable(rows: pd.DataFrame, dims: int) -> list[Grid] | None:
    """Return the slices with the task, kind of directions and point that most model sizes share; None for fewer than two sizes."""
    try:
        slices = [grid for grid in grids(rows, dims) if math.isfinite(grid.norm) and grid.norm > 0]
    except CannotDraw:
        return None
    groups: dict[tuple, list[Grid]] = {}
    for grid in slices:
        groups.setdefault((grid.task, grid.directions, grid.taken), []).append(grid)
    sizes = {key: len({grid.parameters for grid in group}) for key, group in groups.items()}
    best = max(sizes, key=lambda key: sizes[key], default=None)
    return groups[best] if best is not None and sizes[best] > 1 else None


def _common(cells: list, slices: list[Grid], planes: bool) -> None:
    """Set the labels and the widest limits for all panels."""
    for axes in cells[-layout.columns_of(cells) :]:
        axes.set_xlabel("$|\\delta| / |\\theta|$")
    for axes in cells[:: layout.columns_of(cells)]:
        axes.set_ylabel("$|\\delta| / |\\theta|$" if planes else "loss")
    reach = max(float(np.abs(grid.x / grid.norm).max()) for grid in slices)
    for axes in cells:
        axes.set_xlim(-reach, reach)
    if planes:
        depth = max(float(np.abs(grid.y / grid.norm).max()) for grid in slices if grid.y is not None)
        for axes in cells:
            axes.set_ylim(-depth, depth)
