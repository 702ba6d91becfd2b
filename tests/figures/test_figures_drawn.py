"""Properties of the drawn figures: their panels, and that all text is inside and apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from mpl_toolkits.mplot3d.axes3d import Axes3D

from figures import FIGURES
from figures.plots.grids import grids
from figures.rows import CannotDraw, tidy
from tests.figures.synthetic import MODELS, change, placements, quadratics, study

ONE = {"mini-t5-2m": MODELS["mini-t5-2m"]}
TWO = {name: MODELS[name] for name in ("mini-t5-240k", "mini-t5-6m")}
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
    """Every text that is drawn."""
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


def test_the_crossing_shows_every_run_and_the_line_through_its_zero():
    panel = FIGURES["crossing"](study(ONE)).axes[0]
    assert sum(np.size(line.get_xdata()) for line in panel.lines if line.get_linestyle() == "None") == 12
    assert [line.get_marker() for line in panel.lines].count("x") == 1
    fit = panel.lines[-1]
    x, y = np.log(np.asarray(fit.get_xdata(), float)), np.asarray(fit.get_ydata(), float)
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(0.41)
    assert np.interp(0, y, x) == pytest.approx(np.log(44))
    assert {text.get_text() for text in FIGURES["crossing"](study(TWO)).legends[0].get_texts()} >= {
        "robust line",
        "failed training, set aside",
    }


def test_a_far_run_does_not_flatten_those_at_the_crossing():
    rows = study(ONE)
    far = (rows["quantity"] == "gap") & (rows["x"] == 256)
    rows.loc[far, ["value", "status"]] = [9.0, "far"]
    panel = FIGURES["crossing"](rows).axes[0]
    assert panel.get_ylim()[1] < 1
    assert [line.get_marker() for line in panel.lines].count("^") == 1


def test_a_crossing_out_of_reach_has_an_arrow_and_no_line():
    panel = FIGURES["crossing"](study(ONE, censored=tuple(ONE))).axes[0]
    assert [line.get_marker() for line in panel.lines].count(">") == 1
    assert all(np.size(line.get_xdata()) != 2 or line.get_linestyle() == ":" for line in panel.lines)


def test_rows_without_gaps_have_no_crossing():
    with pytest.raises(CannotDraw, match="no gap"):
        FIGURES["crossing"](study(ONE).query("quantity != 'gap'"))


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


def test_negative_eigenvalues_are_a_branch_of_their_own():
    rows = change(study(ONE), "mini-t5-2m", "eigenvalue", matrix="hessian")
    last = (rows["quantity"] == "eigenvalue") & (rows["x"] >= 19)
    rows.loc[last, "value"] = [-0.4, -0.9]
    drawn = FIGURES["spectra"](rows)
    panel = drawn.axes[0]
    assert panel.get_yscale() == "log"
    positive, negative = (line for line in panel.lines if line.get_marker() == "o")
    assert len(np.asarray(positive.get_xdata())) == 18 and positive.get_markerfacecolor() != "white"
    np.testing.assert_allclose(np.asarray(negative.get_ydata(), float), [0.9, 0.4])
    np.testing.assert_allclose(np.asarray(negative.get_xdata(), float), [1, 2])
    assert negative.get_markerfacecolor() == "white"
    assert {"positive eigenvalues", "negative eigenvalues"} <= {text.get_text() for text in drawn.legends[0].get_texts()}


def test_an_interval_that_reaches_zero_ends_in_an_arrow_at_the_edge_of_a_log_axis():
    rows = study(TWO)
    trace = (rows["quantity"] == "trace") & (rows["model"] == "mini-t5-6m")
    rows.loc[trace, "stderr"] = 50.0
    panel = next(axes for axes in FIGURES["scale"](rows).axes if "trace" in axes.get_title(loc="left"))
    foot = panel.get_ylim()[0]
    arrows = [line for line in panel.lines if line.get_marker() == "v"]
    assert len(arrows) == 1
    assert foot < np.asarray(arrows[0].get_ydata(), float)[0] < 1.3 * foot
    assert all(np.nanmin(np.asarray(line.get_ydata(), float)) >= foot for line in panel.lines)


def test_tails_of_a_density_do_not_stretch_the_axis():
    rows = study(TWO)
    tail = (rows["quantity"] == "density") & (rows["x"] < 0)
    rows.loc[tail, "value"] = 1e-300
    low, high = FIGURES["spectra"](rows).axes[1].get_ylim()
    assert high / low < 1e9


def test_two_spectra_of_one_model_are_two_lines():
    rows = study(ONE)
    again = rows[(rows["matrix"] == "ggn") & (rows["series"] == "")].assign(run_id="other", k=512)
    one, two = (FIGURES["spectra"](r).axes[1].lines for r in (rows, pd.concat([rows, again])))
    assert len(two) == len(one) + 1


def test_a_family_of_one_model_has_no_figure_over_scale():
    with pytest.raises(CannotDraw, match="two models of one family"):
        FIGURES["scale"](study(ONE))


def test_spectra_at_an_optimum_are_no_part_of_the_figure_over_scale():
    there = study(TWO)
    elsewhere = there[there["matrix"] == "ggn"].assign(run_id="other", value=1e9, at_run="0123")
    one, two = (FIGURES["scale"](rows).axes[0].get_ylim() for rows in (there, pd.concat([there, elsewhere])))
    assert one == two


def test_the_heat_map_has_a_column_a_model_and_a_line_a_block():
    image = FIGURES["layers"](study()).axes[0].images[0].get_array()
    assert image is not None
    assert image.shape == (6, 4)
    np.testing.assert_allclose(image[:, 0] / image[0, 0], (MODELS["mini-t5-240k"] ** 0.25) ** np.array([0, 1, 2, 3, 4, 5]))


def test_twins_and_several_k_are_not_pooled():
    twins = study(TWO)
    twins["model"] += " (random init)"
    twins["run_id"] += "-twin"
    both = FIGURES["scale"](pd.concat([study(TWO), twins]))
    assert [text.get_text() for text in both.legends[0].get_texts()][:2] == ["mini-t5", "mini-t5 (random init)"]
    other = study(TWO).assign(k=99)
    with pytest.raises(CannotDraw, match="several k"):
        FIGURES["scale"](pd.concat([study(TWO), other]))


def test_a_quadratic_model_does_not_stretch_the_axes_and_a_flat_plane_is_drawn():
    rows = study(ONE)
    far = rows.assign(value=np.where(rows["quantity"] == "slice_quadratic", 1e6, rows["value"]))
    assert FIGURES["slices"](far).axes[0].get_ylim() == FIGURES["slices"](rows).axes[0].get_ylim()
    flat = rows.assign(value=np.where(rows["quantity"] == "slice_loss", 0.5, rows["value"]))
    for figure in ("contours", "relief"):
        FIGURES[figure](flat)


def test_a_loss_that_is_no_number_stays_white():
    rows = study(ONE)
    (grid,) = grids(tidy(rows), 2)
    assert int(np.isnan(grid.loss).sum()) == 1
    assert np.isnan(grid.loss[0, -1])
    nowhere = rows.assign(value=np.where(rows["quantity"] == "slice_loss", np.nan, rows["value"]))
    for figure in ("slices", "contours", "relief"):
        with pytest.raises(CannotDraw, match="no slice_loss"):
            FIGURES[figure](nowhere)


def test_slices_over_scale_share_axes_and_are_in_units_of_theta():
    panels = FIGURES["surfaces"](study()).axes[:4]
    assert {axes.get_xlim() for axes in panels} == {(-1.0, 1.0)}
    assert len({axes.get_ylim() for axes in panels}) == 1
    lines = STUDIES["lines only"].copy()
    high = (lines["model"] == "mini-t5-240k") & (lines["quantity"] == "slice_loss")
    lines.loc[high, "value"] += 5  # each panel's axis holds the losses of all
    for axes in FIGURES["surfaces"](lines).axes[:2]:
        assert axes.get_ylim()[0] < 0.7 and axes.get_ylim()[1] > 5.7
    with pytest.raises(CannotDraw, match="two sizes"):
        FIGURES["surfaces"](study(ONE))


def test_axes_of_a_trajectory_bear_the_explained_variance():
    (panel, *_) = FIGURES["contours"](study(ONE)).axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("PC 1 (71 % of variance)", "PC 2 (18 % of variance)")
    path = panel.lines[0]
    assert len(np.asarray(path.get_xdata())) == 8


def test_looks_of_a_trajectory_have_the_colour_of_their_own_loss_and_the_title_says_how_far_off_the_plane_they_are():
    (panel, bar) = FIGURES["contours"](study(ONE)).axes
    looks = next(part for part in panel.collections if isinstance(part, PathCollection))
    assert np.asarray(looks.get_array()) == pytest.approx([2.0 - 0.2 * i for i in range(8)])
    assert (looks.norm.vmin, looks.norm.vmax) == pytest.approx(bar.get_ylim())
    assert panel.get_title(loc="left").splitlines()[1] == "off the plane: ≤ 0.074"
