"""The effective dimension N_eff over the ridge kappa: one line per model, one panel per task, family, matrix and point of the spectrum."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from analyses.findings import family
from figures import layout, style
from figures.plots.spectra import look_keys, look_of, n_eff
from figures.rows import CannotDraw, models, of, tidy
from figures.words import MATRICES

HEIGHT = 1.9  # inches per line of panels
POINT = ["task", "family", "matrix", "at"]


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, "n_eff").dropna(subset=["x", "value"])


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: N_eff with a band of one standard error against the ridge, on log axes.

    Each model has a colour and a marker. Spectra of one model with other k or seeds are separate lines. Raises CannotDraw without n_eff.
    """
    rows = tidy(rows)
    curves = data(rows)
    if curves.empty:
        raise CannotDraw("no n_eff in the rows")
    points = ["tuned" if run else "pretrained" for run in curves["at_run"]]
    curves = curves.assign(at=points, family=[family(name) for name in curves["model"]])
    panels = [(tuple(map(str, of_point[POINT].iloc[0])), of_point) for _, of_point in curves.groupby(POINT)]
    several = [len(set(curves[column])) > 1 for column in POINT]
    look = look_of(curves, style.model_looks(models(rows)))
    look = replace(look, dashes=dict.fromkeys(look.dashes, "-"))  # matrices are panels here
    figure, cells = layout.small_multiples(len(panels), HEIGHT)
    for index, (axes, ((task, name, matrix, at), of_point)) in enumerate(zip(cells, panels, strict=True)):
        n_eff(axes, of_point, look)
        axes.set_ylabel("$N_{eff}(\\kappa)$" if layout.is_first(axes) else "")
        named = [word for word, shown in zip((task, name, MATRICES[matrix], at), several, strict=True) if shown]
        if named:
            layout.letter(axes, index, ", ".join(named))
    layout.outside_legend(figure, look_keys(look))
    return layout.finish(figure)
