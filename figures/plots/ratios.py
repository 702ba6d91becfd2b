"""The Hessian ratio over planes, which shows how far the loss is from convex, with contour lines of the loss on top."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

from figures import layout, style
from figures.plots.contours import HEIGHT, OUTSIDE, line_levels, loss_norm, places, smoothed
from figures.plots.grids import Grid, grids, slice_rows
from figures.rows import CannotDraw, of, pick, tidy, where

COLOURS = "magma"  # dark where the loss is convex
MOST = 20.0  # end of the scale, since some points have almost no positive curvature
TICKS = (0.0, 0.1, 0.3, 1.0, 3.0, MOST)


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    with_ratios = list(set(of(rows, "slice_hessian_ratio")["run_id"]))
    of_runs = where(rows, rows["run_id"].isin(with_ratios))
    return pd.concat([slice_rows(of_runs, 2), of(of_runs, "slice_hessian_ratio")]).sort_index()


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per plane with a ratio map, on one colour scale r / (1 + r). Raises CannotDraw without such planes."""
    rows = tidy(rows)
    maps = {str(run): _table(part) for run, part in pick(rows, "slice_hessian_ratio").groupby("run_id", sort=False)}
    slices = [grid for grid in grids(rows, 2) if grid.run_id in maps] if maps else []
    if not slices:
        raise CannotDraw("no slice_hessian_ratio over a plane in the rows")
    figure, cells = layout.small_multiples(len(slices), HEIGHT if len(slices) > 1 else 2.4)
    norm = FuncNorm((lambda r: r / (1 + r), lambda share: share / (1 - share)), 0.0, MOST)
    for index, (axes, grid) in enumerate(zip(cells, slices, strict=True)):
        x, y, ratios = maps[grid.run_id]
        axes.set_facecolor(OUTSIDE)
        axes.pcolormesh(x, y, np.ma.masked_invalid(ratios.T), norm=norm, cmap=COLOURS, shading="nearest", rasterized=True)
        _lines(axes, grid)
        places(axes, grid)
        axes.set(xlabel=grid.label(0, len(slices) > 1), ylabel=grid.label(1, len(slices) > 1))
        axes.set(xlim=(grid.x.min(), grid.x.max()), ylim=(grid.y.min(), grid.y.max()) if grid.y is not None else None)
        layout.letter(axes, index, grid.title)
    label = "$|\\lambda_\\min / \\lambda_\\max|$, 0 where convex"
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=cells, label=label, pad=0.02, aspect=30, fraction=0.08, extend="max")
    bar.set_ticks(TICKS, labels=[style.number_label(tick) for tick in TICKS])
    bar.minorticks_off()
    return layout.finish(figure)


def _table(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and the ratios (x, y), NaN where unknown."""
    rows = where(rows, rows["x"].notna() & rows["y"].notna())
    x, y = np.unique(rows["x"].to_numpy(float)), np.unique(rows["y"].to_numpy(float))
    ratios = np.full((len(x), len(y)), np.nan)
    ratios[np.searchsorted(x, rows["x"].to_numpy(float)), np.searchsorted(y, rows["y"].to_numpy(float))] = rows["value"].to_numpy(float)
    return x, y, ratios


def _lines(axes: Axes, grid: Grid) -> None:
    """Draw contour lines of the loss, at the levels of the plane's own contour figure."""
    assert grid.y is not None
    if min(grid.loss.shape) > 1:
        x, y, loss = smoothed(grid.x, grid.y, grid.loss)
        axes.contour(x, y, np.ma.masked_invalid(loss.T), line_levels(loss_norm([grid])), colors=style.GREY, linewidths=0.5)
