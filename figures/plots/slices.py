"""The loss along lines through a point of the subspace: one line per seed, with its standard error and the quadratic model."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import layout, style
from figures.plots.grids import Grid, grids, slice_rows
from figures.rows import tidy
from figures.words import DIRECTIONS

HEIGHT = 1.45  # inches per panel
LOG_FROM = 30.0  # ratio of the highest to the lowest loss above which the axis is logarithmic


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return slice_rows(rows, 1)


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per model, kind of direction and point, with one line per run. Raises CannotDraw without slices along
    lines.
    """
    slices = grids(tidy(rows), 1)
    panels: dict[tuple, list[Grid]] = defaultdict(list)
    for grid in slices:
        panels[grid.task, grid.parameters, grid.model, grid.directions, grid.taken].append(grid)
    figure, cells = layout.small_multiples(len(panels), HEIGHT, most=3)  # at most 3 columns, because titles are long
    for index, (axes, group) in enumerate(zip(cells, panels.values(), strict=True)):
        fan(axes, group, group)
        axes.set_xlabel("displacement $|\\delta|$")
        if index % layout.columns_of(cells) == 0:
            axes.set_ylabel("loss")
        layout.letter(axes, index, _title(group[0], slices))
    layout.outside_legend(figure, legend(slices))
    return layout.finish(figure)


def fan(axes: Axes, group: list[Grid], within: list[Grid], relative: bool = False) -> None:
    """Draw the lines of one panel. Its loss axis holds all of `within`. `relative` gives displacements in units of |theta|."""
    colours = style.model_colours([grid.run_id for grid in group])
    for grid in group:
        x, colour = grid.x / grid.norm if relative else grid.x, colours[grid.run_id]
        axes.plot(x, grid.loss, color=colour, zorder=3)
        axes.fill_between(x, grid.loss - grid.stderr, grid.loss + grid.stderr, color=colour, alpha=0.2, linewidth=0)
        if grid.validation is not None:
            axes.plot(x, grid.validation, color=colour, linestyle="--", linewidth=0.8)
    values = np.concatenate([losses.ravel() for grid in within for losses in (grid.loss, grid.validation) if losses is not None])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
    else:
        room = 0.06 * (high - low) or 0.1
        axes.set_ylim(low - room, high + room)
    for grid in group:
        if grid.quadratic is not None:  # an artist, not a plot: it may leave the axes without stretching them
            line = Line2D(
                grid.x / grid.norm if relative else grid.x, grid.quadratic, color=colours[grid.run_id], linestyle=":", linewidth=0.9
            )
            axes.add_artist(line)
            line.set_clip_path(axes.patch)
    axes.axvline(0.0, color=style.GREY, linewidth=0.5, zorder=0)


def _title(grid: Grid, slices: list[Grid]) -> str:
    """Return the model's name, with a second line for whatever distinguishes its panels."""
    parts = [grid.task] if len({grid.task for grid in slices}) > 1 else []
    parts += [DIRECTIONS.get(grid.directions, grid.directions)] if len({grid.directions for grid in slices}) > 1 else []
    parts += [grid.taken] if len({grid.taken for grid in slices}) > 1 else []
    return "\n".join(filter(None, (grid.title, ", ".join(parts))))


def legend(slices: list[Grid]) -> dict[str, layout.Key]:
    ink = style.INK
    keys: dict[str, layout.Key] = {"training loss ± s.e.": (Patch(color=ink, alpha=0.2, lw=0), Line2D([], [], color=ink))}
    if any(grid.validation is not None for grid in slices):
        keys["validation loss"] = Line2D([], [], color=ink, ls="--", lw=0.8)
    if any(grid.quadratic is not None for grid in slices):
        keys["quadratic model"] = Line2D([], [], color=ink, ls=":", lw=0.9)
    return keys
