"""Properties of the drawn figures: their panels, and that all text is inside and apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from mpl_toolkits.mplot3d.axes3d import Axes3D

from figures import FIGURES
from figures.rows import CannotDraw
from tests.figures.synthetic import MODELS, ONE, TWO, change, placements, quadratics, study

SIX = MODELS | {"org/mini-t5-9m": 9_000_000, "org/mini-t5-20m": 20_000_000}
STUDIES = {
    "four models": study(),
    "one model": study(ONE),
    "six models": study(SIX),
    "two tasks": pd.concat([study(TWO), study(TWO, task="rte")]),
    "censored": study(TWO, censored=("mini-t5-240k",)),
    "no accuracy": study(TWO).query("quantity != 'accuracy'"),
    "no thresholds": study(TWO).query("quantity not in ['k_star', 'k_gm', 'k_pred', 'predicted_loss']"),
    "predictions only": study(TWO).query("quantity != 'k_star'"),
    "quadratics": quadratics(),
    "placements": placements(),
    "density only": study(TWO).query("quantity not in ['eigenvalue', 'n_eff', 'top_alignment']"),
    "lines only": study(TWO).query("quantity == 'theta_norm' or (quantity.str.startswith('slice') and y.isna())"),
}
ALONE = ("quadratics", "placements")  # whose rows no ordinary study holds
# Only the figures that a missing quantity changes are drawn for it.
CHANGED = {
    "four models": [name for name in FIGURES if name not in ALONE],
    "one model": [name for name in FIGURES if name not in ("scale", "surfaces", *ALONE)],
    "six models": [name for name in FIGURES if name not in ALONE],
    "two tasks": [name for name in FIGURES if name not in ALONE],
    "quadratics": ["quadratics"],
    "placements": ["placements"],
    "censored": ["performance", "thresholds", "crossing"],
    "no accuracy": ["performance"],
    "no thresholds": ["performance"],
    "predictions only": ["performance", "thresholds"],
    "density only": ["spectra"],
    "lines only": ["slices", "surfaces"],
}
CASES = [
    pytest.param(name, figure, marks=pytest.mark.long) if name in ("four models", "six models") else (name, figure)
    for name in STUDIES
    for figure in CHANGED.get(name, FIGURES)
]


def texts(figure: Figure) -> list[Text]:
    """Return every text that is drawn."""
    found = [text for legend in figure.legends for text in legend.get_texts()]
    found += [part for part in figure.get_children() if isinstance(part, Text)]
    for axes in figure.axes:
        found += [axes.xaxis.label, axes.yaxis.label]
        found += [part for part in axes.get_children() if isinstance(part, Text)]
        for axis in (axes.xaxis, axes.yaxis, *([axes.zaxis] if isinstance(axes, Axes3D) else [])):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            found += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    return [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize(("name", "figure"), CASES)
def test_text_is_within_the_figure_and_apart_and_no_panel_is_empty(name: str, figure: str):
    drawn = FIGURES[figure](STUDIES[name])
    canvas = drawn.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    boxes = {text: text.get_window_extent(renderer) for text in texts(drawn)}
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y1 <= drawn.bbox.y1
        assert inside, f"{text.get_text()!r} leaves the figure"
        assert float(text.get_fontsize()) >= 7, f"{text.get_text()!r} is smaller than 7 pt"
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not a.overlaps(b), f"{one.get_text()!r} overlaps {other.get_text()!r}"
    assert all(axes.lines or axes.collections or axes.images for axes in drawn.axes)


@pytest.mark.parametrize("models", [ONE, SIX])
def test_performance_has_a_column_a_model_in_order_of_size(models: dict[str, int]):
    shuffled = study(models).sample(frac=1, random_state=0)
    titles = [axes.get_title() for axes in FIGURES["performance"](shuffled).axes]
    assert len(titles) == 2 * len(models)
    sizes = [int(title.split("\n")[1].split()[0].replace(",", "")) for title in titles if title]
    assert sizes == sorted(models.values())


def test_panels_without_rows_are_left_out():
    assert len(FIGURES["performance"](STUDIES["no accuracy"]).axes) == 2
    assert len(FIGURES["spectra"](STUDIES["density only"]).axes) == 2  # on two axes
    assert len(FIGURES["thresholds"](STUDIES["predictions only"]).axes) == 1
    rows = pd.concat([study(TWO), study(ONE, task="rte")])
    assert len(FIGURES["performance"](rows).axes) == 2 * 2 + 2


def test_subspaces_are_not_pooled():
    fastfood = study(TWO).query("method == 'apet' and quantity not in ['k_star', 'k_gm', 'k_pred']")
    fastfood = fastfood.assign(subspace="fastfood")
    fastfood["run_id"] += "-fastfood"
    panels = FIGURES["performance"](pd.concat([study(TWO), fastfood])).axes
    assert len(panels) == 2 * 2 * 2
    assert any("fastfood" in axes.get_ylabel() for axes in panels)


def test_full_fine_tuning_does_not_stretch_the_axis():
    for axes in FIGURES["performance"](study()).axes:
        assert axes.get_xlim()[1] < 10_000 < min(MODELS.values())


def test_censored_thresholds_are_arrows_and_break_the_line():
    panel = FIGURES["thresholds"](study(censored=("mini-t5-790k",))).axes[1]
    assert [line.get_marker() for line in panel.lines].count("^") == 1
    assert any(np.isnan(np.asarray(line.get_ydata(), float)).any() for line in panel.lines)
    # The known bound, 256, lies within the axis: the arrow at the edge stands beyond it.
    assert panel.get_ylim()[1] > 256


def test_a_pair_without_any_value_is_shown_by_arrows_alone():
    rows = change(study(TWO, censored=("mini-t5-240k",)), "mini-t5-240k", "k_star", low=np.nan)
    rows = change(rows, "mini-t5-240k", "k_gm", value=np.nan, low=np.nan, high=np.nan, status="above")
    predicted_alone = rows.query("model == 'mini-t5-240k' or quantity != 'k_star'")
    for few, panels in ((rows, 2), (predicted_alone, 1)):
        drawn = FIGURES["thresholds"](few).axes
        assert len(drawn) == panels
        assert [line.get_marker() for line in drawn[-1].lines].count("^") == 2


def test_two_targets_are_refused_rather_than_drawn_as_one():
    rows = study(TWO)
    again = rows[rows["quantity"] == "k_star"].assign(target=0.1)
    for figure in ("performance", "thresholds"):
        with pytest.raises(CannotDraw, match="select one"):
            FIGURES[figure](pd.concat([rows, again]))


def test_runs_repeated_in_the_rows_count_once():
    rows = study(ONE)
    once, twice = (FIGURES["performance"](r).axes[0].lines for r in (rows, pd.concat([rows, rows])))
    assert [np.size(line.get_xdata()) for line in once] == [np.size(line.get_xdata()) for line in twice]
