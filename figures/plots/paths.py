"""Loss against k along the Moreau path, with the measured runs: one panel per model and setting."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import layout, style
from figures.rows import CannotDraw, in_setting, models, of, of_model, pick, run_rows, runs, settings, tidy, where

HEIGHT = 2.1  # inches per line of panels


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    trained = run_rows(where(rows, rows["method"] == "apet"), "train_loss")
    return pd.concat([of(rows, "path_envelope", "predicted_loss"), trained]).sort_index()


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: the envelope against gm, the band from m0 to m1, T1's curve, and the training losses of APET's runs.

    Raises CannotDraw if the rows hold no path.
    """
    rows = tidy(rows)
    path = pick(rows, "path_envelope")
    if path.empty:
        raise CannotDraw("no path_envelope in the rows: run predictions from a Gram matrix, which store it")
    cells = [(setting, model, chosen) for setting in settings(rows) for model in models(path)
             if not pick(chosen := in_setting(of_model(rows, model), setting), "path_envelope").empty]  # fmt: skip
    figure, grid = layout.small_multiples(len(cells), HEIGHT, wide_from=2)
    colours = style.model_colours(models(rows))
    for index, (axes, (setting, model, chosen)) in enumerate(zip(grid, cells, strict=True)):
        _panel(axes, chosen, colours[model])
        same = in_setting(rows, setting)
        top = max(*pick(same, "path_envelope")["value"], *_measured(same)["train_loss"])
        axes.set_ylim(-0.04 * top, 1.05 * top)  # one scale per setting, with space for the points at zero
        name = style.short_name(model)
        layout.letter(
            axes, index, name if len({setting for setting, _, _ in cells}) == 1 else "\n".join((name, *setting.label.split(", ")))
        )
        axes.set_xlabel("tuned parameters k")
        if layout.is_first(axes):
            axes.set_ylabel("training loss")
    layout.outside_legend(figure, _legend(rows))
    return layout.finish(figure)


def _panel(axes: Axes, rows: pd.DataFrame, colour: style.Colour) -> None:
    path = pick(rows, "path_envelope")
    levels = {name: where(path, path["series"] == name).sort_values(by="value") for name in ("m0", "gm", "m1")}
    axes.fill_betweenx(levels["gm"]["value"], levels["m1"]["x"], levels["m0"]["x"], color=colour, alpha=0.2, linewidth=0)
    axes.plot(levels["gm"]["x"], levels["gm"]["value"], color=colour)
    expected = pick(rows, "predicted_loss").sort_values(by="x")
    axes.plot(expected["x"], expected["value"], color=style.PREDICTED, linewidth=0.7, linestyle="--")
    measured = _measured(rows)
    axes.plot(measured["k"], measured["train_loss"], "o", color=style.MEASURED, markersize=2.5)
    ks = [*levels["gm"]["x"], *measured["k"]]
    style.log_counts(axes.xaxis, max(0.5, min(ks) / 1.3), max(ks) * 1.3)


def _legend(rows: pd.DataFrame) -> dict[str, layout.Key]:
    keys: dict[str, layout.Key] = {
        "Moreau path (line gm, band m0 to m1)": (Patch(color=style.INK, alpha=0.2, linewidth=0), Line2D([], [], color=style.INK)),
        "T1 at the pretrained point": Line2D([], [], color=style.PREDICTED, lw=0.7, ls="--"),
    }
    key = Line2D([], [], marker="o", ms=2.5, ls="none", color=style.MEASURED)
    return keys | ({"APET runs": key} if len(_measured(rows)) else {})


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    table = runs(rows)
    return where(table, table["method"] == "apet")
