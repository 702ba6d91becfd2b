"""The loss over planes as surfaces in three dimensions: a still picture, and a page with rotatable surfaces that works offline."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import layout, style
from figures.plots.contours import COLOURS, loss_bar, loss_norm
from figures.plots.grids import Grid, Place, grids, slice_rows
from figures.rows import tidy
from figures.style import number_label

HEIGHT = 1.45  # inches per panel


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return slice_rows(rows, 2)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per plane; height is the loss, on a log scale. Raises CannotDraw without slices over planes."""
    slices = grids(tidy(rows), 2)
    figure, cells = layout.small_multiples(len(slices), HEIGHT if len(slices) > 1 else 2.6, projection="3d")
    norm = loss_norm(slices)
    for index, (axes, grid) in enumerate(zip(cells, slices, strict=True)):
        _surface(cast(Any, axes), grid, norm)
        if len(slices) == 1:  # smaller panels have no space for labels
            for axis, number in ((cast(Any, axes).xaxis, 0), (cast(Any, axes).yaxis, 1)):
                axis.set_rotate_label(False)
                axis.set_label_text(grid.label(number, short=True), rotation=0)
                axis.labelpad = 4
        axes.set_title(f"({'abcdefghijklmnopqrstuvwxyz'[index % 26]}) {grid.title}", loc="left", y=1.0, pad=2)
    loss_bar(figure, cells, norm)
    return layout.finish(figure)


def _surface(axes: Any, grid: Grid, norm: Any) -> None:
    import matplotlib as mpl

    assert grid.y is not None
    x, y = np.meshgrid(grid.x, grid.y, indexing="ij")
    height = heights(grid)
    colours = mpl.colormaps[COLOURS](norm(np.where(np.isfinite(grid.loss), grid.loss, norm.vmax)))
    colours[~np.isfinite(height)] = 0.0
    axes.plot_surface(x, y, height, facecolors=colours, rstride=1, cstride=1, linewidth=0, antialiased=True, shade=False)
    axes.view_init(elev=32, azim=-58)
    axes.set_box_aspect((1, 1, 0.7), zoom=0.88)
    for axis, values in ((axes.xaxis, grid.x), (axes.yaxis, grid.y)):
        end = float(f"{0.65 * float(np.abs(values).max()):.1g}")  # keeps the labels away from the corners
        axis.set_ticks([-end, end], labels=[number_label(-end), number_label(end)])
    finite = height[np.isfinite(height)]
    axes.set_zticks(np.linspace(finite.min(), finite.max(), 3), labels=[])  # the colour scale states the values
    axes.tick_params(pad=-3)
    for pane in (axes.xaxis, axes.yaxis, axes.zaxis):
        pane.pane.set_visible(False)


def heights(grid: Grid) -> np.ndarray:
    """Return log10 of the loss if all finite losses are positive, else the loss. NaN stays NaN."""
    values = np.where(np.isfinite(grid.loss), grid.loss, np.nan)
    return np.log10(values) if np.nanmin(values) > 0 else values


def page(rows: pd.DataFrame) -> str:
    """Return an HTML page of all planes with a menu. It contains plotly's script, so it opens offline.

    Raises CannotDraw as `draw` does.
    """
    import plotly.graph_objects as go

    slices = grids(tidy(rows), 2)
    figure, owners = go.Figure(), []
    for number, grid in enumerate(slices):
        for trace in _traces(go, grid, visible=number == 0):
            figure.add_trace(trace)
            owners.append(number)
    names = [f"{grid.title}, {grid.task}, {grid.directions}, {grid.taken}" for grid in slices]
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [owner == number for owner in owners]}, {"scene": _scene(slices[number])}]}
        for number, name in enumerate(names)
    ]
    menu = {"buttons": buttons, "x": 0.0, "xanchor": "left", "y": 1.0, "yanchor": "top"}
    figure.update_layout(scene=_scene(slices[0]), updatemenus=[menu], margin={"l": 0, "r": 0, "t": 10, "b": 0})
    return figure.to_html(include_plotlyjs=True, full_html=True, div_id="relief")


def _traces(go: Any, grid: Grid, visible: bool) -> list[Any]:
    height = heights(grid)
    loss = np.where(np.isfinite(grid.loss), grid.loss, np.nan)
    surface = go.Surface(
        x=grid.x, y=grid.y, z=height.T, customdata=loss.T, visible=visible, colorscale="Viridis", name="loss",
        hovertemplate="%{x:.3g}, %{y:.3g}: loss %{customdata:.4g}<extra></extra>", showscale=False,
    )  # fmt: skip
    if not grid.places:
        return [surface]
    assert grid.y is not None
    at_x, at_y = (np.array([getattr(place, name) for place in grid.places]) for name in "xy")
    z = [float(height[np.abs(grid.x - a).argmin(), np.abs(grid.y - b).argmin()]) for a, b in zip(at_x, at_y, strict=True)]
    path = go.Scatter3d(
        x=at_x, y=at_y, z=z, visible=visible, mode="lines+markers" if grid.directions == "trajectory" else "markers",
        marker={"size": 3, "color": style.PREDICTED}, line={"color": style.PREDICTED, "width": 4},
        text=[_hover_text(place) for place in grid.places], hoverinfo="text", showlegend=False,
    )  # fmt: skip
    return [surface, path]


def _hover_text(place: Place) -> str:
    return f"step {place.step:g}" + ("" if math.isnan(place.loss) else f", loss off the plane {place.loss:.4g}")


def _scene(grid: Grid) -> dict[str, Any]:
    height = heights(grid)
    name = "log10 of the training loss" if not np.array_equal(height, grid.loss, equal_nan=True) else "training loss"
    axes = {"xaxis": {"title": {"text": grid.label(0)}}, "yaxis": {"title": {"text": grid.label(1)}}, "zaxis": {"title": {"text": name}}}
    return axes | {"aspectratio": {"x": 1, "y": 1, "z": 0.7}}
