"""How every figure looks: sizes in inches at print, fonts no smaller than 7 pt, colours by size, markers by method.

Figures are made without pyplot, so nothing global is left behind and no window system is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
Key = Artist | tuple[Artist, ...]  # what stands beside a label in a legend
INK = "#333333"
GREY = "#8c8c8c"
MEASURED = "#000000"
PREDICTED = "#d55e00"  # vermilion of the Okabe-Ito palette: apart from every level of viridis and from black

MARKERS = METHOD_MARKERS
OTHER_MARKER = "X"


@contextmanager
def paper() -> Iterator[None]:
    """Matplotlib settings of a figure that goes into a paper unscaled."""
    small = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.0)
    large = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 7.5)
    own: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same file on every machine
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
    with mpl.rc_context(seaborn | small | large | own):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose panels and outside legend are laid out without overlap."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_multiples(
    count: int, height: float, share: bool = False, projection: str | None = None, most: int = 5
) -> tuple[Figure, list[Axes]]:
    """Return `count` panels, `height` inches each, on a grid with the fewest holes.

    Up to two panels, or two by two, are as wide as a column; more are as wide as a page, with at most `most` beside each other.
    """
    columns = grid_columns(count, most)
    lines = -(-count // columns)
    figure = new_figure(COLUMN_WIDTH if columns <= 2 else TEXT_WIDTH, height * lines + 0.5)
    options: dict[str, Any] = {"sharex": share, "sharey": share, "squeeze": False, "subplot_kw": {"projection": projection}}
    grid = figure.subplots(lines, columns, **options).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:  # the lowest of their columns
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def grid_columns(count: int, most: int = 5) -> int:
    """How many of `count` panels stand beside each other: up to 2, or 2 by 2, in a column's width, else 3 to `most`: the fewest holes."""
    if count <= 2 or count == 4:
        return min(count, 2)
    return min(range(3, most + 1), key=lambda columns: (-count % columns, -columns))


def columns_of(cells: list[Axes]) -> int:
    """How many panels stand beside each other."""
    place = cells[0].get_subplotspec()
    return place.get_gridspec().ncols if place is not None else 1


def model_colours(models: Iterable[str]) -> dict[str, Colour]:
    """One colour a model, from dark (small) to light (large); viridis stops where yellow would fade on white."""
    names = list(models)
    scale = mpl.colormaps["viridis"]
    levels = [0.82 * i / max(1, len(names) - 1) for i in range(len(names))]
    return {name: scale(level)[:3] for name, level in zip(names, levels, strict=True)}


def short_name(model: str) -> str:
    """The model's name without its organisation or folder."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def count_label(value: float, _position: int | None = None) -> str:
    """1, 20, 500, 1k, 20k, 1M, ...: a count as a tick label."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def number_label(value: float) -> str:
    """Three digits, without an exponent where that is as short."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def few_ticks(low: float, high: float, log: bool) -> list[float]:
    """Three to five round places from `low` to `high`; both ends where there is nothing round."""
    locator = LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if log else MaxNLocator(4)
    found = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    if len(found) > 5:
        found = found[:: -(-len(found) // 5)]
    return found if len(found) > 1 else [low, high]


def log_counts(axis: Axis, low: float, high: float, most: int = 5) -> None:
    """Log scale for counts from `low` to `high`, with at most about `most` labels; minor ticks bear none."""
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    choices = [(1.0, 2.0, 5.0), (1.0, 3.0), (1.0,), (1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)]
    fits = [c for c in choices if 2 <= sum(low <= m * 10.0**e <= high for m in c for e in range(-3, 13)) <= most]
    axis.set_major_locator(LogLocator(subs=fits[0] if fits else (1.0,), numticks=most if not fits else 99))
    axis.set_major_formatter(FuncFormatter(count_label))
    axis.set_minor_formatter(NullFormatter())


def log_bars(axes: Axes, x: np.ndarray, y: np.ndarray, spread: np.ndarray, foot: float, **look: Any) -> None:
    """Points with bars of +- spread on a logarithmic y axis that begins at `foot`, joined where a linestyle is given.

    A bar that reaches below the foot, zero included, ends in an arrow there; a value that itself is not above it is an open arrow alone,
    and the line is broken.
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
    """A thin horizontal bar from low to high within the x limits as they are; an end beyond them, or not known, is an arrow at the edge.

    Nothing is drawn where neither end is known.
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
    """One legend for all panels, below them, in as many columns as the figure is wide enough for."""
    figure.legend(
        cast(list[Artist], list(handles.values())), list(handles), loc="outside lower center",
        ncols=_columns(list(handles), figure.get_figwidth()), columnspacing=1.2, handlelength=2.0, handletextpad=0.5,
        borderaxespad=0.2,
    )  # fmt: skip


def _columns(labels: list[str], width: float) -> int:
    """The most columns of equal height whose labels, filled column by column, fit into `width` inches."""
    for lines in range(1, len(labels) + 1):
        columns = [labels[start : start + lines] for start in range(0, len(labels), lines)]
        # Inches: handle and gaps, then a character of 7 pt.
        if sum(0.38 + 0.049 * max(map(len, column)) for column in columns) <= width:
            return len(columns)
    return 1


def used_labels(figure: Figure) -> set[str]:
    """Labels of everything drawn in any panel."""
    return {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}


def finish(figure: Figure) -> Figure:
    """Lay the figure out now, while the settings of `paper` hold: ticks are made lazily and would miss them."""
    for axes in figure.axes:
        sns.despine(ax=axes)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each file would lay it out again
    return figure


def letter(axes: Axes, index: int, title: str) -> None:
    """Panel title "(a) title", flush left."""
    axes.set_title(f"({'abcdefghijklmnopqrstuvwxyz'[index % 26]}) {title}", loc="left")


@paper()
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png under `folder`, each whole or not at all, the same bytes for the same figure."""
    dates = {".pdf": {"CreationDate": None, "ModDate": None}, ".png": {}}  # a date would change the bytes
    paths = []
    for suffix, metadata in dates.items():
        path = Path(folder) / f"{name}{suffix}"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths


def save_page(text: str, folder: Path, name: str) -> Path:
    """Write NAME.html under `folder`, whole or not at all."""
    path = Path(folder) / f"{name}.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
