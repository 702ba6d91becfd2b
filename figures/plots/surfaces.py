"""Slices over scale: small multiples on common axes, displacements in units of |theta| of the tuned entries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.plots.contours import filled, loss_bar, loss_norm, places
from figures.plots.grids import Grid, grids
from figures.plots.slices import fan, legend
from figures.rows import CannotDraw, tidy
from figures.words import DIRECTIONS

HEIGHT = 1.3  # inches a panel


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """A panel a model, by size, of planes where the rows hold them, else of lines. Raises CannotDraw without slices of two sizes.

    All share their axes and their scale of colours, so that panels can be compared by eye.
    """
    planes, found = True, _comparable(tidy(rows), 2)
    if found is None:
        planes, found = False, _comparable(tidy(rows), 1)
    if found is None:
        raise CannotDraw("no slices with the same directions of models of two sizes in the rows")
    models = list(dict.fromkeys(grid.model for grid in found))
    groups = [[grid for grid in found if grid.model == model] for model in models]
    figure, cells = style.small_multiples(len(groups), HEIGHT, share=True)
    norm = loss_norm(found)
    for index, (axes, group) in enumerate(zip(cells, groups, strict=True)):
        if planes:
            filled(axes, group[0], norm, relative=True)
            places(axes, group[0], norm, relative=True)
        else:
            fan(axes, group, found, relative=True)
        style.letter(axes, index, group[0].title)
    _common(cells, found, planes)
    if planes:
        loss_bar(figure, cells, norm)
    else:
        style.outside_legend(figure, legend(found))
    figure.suptitle(f"{found[0].task}, {found[0].taken}: {DIRECTIONS.get(found[0].directions, found[0].directions)}", fontsize=7.5)
    return style.finish(figure)


def _comparable(rows: pd.DataFrame, dims: int) -> list[Grid] | None:
    """The slices of the task, directions and kind of point that most models have, of two sizes at least; of planes one a model."""
    try:
        found = [grid for grid in grids(rows, dims) if math.isfinite(grid.norm) and grid.norm > 0]
    except CannotDraw:
        return None
    groups: dict[tuple, list[Grid]] = {}
    for grid in found:
        groups.setdefault((grid.task, grid.directions, grid.taken), []).append(grid)
    sizes = {key: len({grid.parameters for grid in group}) for key, group in groups.items()}
    best = max(sizes, key=lambda key: sizes[key], default=None)
    return groups[best] if best is not None and sizes[best] > 1 else None


def _common(cells: list, found: list[Grid], planes: bool) -> None:
    """The widest limits for all."""
    for axes in cells[-style.columns_of(cells) :]:
        axes.set_xlabel("$|\\delta| / |\\theta|$")
    for axes in cells[:: style.columns_of(cells)]:
        axes.set_ylabel("$|\\delta| / |\\theta|$" if planes else "loss")
    reach = max(float(np.abs(grid.x / grid.norm).max()) for grid in found)
    for axes in cells:
        axes.set_xlim(-reach, reach)
    if planes:
        depth = max(float(np.abs(grid.y / grid.norm).max()) for grid in found if grid.y is not None)
        for axes in cells:
            axes.set_ylim(-depth, depth)
