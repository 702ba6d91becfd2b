"""The figures of spectra: branches by sign, axes that tails and bars do not stretch, and spectra that are not pooled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from figures import FIGURES
from figures.rows import CannotDraw
from tests.figures.synthetic import MODELS, ONE, TWO, change, study


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
