"""The look of every figure: fonts of at least 7 pt, colours and markers that also differ in grey, axes, and the written files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analyses.method_facts import METHOD_MARKERS
from analyses.store import statuses
from figures.files import DPI, replacing
from figures.venues import page

Colour = tuple[float, float, float] | str
INK = "#333333"
GREY = "#8c8c8c"
MEASURED = "#000000"
PREDICTED = "#d55e00"  # vermilion of the Okabe-Ito palette: distinct from every level of viridis and from black

MARKERS = METHOD_MARKERS
OTHER_MARKER = "X"
MODEL_MARKERS = "osD^vP*X<>phd8H"
SERIES = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # black, then Okabe and Ito's palette
ARROWS = {"x": ("$\\rightarrow$", "$\\leftarrow$"), "y": ("$\\uparrow$", "$\\downarrow$")}  # markers for above and below
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))


@contextmanager
def paper() -> Iterator[None]:
    """Set matplotlib up for figures that go into a paper unscaled, with the fonts of the current page (`figures.venues`)."""
    fixed: dict[Any, Any] = {
        "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
        "svg.hashsalt": "apet",  # otherwise the ids in an SVG differ each time
        **dict.fromkeys(("figure.dpi", "savefig.dpi"), DPI),  # equal, because hinted text has other widths at another resolution
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
    fonts: dict[Any, Any] = page().settings
    with mpl.rc_context(seaborn | fixed | fonts):
        yield


@dataclass(frozen=True)
class Look:
    """How a series is drawn. No two series of a figure differ in colour alone: they also differ in marker, dashes or fill."""

    colour: Colour
    marker: str = ""
    dashes: Any = "-"  # a linestyle of matplotlib
    fill: str = "full"  # a fillstyle of matplotlib

    def line(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` and `Line2D`, with some changes."""
        look = {"color": self.colour, "marker": self.marker or "none", "linestyle": self.dashes, "markeredgewidth": 0.8}
        # A hollow marker is white inside, so that no line shows through it.
        fill = {"markerfacecolor": "white"} if self.fill == "none" else {"fillstyle": self.fill, "markerfacecoloralt": "white"}
        return look | fill | changes

    def key(self, **changes: Any) -> Line2D:
        """Return the sample of the series for a legend."""
        return Line2D([], [], **self.line(**{"markersize": 3.5, "linewidth": 0.9, **changes}))


def model_looks(models: Iterable[str]) -> dict[str, Look]:
    """Return one colour and marker per model. Markers repeat, hollow, after as many models as there are markers."""
    colours = model_colours(models)
    return {
        name: Look(colour, MODEL_MARKERS[number % len(MODEL_MARKERS)], fill="full" if number < len(MODEL_MARKERS) else "none")
        for number, (name, colour) in enumerate(colours.items())
    }


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return the look of each method, in the order of the table of methods. No two methods share a marker unless markers run out."""
    present = set(methods)
    names = [name for name in MARKERS if name in present] + sorted(present - set(MARKERS))
    looks: dict[str, Look] = {}
    for number, name in enumerate(names):
        taken = {look.marker for look in looks.values()}
        free = [marker for marker in (MARKERS.get(name, OTHER_MARKER), *MODEL_MARKERS) if marker not in taken]
        looks[name] = Look(SERIES[number % len(SERIES)], (free or [OTHER_MARKER])[0], DASHES[number % len(DASHES)])
    return looks


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


def power_label(value: float, _position: int | None = None) -> str:
    """Return a number as a tick label: 0.02, 0.001, and powers of ten below."""
    if value == 0 or abs(value) >= 1e-3:
        return number_label(value)
    power = math.floor(math.log10(abs(value)) + 1e-9)
    factor = value / 10.0**power
    return f"$10^{{{power}}}$" if math.isclose(factor, 1) else f"${factor:.3g}{{\\times}}10^{{{power}}}$"


def log_counts(axis: Axis, low: float, high: float, most: int = 5, label: Callable[..., str] = count_label) -> None:
    """Give an axis a log scale from `low` to `high`, with about `most` labels at most. Minor ticks have no labels."""
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    choices = [(1.0, 2.0, 5.0), (1.0, 3.0), (1.0,), (1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)]
    fits = [c for c in choices if 2 <= sum(low <= m * 10.0**e <= high for m in c for e in range(-12, 13)) <= most]
    axis.set_major_locator(LogLocator(subs=fits[0] if fits else (1.0,), numticks=most if not fits else 99))
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(NullFormatter())


def log_bars(axes: Axes, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, foot: float, **look: Any) -> None:
    """Draw points with bars from low to high (NaN: no bar) on a logarithmic y axis that begins at `foot`, joined if `look` has a line.

    A bar that reaches below the foot (also below zero) ends in an arrow at the foot. A value that is not above the foot is an open arrow
    at the foot, and breaks the line.
    """
    shown = y > foot
    axes.plot(x, np.where(shown, y, np.nan), **look)
    edge = foot * 1.12
    for at, value, bottom, top in zip(x, y, low, high, strict=True):
        if math.isfinite(bottom) and math.isfinite(top) and top > foot:
            axes.plot([at, at], [max(bottom, foot), top], color=look["color"], linewidth=0.7, zorder=2)
        if value <= foot:
            axes.plot(at, edge, "v", color=look["color"], mfc="white", markersize=3.2, mew=0.7, zorder=4)
        elif bottom <= foot:
            axes.plot(at, edge, "v", color=look["color"], markersize=2.6, mew=0, zorder=4)


def bar_along(axes: Axes, y: float, low: float, high: float, colour: Colour, least: float = 0.0) -> None:
    """Draw a thin horizontal bar from low to high within the current x limits. An end beyond them, or unknown, is an arrow at the edge.

    `least` is the smallest possible value. If both ends are unknown, nothing is drawn.
    """
    if math.isnan(low) and math.isnan(high):
        return
    left, right = axes.get_xlim()
    ends = [end if math.isfinite(end) else edge for end, edge in ((low, least), (high, math.inf))]
    axes.plot([max(ends[0], left), min(ends[1], right)], [y, y], color=colour, linewidth=0.6, zorder=2)
    for beyond, at, marker in ((ends[0] < left, 0.0, "<"), (ends[1] > right, 1.0, ">")):
        if beyond:
            axes.plot(at, y, marker, color=colour, markersize=2.6, mew=0, transform=axes.get_yaxis_transform(), clip_on=False, zorder=4)


def edge_arrow(axes: Axes, at: float, side: str, along: Literal["x", "y"], colour: Colour) -> None:
    """Draw an arrow at the edge where a censored threshold lies: beyond the upper or lower end of the axis `along`, at the other's `at`.

    Nothing is drawn unless `side` is one of `statuses.CENSORED`.
    """
    if side not in statuses.CENSORED:
        return
    above = side == statuses.ABOVE
    inside = 0.97 if above else 0.03
    x, y, transform = (inside, at, axes.get_yaxis_transform()) if along == "x" else (at, inside, axes.get_xaxis_transform())
    marker = ARROWS[along][0 if above else 1]
    axes.plot(x, y, color=colour, marker=marker, linestyle="none", markersize=5, markeredgewidth=0.4, transform=transform, zorder=4)


def arrow_key(along: Literal["x", "y"]) -> Line2D:
    """Return the legend's sample of `edge_arrow`."""
    return Line2D([], [], color=INK, marker=ARROWS[along][0], linestyle="none", markersize=5, markeredgewidth=0.4)


@paper()
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.pdf, NAME.svg and NAME.png under `folder`, each completely or not at all. Equal figures give equal bytes."""
    # A date would change the bytes.
    dates = {".pdf": {"CreationDate": None, "ModDate": None}, ".svg": {"Date": None}, ".png": {}}
    paths = []
    for suffix, metadata in dates.items():
        path = Path(folder) / f"{name}{suffix}"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths
