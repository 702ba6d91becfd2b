"""The look of every figure: sizes in inches at print, fonts of at least 7 pt, colours by model size, markers by method.

Figures are made without pyplot, so no global state remains and no window system is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analyses.method_facts import METHOD_MARKERS
from figures.files import replacing

COLUMN_WIDTH = 3.3  # inches
TEXT_WIDTH = 6.9  # inches
DPI = 200

Colour = tuple[float, float, float]
Key = Artist | tuple[Artist, ...]  # the drawn sample beside a label in a legend
INK = "#333333"
GREY = "#8c8c8c"
MEASURED = "#000000"
PREDICTED = "#d55e00"  # vermilion of the Okabe-Ito palette: distinct from every level of viridis and from black

MARKERS = METHOD_MARKERS
OTHER_MARKER = "X"


@contextmanager
def paper() -> Iterator[None]:
    """Set matplotlib up for figures that go into a paper unscaled."""
    small = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.0)
    large = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 7.5)
    fixed: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # part of matplotlib: the same file on every machine
        "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
        "savefig.dpi": DPI,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.1,
        "lines.markersize": 4.0,
        "legend.frameon": False,
        **dict.fromkeys(("xtick.major.width", "ytick.major.width"), 0.6),
        **dict.fromkeys(("xtick.minor.width", "ytick.minor.width"), 0.4),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3.0),
        **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 1.8),
    }
    seaborn: dict[Any, Any] = {**sns.plotting_context("paper"), **sns.axes_style("ticks")}
    with mpl.rc_context(seaborn | small | large | fixed):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure whose panels and outside legend are laid out without overlap."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_multiples(
    count: int, height: float, share: bool = False, projection: str | None = None, most: int = 5
) -> tuple[Figure, list[Axes]]:
    """Return a figure and `count` panels, `height` inches each, on the grid with the fewest empty cells.

    Grids of one or two columns are as wide as a text column. Wider grids are as wide as a page, with at most `most` panels per line.
    """
    columns = grid_columns(count, most)
    lines = -(-count // columns)
    figure = new_figure(COLUMN_WIDTH if columns <= 2 else TEXT_WIDTH, height * lines + 0.5)
    options: dict[str, Any] = {"sharex": share, "sharey": share, "squeeze": False, "subplot_kw": {"projection": projection}}
    grid = figure.subplots(lines, columns, **options).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def grid_columns(count: int, most: int = 5) -> int:
    """Return the number of columns for `count` panels: at most 2 for 1, 2 or 4 panels, else 3 to `most`, with the fewest empty cells."""
    if count <= 2 or count == 4:
        return min(count, 2)
    return min(range(3, most + 1), key=lambda columns: (-count % columns, -columns))


def columns_of(cells: list[Axes]) -> int:
    """Return the number of columns of the grid that the panels belong to."""
    place = cells[0].get_subplotspec()
    return place.get_gridspec().ncols if place is not None else 1


def model_colours(models: Iterable[str]) -> dict[str, Colour]:
    """Return one colour per model, from dark (first) to light (last). The scale, viridis, ends before yellow, which fades on white."""
    names = list(models)
    scale = mpl.colormaps["viridis"]
    levels = [0.82 * i / max(1, len(names) - 1) for i in range(len(names))]
    return {name: scale(level)[:3] for name, level in zip(names, levels, strict=True)}


def short_name(model: str) -> str:
    """Return the model's name without its organisation or folder."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def count_label(value: float, _position: int | None = None) -> str:
    """Return a count as a tick label: 1, 20, 500, 1k, 20k, 1M, ..."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def number_label(value: float) -> str:
    """Return a number with three digits, without padding in its exponent."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def few_ticks(low: float, high: float, log: bool) -> list[float]:
    """Return three to five round numbers from `low` to `high`, or both ends if fewer than two are round."""
    locator = LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if log else MaxNLocator(4)
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    if len(ticks) > 5:
        ticks = ticks[:: -(-len(ticks) // 5)]
    return ticks if len(ticks) > 1 else [low, high]


def log_counts(axis: Axis, low: float, high: float, most: int = 5) -> None:
    """Give an axis a log scale for counts from `low` to `high`, with about `most` labels at most. Minor ticks have no labels."""
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    choices = [(1.0, 2.0, 5.0), (1.0, 3.0), (1.0,), (1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)]
    fits = [c for c in choices if 2 <= sum(low <= m * 10.0**e <= high for m in c for e in range(-3, 13)) <= most]
    axis.set_major_locator(LogLocator(subs=fits[0] if fits else (1.0,), numticks=most if not fits else 99))
    axis.set_major_formatter(FuncFormatter(count_label))
    axis.set_minor_formatter(NullFormatter())


def log_bars(axes: Axes, x: np.ndarray, y: np.ndarray, spread: np.ndarray, foot: float, **look: Any) -> None:
    """Draw points with bars of +- spread on a logarithmic y axis that begins at `foot`, joined if a linestyle is given.

    A bar that reaches below the foot (also below zero) ends in an arrow at the foot. A value that is not above the foot is an open arrow
    alone, and breaks the line.
    """
    shown = y > foot
    axes.plot(x, np.where(shown, y, np.nan), **look)
    edge = foot * 1.12
    for at, value, low, high in zip(x, y, y - spread, y + spread, strict=True):
        if value <= foot:
            axes.plot(at, edge, "v", color=look["color"], mfc="white", markersize=3.2, mew=0.7, zorder=4)
            continue
        axes.plot([at, at], [max(low, foot), high], color=look["color"], linewidth=0.7, zorder=2)
        if low <= foot:
            axes.plot(at, edge, "v", color=look["color"], markersize=2.6, mew=0, zorder=4)


def bar_along(axes: Axes, y: float, low: float, high: float, colour: Colour) -> None:
    """Draw a thin horizontal bar from low to high within the current x limits. An end beyond them, or unknown, is an arrow at the edge.

    If both ends are unknown, nothing is drawn.
    """
    if math.isnan(low) and math.isnan(high):
        return
    left, right = axes.get_xlim()
    ends = [end if math.isfinite(end) else edge for end, edge in ((low, 0.0), (high, math.inf))]
    axes.plot([max(ends[0], left), min(ends[1], right)], [y, y], color=colour, linewidth=0.5, zorder=2)
    for beyond, at, marker in ((ends[0] < left, 0.0, "<"), (ends[1] > right, 1.0, ">")):
        if beyond:
            axes.plot(at, y, marker, color=colour, markersize=2.6, mew=0, transform=axes.get_yaxis_transform(), clip_on=False, zorder=4)


def outside_legend(figure: Figure, handles: Mapping[str, Key]) -> None:
    """Add one legend for all panels, below them, with as many columns as fit the width of the figure."""
    figure.legend(
        cast(list[Artist], list(handles.values())), list(handles), loc="outside lower center",
        ncols=_columns(list(handles), figure.get_figwidth()), columnspacing=1.2, handlelength=2.0, handletextpad=0.5,
        borderaxespad=0.2,
    )  # fmt: skip


def _columns(labels: list[str], width: float) -> int:
    """Return the largest number of equally high columns whose labels, filled column by column, fit into `width` inches."""
    for lines in range(1, len(labels) + 1):
        columns = [labels[start : start + lines] for start in range(0, len(labels), lines)]
        # Inches: 0.38 for the handle and gaps, 0.049 per character of 7 pt.
        if sum(0.38 + 0.049 * max(map(len, column)) for column in columns) <= width:
            return len(columns)
    return 1


def used_labels(figure: Figure) -> set[str]:
    """Return the labels of all artists in all panels."""
    return {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}


def finish(figure: Figure) -> Figure:
    """Lay the figure out while the settings of `paper` hold (ticks are made lazily and would miss them), and return it."""
    for axes in figure.axes:
        sns.despine(ax=axes)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # otherwise every file format would lay the figure out again
    return figure


def letter(axes: Axes, index: int, title: str) -> None:
    """Set the panel title "(a) title", flush left. (aa) follows (z)."""
    axes.set_title(f"({ascii_lowercase[index % 26] * (index // 26 + 1)}) {title}", loc="left")


@paper()
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png under `folder`, each completely or not at all. Equal figures give equal bytes."""
    dates = {".pdf": {"CreationDate": None, "ModDate": None}, ".png": {}}  # a date would change the bytes
    paths = []
    for suffix, metadata in dates.items():
        path = Path(folder) / f"{name}{suffix}"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths


def save_page(text: str, folder: Path, name: str) -> Path:
    """Write NAME.html under `folder`, completely or not at all."""
    path = Path(folder) / f"{name}.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
