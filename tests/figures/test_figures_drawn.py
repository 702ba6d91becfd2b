"""Properties of the drawn figures: their panels, and that all text is inside and apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from mpl_toolkits.mplot3d.axes3d import Axes3D

from figures import FIGURES
from figures.rows import CannotDraw
from figures.venues import drawn_for, page_of
from tests.figures.synthetic import MODELS, ONE, TWO, change, findings, placements, quadratics, study, thresholds_of_metric

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
    "findings": pd.concat(
        [study(TWO), findings(TWO), thresholds_of_metric(TWO, censored=("mini-t5-240k",)), placements().assign(task="sst2")]
    ),
    "lines only": study(TWO).query("quantity == 'theta_norm' or (quantity.str.startswith('slice') and y.isna())"),
}
ALONE = ("quadratics", "placements", "claims", "positions")  # whose rows no ordinary study holds
FOUND = ("claims", "methods", "positions", "thresholds", "performance")  # that findings change
# Only the figures that a missing quantity changes are drawn for it.
CHANGED = {
    "four models": [name for name in FIGURES if name not in ALONE],
    "one model": [name for name in FIGURES if name not in ("scale", "surfaces", *ALONE)],
    "findings": list(FOUND),
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
    check_texts(FIGURES[figure](STUDIES[name]))


NARROW = [name if name in FOUND else pytest.param(name, marks=pytest.mark.long) for name in FIGURES]


@pytest.mark.parametrize("figure", NARROW)
def test_figures_fit_a_column_of_icml(figure: str):
    rows = pd.concat([STUDIES["findings"], quadratics()])
    page = page_of("icml", "half")
    with drawn_for(page):
        drawn = FIGURES[figure](rows)
        assert drawn.get_figwidth() == page.narrow == 3.25
        check_texts(drawn)


def check_texts(drawn: Figure) -> None:
    """Check that all text is inside the figure, apart and large enough, and that no panel is empty."""
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
    assert len(FIGURES["thresholds"](STUDIES["predictions only"].query("quantity != 'without_embeddings'")).axes) == 2
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


UP = "$\\uparrow$"


def test_censored_thresholds_are_arrows_and_break_the_line():
    panel = FIGURES["thresholds"](study(censored=("mini-t5-790k",))).axes[0]
    assert [line.get_marker() for line in panel.lines].count(UP) == 1
    assert any(np.isnan(np.asarray(line.get_ydata(), float)).any() for line in panel.lines)
    # The known bound, 256, lies within the axis: the arrow at the edge stands beyond it.
    assert panel.get_ylim()[1] > 256


def test_a_model_without_any_value_is_shown_by_arrows_alone():
    rows = change(study(TWO, censored=("mini-t5-240k",)), "mini-t5-240k", "k_star", low=np.nan)
    rows = change(rows, "mini-t5-240k", "k_gm", value=np.nan, low=np.nan, high=np.nan, status="above")
    panel = FIGURES["thresholds"](rows).axes[0]
    assert [line.get_marker() for line in panel.lines].count(UP) == 2


def test_a_censored_prediction_is_an_arrow_above_the_measured_k():
    rows = change(study(TWO), "mini-t5-240k", "k_m1", value=np.nan, low=np.nan, high=np.nan, status="above")
    panels = {axes.get_title(loc="left")[4:]: axes for axes in FIGURES["predictions"](rows).axes}
    arrows = [line for line in panels["path, m1"].lines if line.get_marker() == UP]
    assert [float(line.get_xdata()[0]) for line in arrows] == [96.0]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    assert not any(line.get_marker() == UP for line in panels["path, gm"].lines)


def test_thresholds_have_a_share_for_each_way_to_count_parameters():
    drawn = FIGURES["thresholds"](pd.concat([study(TWO), thresholds_of_metric(TWO)]))
    every, share, blocks = drawn.axes
    assert blocks.get_xlabel() == "N without embeddings"
    low = {axes: _series(axes, "v") for axes in drawn.axes}
    np.testing.assert_allclose(low[every][1], [0.3 * 96, 0.3 * 21])
    np.testing.assert_allclose(low[share][1], [0.3 * 96 / 241_248, 0.3 * 21 / 5_739_776])
    np.testing.assert_allclose(low[blocks][1] / low[share][1], 1 / 0.6, rtol=1e-4)
    np.testing.assert_allclose(low[blocks][0] / low[share][0], 0.6, rtol=1e-4)
    unknown = pd.concat([study(TWO).query("quantity != 'without_embeddings'"), thresholds_of_metric(TWO)])
    assert len(FIGURES["thresholds"](unknown).axes) == 2


def _series(axes: Axes, marker: str) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the points with a marker."""
    points = [(line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_marker() == marker]
    x, y = zip(*((float(np.asarray(a)[0]), float(np.asarray(b)[0])) for a, b in points), strict=True)
    return np.array(x), np.array(y)


def test_the_slope_over_scale_goes_through_the_middle_of_the_points():
    rows = pd.concat([study(), thresholds_of_metric(), findings()])
    panel = FIGURES["thresholds"](rows).axes[0]
    lines = [line for line in panel.lines if line.get_label() == "fitted slope, 95 % CI"]
    assert len(lines) == 2
    log_x, log_y = (np.log(np.asarray(values, float)) for values in (lines[0].get_xdata(), lines[0].get_ydata()))
    np.testing.assert_allclose(np.diff(log_y) / np.diff(log_x), -0.45)
    high = np.log([2.2 * k for k in (96, 61, 44, 21)])
    assert np.interp(np.log(list(MODELS.values())).mean(), log_x, log_y) == pytest.approx(high.mean())


def test_targets_of_one_kind_are_series_of_their_own():
    stricter = thresholds_of_metric(TWO).query("quantity == 'k_high'").assign(group="below-full:0.01")
    stricter[["value", "low", "high"]] *= 2
    stricter["run_id"] += "-again"
    rows = pd.concat([study(TWO), thresholds_of_metric(TWO), stricter])
    labels = [text.get_text() for text in FIGURES["thresholds"](rows).legends[0].get_texts()]
    assert {"high threshold, below-full:0.01", "high threshold, below-full:0.02", "low threshold"} <= set(labels)
    panel = FIGURES["performance"](rows).axes[0]
    assert [line.get_linestyle() for line in panel.lines].count("-.") == 2  # one line per target


def test_spreads_of_zero_are_open_arrows_and_the_least_end_of_an_interval_an_arrow():
    panel = FIGURES["positions"](findings(TWO, ("sst2",))).axes[0]
    arrows = [line for line in panel.lines if line.get_marker() == "v"]
    assert [line.get_markerfacecolor() == "white" for line in arrows] == [True, False, False]
    with pytest.raises(CannotDraw, match="no position_sd"):
        FIGURES["positions"](study(ONE))


def test_claims_have_a_panel_each_and_a_marker_per_verdict():
    drawn = FIGURES["claims"](findings(TWO, ("sst2",)))
    assert [axes.get_title(loc="left")[:6] for axes in drawn.axes] == ["(a) F1", "(b) F2", "(c) F3", "(d) me", "(e) pr"]
    (first, second, *_) = drawn.axes
    assert [text.get_text() for text in first.texts] == ["supported", "undecided"]
    assert [line.get_marker() for line in second.lines if line.get_marker() in "oXD"] == ["o", "X"]
    with pytest.raises(CannotDraw, match="no claim"):
        FIGURES["claims"](study(ONE))


def test_a_method_is_drawn_at_its_largest_k_and_its_gap_below():
    rows = pd.concat([study(TWO), findings(TWO, ("sst2",))])
    above, below = FIGURES["methods"](rows).axes
    runs = study(TWO).query("quantity == 'accuracy' and method == 'apet' and k == 256").groupby("parameters")["value"].mean()
    apet = next(line for line in above.lines if line.get_marker() == "o" and np.size(line.get_ydata()) == 2)
    np.testing.assert_allclose(np.asarray(apet.get_ydata(), float), runs)
    lora = next(line for line in below.lines if line.get_marker() == "s" and np.size(line.get_ydata()) == 2)
    expected = rows.query("quantity == 'method_gap' and method == 'lora'").sort_values("parameters")["value"]
    np.testing.assert_allclose(np.asarray(lora.get_ydata(), float), expected)


def test_a_task_with_a_chance_level_alone_has_no_panel_of_methods():
    rows = study(TWO)
    level = rows[rows["quantity"] == "chance"]
    level = level.assign(task="other", run_id="other " + level["run_id"])
    assert len(FIGURES["methods"](pd.concat([rows, level])).axes) == len(FIGURES["methods"](rows).axes)


def test_costs_are_in_units_of_a_full_fine_tuning_run():
    rows = study(TWO)
    apet = (rows["quantity"] == "example_gradients") & (rows["method"] == "apet")
    rows.loc[apet, "value"] *= 3
    predicted = rows[(rows["quantity"] == "example_gradients") & (rows["method"] == "full")].drop_duplicates("model")
    predicted = predicted.assign(kind="predict", method="", value=300 * 256 / 50, run_id=predicted["model"] + "-predicted")
    panel = FIGURES["cost"](pd.concat([rows, predicted])).axes[0]
    costs = {line.get_marker(): np.asarray(line.get_ydata(), float) for line in panel.lines if np.size(line.get_ydata()) == 2}
    np.testing.assert_allclose([costs["o"], costs["v"]], [[3, 3], [0.02, 0.02]])
    with pytest.raises(CannotDraw, match="full fine-tuning"):
        FIGURES["cost"](rows.query("method != 'full'"))


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
