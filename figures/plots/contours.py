"""The loss over planes through a point of the subspace, with the trajectory or the final points that define the plane."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from figures import layout, style
from figures.plots.grids import Grid, grids, slice_rows
from figures.rows import tidy
from figures.style import number_label

HEIGHT = 1.5  # inches per panel
LINES = 9  # number of contour lines, from the lowest to the highest loss of a figure
COLOURS = "viridis"
OUTSIDE = "#dddddd"  # colour of points that were not computed or whose loss is not a number
FINER = 12  # refinement of the grid, per axis, on which the computed losses are interpolated


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return slice_rows(rows, 2)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per plane, all on one colour scale. Raises CannotDraw without slices over planes."""
    slices = grids(tidy(rows), 2)
    figure, cells = layout.small_multiples(len(slices), HEIGHT if len(slices) > 1 else 2.4)
    norm = loss_norm(slices)
    for index, (axes, grid) in enumerate(zip(cells, slices, strict=True)):
        filled(axes, grid, norm)
        places(axes, grid, norm)
        axes.set(xlabel=grid.label(0, len(slices) > 1), ylabel=grid.label(1, len(slices) > 1))
        title = f"{grid.title}, {grid.taken}" if len({grid.taken for grid in slices}) > 1 else grid.title
        layout.letter(axes, index, title if math.isnan(grid.off) else f"{title}\nΔloss ≤ {number_label(grid.off)}")
    loss_bar(figure, cells, norm)
    return layout.finish(figure)


def loss_norm(slices: list[Grid]) -> Normalize:
    """Return one colour scale for all slices: logarithmic, from the lowest to the highest finite loss, marked points included."""
    values = np.concatenate([np.append(grid.loss.ravel(), [place.loss for place in grid.places]) for grid in slices])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if high <= low:  # a flat plane also needs a colour
        return Normalize(low - 0.5, high + 0.5)
    return LogNorm(low, high) if low > 0 else Normalize(low, high)


def loss_bar(figure: Figure, cells: list, norm: Normalize, label: str = "training loss") -> None:
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=cells, label=label, pad=0.02, aspect=30, fraction=0.08)
    ticks = style.few_ticks(float(norm.vmin or 0.0), float(norm.vmax or 1.0), isinstance(norm, LogNorm))
    bar.set_ticks(ticks, labels=[number_label(tick) for tick in ticks])
    bar.minorticks_off()


def filled(axes: Axes, grid: Grid, norm: Normalize, relative: bool = False) -> None:
    """Draw the interpolated loss as colours, with contour lines at the levels of the whole figure. Grey: the loss is not a number."""
    assert grid.y is not None
    unit = grid.norm if relative else 1.0
    axes.set_facecolor(OUTSIDE)
    if min(grid.loss.shape) < 2:
        axes.scatter(*np.meshgrid(grid.x / unit, grid.y / unit, indexing="ij"), c=grid.loss.ravel(), norm=norm, cmap=COLOURS)
        return
    x, y, loss = smoothed(grid.x / unit, grid.y / unit, grid.loss)
    values = np.ma.masked_invalid(loss.T)
    axes.pcolormesh(x, y, values, norm=norm, cmap=COLOURS, shading="gouraud" if np.isfinite(loss).all() else "nearest", rasterized=True)
    axes.contour(x, y, values, line_levels(norm), colors="white", linewidths=0.3, alpha=0.8)


def line_levels(norm: Normalize) -> np.ndarray:
    """Return the losses of the contour lines, spaced like the colour scale."""
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    return np.geomspace(low, high, LINES) if isinstance(norm, LogNorm) else np.linspace(low, high, LINES)


def smoothed(x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the losses (x, y) on a grid that is FINER times as fine, by monotone cubic interpolation (of log losses if all are positive).

    The interpolation passes through every computed value and never exceeds their range. Losses that are not all finite are returned on the
    computed grid.
    """
    from scipy.interpolate import PchipInterpolator

    if not np.isfinite(loss).all():
        return x, y, loss
    log = bool((loss > 0).all())
    values = np.log(loss) if log else loss
    fine_x, fine_y = (np.linspace(axis[0], axis[-1], FINER * (len(axis) - 1) + 1) for axis in (x, y))
    values = PchipInterpolator(y, PchipInterpolator(x, values, axis=0)(fine_x), axis=1)(fine_y)
    return fine_x, fine_y, np.exp(values) if log else values


def places(axes: Axes, grid: Grid, norm: Normalize | None = None, relative: bool = False) -> None:
    """Draw the trajectory as a line with a point per recorded state, and the centre as a cross.

    With `norm`, a state whose own loss is known has the colour of that loss.
    """
    unit = grid.norm if relative else 1.0
    if grid.places:
        x, y = (np.array([getattr(place, name) for place in grid.places]) / unit for name in "xy")
        joined = "-" if grid.directions == "trajectory" else "none"
        axes.plot(x, y, color=style.PREDICTED, marker="o", markersize=2.2, linewidth=0.9, linestyle=joined, zorder=4)
        losses = np.array([place.loss for place in grid.places])
        if norm is not None and np.isfinite(losses).any():
            axes.scatter(x, y, c=losses, norm=norm, cmap=COLOURS, s=14, edgecolors=style.PREDICTED, linewidths=0.5, zorder=5)
    axes.plot(0, 0, "+", color="white", markersize=6, zorder=5)
