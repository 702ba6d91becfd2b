"""The figures of slices: axes, losses that are not numbers, and the recorded states of a trajectory."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from figures import FIGURES
from figures.plots.grids import grids
from figures.rows import CannotDraw, tidy
from tests.figures.synthetic import ONE, TWO, study


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
    lines = study(TWO).query("quantity == 'theta_norm' or (quantity.str.startswith('slice') and y.isna())").copy()
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
    assert panel.get_title(loc="left").splitlines()[1] == "Δloss ≤ 0.074"
