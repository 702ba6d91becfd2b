"""The curvature over scale: top eigenvalues, spectral density, effective dimension N_eff(kappa), and alignment of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import ceil, floor, log10, nan
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from analyses import runs
from analyses.findings import family
from figures import layout, style
from figures.rows import CannotDraw, models, of, pick, tidy, where
from figures.venues import page
from figures.words import MATRICES

HEIGHT, LOW = 1.9, 1.5  # inches per line of panels: for one family, for several
COLUMNS = 3
MARKS = 6  # markers on a smooth curve, which tell the models apart in grey
SMALLEST = 1e-7  # relative to the highest value; smaller values are left out
DASHES = {matrix.name: matrix.dashes for matrix in runs.MATRICES.values()}


@dataclass(frozen=True)
class Look:
    """A colour and a marker for every model, and dashes for every matrix in the figure."""

    models: dict[str, style.Look]
    dashes: dict[str, str]


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    rows = where(of(rows, *QUANTITIES), rows["matrix"].isin(list(MATRICES)))
    return where(rows, rows["x"].notna() & rows["value"].notna())


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: panels by task, models by colour, matrices by dashes. A panel is drawn if it has rows.

    With several families, each has its own line of panels, without densities. Bars and bands are the recorded residuals and standard
    errors. Raises CannotDraw if the rows hold no spectra.
    """
    rows = tidy(rows)
    curves = data(rows)
    if curves.empty:
        raise CannotDraw(f"no {', '.join(QUANTITIES)} in the rows")
    curves = curves.assign(family=[family(name) for name in curves["model"]])
    largest = _largest(curves)
    curves = curves.assign(largest=[largest.get(run_id, nan) for run_id in curves["run_id"]])
    lines = sorted(set(zip(curves["task"], curves["family"], strict=True)))
    panels = PANELS if len({name for _, name in lines}) == 1 else {name: PANELS[name] for name in OF_FAMILIES}
    names = [name for name, (quantity, _, _) in panels.items() if quantity in set(curves["quantity"])]
    look = look_of(curves, style.model_looks(models(rows)))
    columns = min(COLUMNS, layout.most_columns(), len(names))
    height = HEIGHT if panels is PANELS else LOW
    depth = ceil(len(names) / columns)  # lines of panels per task and family
    figure = layout.new_figure(page().wide if columns > 1 else page().narrow, height * depth * len(lines) + 0.45)
    grid = figure.subplots(depth * len(lines), columns, squeeze=False).reshape(len(lines), -1)
    index = 0
    for (task, name), cells in zip(lines, grid, strict=True):
        of_line = where(curves, (curves["task"] == task) & (curves["family"] == name))
        setting = ", ".join(of_panel for of_panel, several in ((task, 0), (name, 1)) if len({line[several] for line in lines}) > 1)
        for panel, axes in zip_longest(names, cells):
            quantity, title, curve = panels.get(panel, ("", "", None))
            of_panel = pick(of_line, quantity)
            if curve is None or of_panel.empty:
                axes.remove()
                continue
            curve(axes, of_panel, look)
            layout.letter(axes, index, f"{title}\n{setting}" if setting else title)
            index += 1
    negative = bool((pick(curves, "eigenvalue")["value"] < 0).any())
    layout.outside_legend(figure, _legend(look, negative))
    return layout.finish(figure)


def _largest(rows: pd.DataFrame) -> dict[str, float]:
    """Return a dictionary from run id to its largest |eigenvalue|, or the largest |eigenvalue| of its density's grid."""
    reach = pick(rows, "density").groupby("run_id")["x"].agg(lambda x: float(np.abs(x).max()))
    known = pick(rows, "eigenvalue").groupby("run_id")["value"].agg(lambda value: float(np.abs(value).max()))
    return {**reach.to_dict(), **known.to_dict()}


def look_of(rows: pd.DataFrame, looks: dict[str, style.Look]) -> Look:
    present = set(rows["matrix"])
    dashes = {name: dash for name, dash in DASHES.items() if name in present}
    drawn = set(rows["model"])
    return Look(
        {model: look for model, look in looks.items() if model in drawn},
        dashes if len(dashes) > 1 else dict.fromkeys(dashes, "-"),
    )


def curves_of(rows: pd.DataFrame, look: Look) -> list[tuple[style.Look, pd.DataFrame]]:
    """Return (look, rows sorted by x) for every spectrum. A model may have several spectra, with other k or seeds."""
    curves = []
    for model, of_model in look.models.items():
        for matrix, dashes in look.dashes.items():
            spectra = where(rows, (rows["model"] == model) & (rows["matrix"] == matrix))
            drawn = replace(of_model, dashes=dashes)
            curves += [(drawn, of_run.sort_values(by="x")) for _, of_run in spectra.groupby("run_id")]
    return curves


def _line(look: style.Look, count: int) -> dict[str, Any]:
    """Return the settings of a line through `count` points with about MARKS markers."""
    return look.line(markersize=2.6, linewidth=0.8, markevery=max(1, count // MARKS))


def _eigenvalues(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw |l| by rank in two branches: positive eigenvalues with filled markers, negative ones with open markers."""
    sizes = np.abs(rows["value"].to_numpy(float))
    foot = max(float(sizes[sizes > 0].min()) / 2, float(sizes.max()) * SMALLEST) if (sizes > 0).any() else 0.5
    highest = 1
    for drawn, spectrum in curves_of(rows, look):
        for sign, filled in ((1, drawn.colour), (-1, "white")):
            branch = where(spectrum, sign * spectrum["value"] > 0)
            order = np.argsort(-np.abs(branch["value"].to_numpy(float)), kind="stable")
            value, error = (branch[name].to_numpy(float)[order] for name in ("value", "stderr"))
            highest = max(highest, len(value))
            value, error = np.abs(value), np.nan_to_num(error)
            style.log_bars(
                axes, np.arange(1.0, len(value) + 1), value, value - error, value + error, foot,
                **drawn.line(markersize=2.4, markerfacecolor=filled, markeredgewidth=0.7, linewidth=0.8),
            )  # fmt: skip
    style.log_counts(axes.xaxis, 0.8, 1.3 * highest)
    axes.set(yscale="log", xlabel="rank (separately by sign)", ylabel="$|\\lambda|$")
    axes.set_ylim(foot, 2 * float(sizes.max()) or 1.0)


def _density(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    banded(axes, rows, look)
    visible = where(rows, rows["value"] > rows["value"].max() * SMALLEST)["x"].to_numpy()
    _signed_log(axes, "x", visible)
    axes.set(xlim=_with_room(visible), xlabel="$\\lambda$", ylabel="density")


def _with_room(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the values with a margin of 5 % on each side. A positive lower limit is divided by 1.2 instead."""
    low, high = float(values.min()), float(values.max())
    return (low / 1.2 if low > 0 else low - 0.05 * (high - low)), high + 0.05 * (high - low)


def _density_linear(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw the density on a linear axis in units of each spectrum's largest |l|, which shows the outliers of all sizes."""
    unit = rows["largest"]
    rows = rows.assign(x=rows["x"] / unit, value=rows["value"] * unit, stderr=rows["stderr"] * unit)
    banded(axes, rows, look)
    visible = where(rows, rows["value"] > rows["value"].max() * SMALLEST)["x"].to_numpy()
    axes.set(xlim=_with_room(visible), xlabel="$\\lambda$ / largest $|\\lambda|$", ylabel="density")
    axes.xaxis.set_major_locator(MaxNLocator(4))


def n_eff(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    banded(axes, rows, look)
    axes.set(xscale="log", xlabel="ridge $\\kappa$", ylabel="$N_{eff}(\\kappa)$")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    style.log_counts(axes.yaxis, *axes.get_ylim())


def _alignment(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw the share of |g|^2 along the top eigenvectors up to a rank."""
    for drawn, spectrum in curves_of(rows, look):
        axes.plot(spectrum["x"], spectrum["value"], **drawn.line(markersize=2.4, linewidth=0.8))
    style.log_counts(axes.xaxis, 0.8, 1.3 * float(rows["x"].to_numpy().max()))
    axes.set(ylim=(0, 1.03), xlabel="number of top eigenvectors", ylabel="share of $|g|^2$")


def _gradient(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw the share of |g|^2 in the directions whose eigenvalue is at least l, with l from large to small."""
    rows = where(rows, rows["x"] > rows["x"].max() * SMALLEST)
    for drawn, spectrum in curves_of(rows, look):
        axes.step(spectrum["x"], spectrum["value"], where="pre", **_line(drawn, len(spectrum)))
    axes.set(xscale="log", ylim=(0, 1.03), xlabel="smallest $\\lambda$ included", ylabel="share of $|g|^2$")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(numticks=5))


def banded(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw values as lines with a band of one standard error, on a log axis that ends below the smallest visible value.

    A smoothed density has tails of 1e-300, and its band may reach below zero; both leave the axis at its foot.
    """
    highest = rows["value"].to_numpy().max()
    foot = highest * SMALLEST
    for drawn, spectrum in curves_of(rows, look):
        value, error = spectrum["value"], spectrum["stderr"].fillna(0.0)
        axes.plot(spectrum["x"], value.clip(lower=foot / 10), **_line(drawn, len(spectrum)))
        low, high = (value - error).clip(lower=foot / 10), (value + error).clip(lower=foot / 10)
        axes.fill_between(spectrum["x"], low, high, color=drawn.colour, alpha=0.2, linewidth=0)
    lowest = where(rows, rows["value"] > foot)["value"].min()
    axes.set(yscale="log", ylim=(max(foot, lowest / 2), highest * 2))


def _signed_log(axes: Axes, axis: str, values: np.ndarray) -> None:
    """Set a log axis if all values are positive, else a symmetric log axis that is linear around zero."""
    if (values > 0).all():
        axes.set(**{f"{axis}scale": "log"})
        return
    sizes = np.abs(values[values != 0])
    # At most four decades are logarithmic: more would leave too little space for the labels.
    linear = max(float(sizes.min()), float(sizes.max()) * 1e-4) if len(sizes) else 1.0
    {"x": axes.set_xscale, "y": axes.set_yscale}[axis]("symlog", linthresh=linear, linscale=0.5)
    negative = [-tick for tick in _decades(linear, -float(values.min()))]
    {"x": axes.xaxis, "y": axes.yaxis}[axis].set_ticks([*negative, 0.0, *_decades(linear, float(values.max()))])


def _decades(linear: float, top: float) -> list[float]:
    """Return every second power of ten up to `top` that is at least three times the linear part."""
    if top <= linear:
        return []
    powers = range(floor(log10(top)), ceil(log10(linear)) - 1, -2)
    return [10.0**power for power in powers if 10.0**power >= 3 * linear]


def _legend(look: Look, negative: bool) -> dict[str, layout.Key]:
    keys: dict[str, layout.Key] = {}
    if negative:
        for label, fill in (("positive eigenvalues", "full"), ("negative eigenvalues", "none")):
            keys[label] = style.Look(style.INK, "h", "none", fill).key()
    return keys | look_keys(look)


def look_keys(look: Look) -> dict[str, layout.Key]:
    """Return the legend's keys of the models and matrices."""
    keys: dict[str, layout.Key] = {style.short_name(name): drawn.key() for name, drawn in look.models.items()}
    several = look.dashes if len(set(look.dashes.values())) > 1 else {}
    return keys | {MATRICES[name]: Line2D([], [], color=style.INK, ls=dashes, lw=0.9) for name, dashes in several.items()}


# Panel -> quantity of its rows, title, function that draws it.
PANELS: dict[str, tuple[str, str, Callable[[Axes, pd.DataFrame, Look], None]]] = {
    "eigenvalue": ("eigenvalue", "eigenvalues", _eigenvalues),
    "density": ("density", "density", _density),
    "density_linear": ("density", "density, linear axis", _density_linear),
    "n_eff": ("n_eff", "$N_{eff}$", n_eff),
    "top_alignment": ("top_alignment", "gradient share by rank", _alignment),
    "alignment": ("alignment", "gradient share by $\\lambda$", _gradient),
}
OF_FAMILIES = ("eigenvalue", "n_eff", "top_alignment")  # panels for several families
QUANTITIES = list(dict.fromkeys(quantity for quantity, _, _ in PANELS.values()))
