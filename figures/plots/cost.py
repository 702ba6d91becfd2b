"""The cost of training runs and of predictions over the size of the model, in units of one full fine-tuning run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.findings import family
from figures import layout, style
from figures.rows import CannotDraw, Panel, in_setting, models, of, panel_title, run_rows, settings, tidy, where
from figures.words import method_name

HEIGHT = 1.9  # inches per line of panels
COST = "example_gradients"
# Quantity of a prediction -> label, marker.
PREDICTIONS = {
    COST: ("prediction, initial point", "v"),
    "linear_path_example_gradients": ("prediction, path of the linearised model", ">"),
    "path_example_gradients": ("prediction, path of the model", "<"),
}
ALL_RUNS = "all APET runs together"


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    predicted = of(rows, *PREDICTIONS)
    return pd.concat([run_rows(rows, COST), where(predicted, predicted["kind"] == "predict")]).sort_index()


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: cost divided by the cost of a full fine-tuning run, one panel per setting and family, on log axes.

    Points are means over runs; their bars reach from the cheapest to the most expensive run. Raises CannotDraw without the cost of a full
    fine-tuning run of a model and of another run or prediction of it.
    """
    rows = data(tidy(rows))
    panels = {panel: costs for panel, costs in _panels(rows).items() if not costs.empty}
    if not panels:
        raise CannotDraw("no example_gradients of full fine-tuning and of another run or prediction of one model in the rows")
    looks = _looks([name for costs in panels.values() for name in costs["name"]])
    figure, grid = layout.stacks(len(panels), [HEIGHT], width=1.6)
    ends = [end for costs in panels.values() for end in (*costs["low"].to_numpy(float), *costs["high"].to_numpy(float), 1.0)]
    for index, ((panel, costs), (axes,)) in enumerate(zip(panels.items(), grid, strict=True)):
        _panel(axes, costs, looks)
        style.log_counts(axes.yaxis, min(ends) / 1.6, max(ends) * 1.6)
        if title := panel_title(panel, list(panels)):
            layout.letter(axes, index, title)
        axes.set_xlabel("model parameters N")
        if layout.is_first(axes):
            axes.set_ylabel("cost / full fine-tuning run")
    layout.outside_legend(figure, {name: look.key() for name, look in looks.items()})
    return layout.finish(figure)


def _panels(rows: pd.DataFrame) -> dict[Panel, pd.DataFrame]:
    """Return a table of each setting and family: name, parameters, and the mean, low and high of the cost."""
    panels: dict[Panel, pd.DataFrame] = {}
    lines: dict[Panel, list[tuple]] = {}
    for setting in settings(rows):
        of_setting = in_setting(rows, setting)
        for model, size in models(of_setting).items():
            costs = _costs(where(of_setting, of_setting["model"] == model))
            lines.setdefault((setting, family(model)), []).extend((name, size, *numbers) for name, numbers in costs.items())
    for panel, found in lines.items():
        panels[panel] = pd.DataFrame(found, columns=["name", "parameters", "mean", "low", "high"])
    return panels


def _costs(rows: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Return label -> (mean, lowest, highest) cost of one model in units of its mean full fine-tuning run; empty if that is unknown."""
    spent = of(rows, COST)
    full = where(spent, (spent["kind"] == "train") & (spent["method"] == "full"))["value"].to_numpy(float)
    if not full.sum() > 0:
        return {}
    trained = where(spent, (spent["kind"] == "train") & (spent["method"] != "full"))
    groups = {method_name(str(method)): of_method["value"] for method, of_method in trained.groupby("method")}
    apet = where(trained, trained["method"] == "apet")["value"]
    if len(apet) > 1:
        groups[ALL_RUNS] = pd.Series([apet.sum()])
    predicted = where(rows, rows["kind"] == "predict")
    groups |= {label: of(predicted, quantity)["value"] for quantity, (label, _) in PREDICTIONS.items()}
    return {name: tuple(group.agg(["mean", "min", "max"]) / full.mean()) for name, group in groups.items() if len(group)}


def _looks(names: list[str]) -> dict[str, style.Look]:
    """Return the look of each series: runs are filled and joined, predictions hollow and dashed."""
    predictions = dict(PREDICTIONS.values())
    present = sorted(set(names), key=lambda name: (name in predictions, name == ALL_RUNS, name))
    markers = iter(style.MODEL_MARKERS)
    looks = {}
    for number, name in enumerate(present):
        colour, dashes = style.SERIES[number % len(style.SERIES)], style.DASHES[number % len(style.DASHES)]
        looks[name] = style.Look(colour, predictions.get(name) or next(markers), dashes, "none" if name in predictions else "full")
    return looks


def _panel(axes: Axes, costs: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    axes.axhline(1.0, color=style.GREY, linewidth=0.6, zorder=1)
    for name, look in looks.items():
        of_name = where(costs, costs["name"] == name).sort_values("parameters")
        mean, low, high = (of_name[column].to_numpy(float) for column in ("mean", "low", "high"))
        settings_ = look.line(linewidth=0.8, elinewidth=0.6, markersize=3.5)
        axes.errorbar(of_name["parameters"].to_numpy(float), mean, yerr=np.array([mean - low, high - mean]), **settings_)
    sizes = costs["parameters"].to_numpy(float)
    style.log_counts(axes.xaxis, sizes.min() / 1.6, sizes.max() * 1.6, most=4)
