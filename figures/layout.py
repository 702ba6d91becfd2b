"""Panels, legends and titles laid out for the width of the page, so that no text overlaps.

Figures are made without pyplot, so no global state remains and no window system is needed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any, cast

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from figures.venues import page

PANEL = 1.3  # smallest width of a panel in inches, its labels included
Key = Artist | tuple[Artist, ...]  # the drawn sample beside a label in a legend


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure whose panels and outside legend are laid out without overlap."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_multiples(
    count: int, height: float, share: bool = False, projection: str | None = None, most: int = 5, wide_from: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure and `count` panels, `height` inches each, on the grid with the fewest empty cells.

    A grid of at least `wide_from` columns has the width of a large figure, with at most `most` panels per line.
    """
    columns = grid_columns(count, min(most, most_columns()))
    lines = -(-count // columns)
    figure = new_figure(page().narrow if columns < wide_from else page().wide, height * lines + 0.5)
    options: dict[str, Any] = {"sharex": share, "sharey": share, "squeeze": False, "subplot_kw": {"projection": projection}}
    grid = figure.subplots(lines, columns, **options).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def stacks(count: int, heights: list[float], width: float = PANEL, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure and the panels (count, len(heights)) of `count` stacks of panels, each stack at least `width` inches wide.

    `heights` are inches per panel, from the top. Stacks that do not fit beside each other continue below.
    """
    blocks = -(-count // most_columns(width))
    columns = -(-count // blocks)
    figure = new_figure(page().narrow if columns == 1 or columns * width <= page().narrow else page().wide, sum(heights) * blocks + 0.5)
    grid = figure.subplots(blocks * len(heights), columns, squeeze=False, height_ratios=heights * blocks, **options)
    panels = grid.reshape(blocks, len(heights), columns).transpose(0, 2, 1).reshape(-1, len(heights))
    for axes in panels[count:].ravel():
        axes.remove()
    return figure, panels[:count]


def most_columns(width: float = PANEL) -> int:
    """Return the largest number of panels of at least `width` inches beside each other in the widest figure."""
    return max(1, int(page().wide / width + 0.02))


def grid_columns(count: int, most: int = 5) -> int:
    """Return the number of columns for `count` panels: at most 2 for 1, 2 or 4 panels, else 3 to `most`, with the fewest empty cells."""
    if most <= 2 or count <= 2 or count == 4:
        return min(count, 2, most)
    return min(range(3, most + 1), key=lambda columns: (-count % columns, -columns))


def columns_of(cells: list[Axes]) -> int:
    """Return the number of columns of the grid that the panels belong to."""
    place = cells[0].get_subplotspec()
    return place.get_gridspec().ncols if place is not None else 1


def is_first(axes: Axes) -> bool:
    """Return whether the panel is in the first column of its grid."""
    place = axes.get_subplotspec()
    return place is None or place.is_first_col()


def outside_legend(figure: Figure, handles: Mapping[str, Key]) -> None:
    """Add one legend for all panels, below them, with as many columns as fit the width of the figure.

    The figure has room for a legend of one line, and grows with every further line.
    """
    for lines in range(1, len(handles) + 1):
        legend = figure.legend(
            cast(list[Artist], list(handles.values())), list(handles), loc="outside lower center", ncols=-(-len(handles) // lines),
            columnspacing=1.2, handlelength=2.4, handletextpad=0.5, borderaxespad=0.2,
        )  # fmt: skip
        extent = legend.get_window_extent(cast(FigureCanvasAgg, figure.canvas).get_renderer())
        if extent.width <= figure.bbox.width or lines == len(handles):
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi * (1 - 1 / lines))
            return
        legend.remove()


def used_labels(figure: Figure) -> set[str]:
    """Return the labels of all artists in all panels."""
    return {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}


def letter(axes: Axes, index: int, title: str) -> None:
    """Set the panel title "(a) title", flush left. (aa) follows (z)."""
    axes.set_title(f"({ascii_lowercase[index % 26] * (index // 26 + 1)}) {title}", loc="left")


def finish(figure: Figure) -> Figure:
    """Lay the figure out while the settings of `paper` hold (ticks are made lazily and would miss them), and return it.

    Titles and labels that are longer than their panel are wrapped.
    """
    for axes in figure.axes:
        sns.despine(ax=axes)
    for _ in range(2):  # wrapped text moves the panels a little
        figure.draw_without_rendering()
        for axes in figure.axes:
            _wrap(axes)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # otherwise every file format would lay the figure out again
    for axes in figure.axes:
        if axes.get_subplotspec() is not None:  # the layout is exact to rounding only, but equal figures must give equal bytes
            x, y, width, height = (round(float(number), 6) for number in axes.get_position(original=True).bounds)
            axes.set_position((x, y, width, height))
    figure.draw_without_rendering()  # places the texts anew
    return figure


def _wrap(axes: Axes) -> None:
    """Wrap the title and the labels of a panel to its width, with the space up to the next panel, and to its height."""
    panel, whole = axes.get_window_extent(), axes.get_figure(root=True)
    place = axes.get_subplotspec()
    if place is None or whole is None:  # a colour bar
        return
    starts = [other.get_window_extent().x0 for other in whole.axes]
    right = min([start for start in starts if start > panel.x0 + 1], default=whole.bbox.width) - panel.x0
    middle = (panel.x0 + panel.x1) / 2
    room = min(0.97 * whole.bbox.width / place.get_gridspec().ncols, 1.96 * (whole.bbox.width - middle), 1.96 * middle)
    for text, most, along in ((cast(Any, axes)._left_title, right, "width"), (axes.title, room, "width"), (axes.xaxis.label, room, "width"),
                              (axes.yaxis.label, 1.05 * panel.height, "height")):  # fmt: skip
        text.set_linespacing(page().spacing)
        _fit(text, most, along)


def _fit(text: Text, most: float, along: str) -> None:
    """Wrap each line of a text at spaces until its extent along "width" or "height" is at most 98 % of `most`, if that is possible."""
    words = text.get_text()
    if "$" in words or not words.strip():
        return
    for width in range(max(map(len, words.splitlines())), 5, -1):
        if getattr(text.get_window_extent(), along) <= 0.98 * most:
            return
        lines = [textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in words.splitlines()]
        text.set_text("\n".join(part for line in lines for part in line))
