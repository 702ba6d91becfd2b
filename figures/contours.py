"""The loss over planes through a point of the subspace, with the trajectory or the optima that the plane was laid through."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from figures import style
from figures.grids import Grid, grids
from figures.rows import tidy
from figures.style import number_label

HEIGHT = 1.5  # inches a panel
LEVELS = 18
COLOURS = "viridis_r"  # low is light: there the trajectory ends


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """One panel a slice over a plane, all on one scale of colours. Raises CannotDraw without slices over planes."""
    found = grids(tidy(rows), 2)
    figure, cells = style.small_multiples(len(found), HEIGHT if len(found) > 1 else 2.4)
    norm = loss_norm(found)
    for index, (axes, grid) in enumerate(zip(cells, found, strict=True)):
        filled(axes, grid, norm)
        places(axes, grid)
        axes.set(xlabel=grid.label(0, len(found) > 1), ylabel=grid.label(1, len(found) > 1))
        style.letter(axes, index, f"{grid.title}, {grid.taken}" if len({each.taken for each in found}) > 1 else grid.title)
    loss_bar(figure, cells, norm)
    return style.finish(figure)


def loss_norm(found: list[Grid]) -> Normalize:
    """One scale of colours for all: logarithmic, from the lowest to the highest finite loss."""
    values = np.concatenate([grid.loss[np.isfinite(grid.loss)] for grid in found])
    low, high = float(values.min()), float(values.max())
    if high <= low:  # a flat plane has a colour, too
        return Normalize(low - 0.5, high + 0.5)
    return LogNorm(low, high) if low > 0 else Normalize(low, high)


def loss_bar(figure: Figure, cells: list, norm: Normalize, label: str = "training loss") -> None:
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=cells, label=label, pad=0.02, aspect=30, fraction=0.08)
    ticks = style.few_ticks(float(norm.vmin or 0.0), float(norm.vmax or 1.0), isinstance(norm, LogNorm))
    bar.set_ticks(ticks, labels=[number_label(tick) for tick in ticks])
    bar.minorticks_off()


def filled(axes: Axes, grid: Grid, norm: Normalize, relative: bool = False) -> None:
    """Filled contours at the same levels everywhere; white where the loss is not a number."""
    assert grid.y is not None
    unit = grid.norm if relative else 1.0
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    levels = np.geomspace(low, high, LEVELS + 1) if isinstance(norm, LogNorm) else np.linspace(low, high, LEVELS + 1)
    levels[0], levels[-1] = low, high  # rounding would leave the ends white
    if min(grid.loss.shape) < 2:
        axes.scatter(*np.meshgrid(grid.x / unit, grid.y / unit, indexing="ij"), c=grid.loss.ravel(), norm=norm, cmap=COLOURS)
        return
    values = np.ma.masked_invalid(grid.loss.T)
    axes.contourf(grid.x / unit, grid.y / unit, values, levels, norm=norm, cmap=COLOURS)
    axes.contour(grid.x / unit, grid.y / unit, values, levels, colors="white", linewidths=0.25)


def places(axes: Axes, grid: Grid, relative: bool = False) -> None:
    """The trajectory as a line with a point a look, the centre as a cross."""
    unit = grid.norm if relative else 1.0
    if grid.places:
        x, y = (np.array([getattr(place, name) for place in grid.places]) / unit for name in "xy")
        joined = "-" if grid.directions == "trajectory" else "none"
        axes.plot(x, y, color=style.PREDICTED, marker="o", markersize=2.2, linewidth=0.9, linestyle=joined, zorder=4)
    axes.plot(0, 0, "+", color=style.INK, markersize=6, zorder=5)
