"""Runs in projected subspaces: training, resuming, other methods, curvature, and separate thresholds per subspace."""

from dataclasses import replace

import numpy as np
import pytest
from study_cases import spec_of

from analyses.results.exporting import export
from analyses.runs.evaluation_point import fields_at
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs
from analyses.specs import spec_from
from analyses.store import Row, Store
from analyses.thresholds.measured import finished, thresholds
from analyses.thresholds.targets import Target
from apet.errors import UsageError

SMALL = spec_of(kind="train", method="apet", k=20, steps=20, batch=8, subspace="fastfood").resolved()


def row_of(store: Store, name: str, quantity: str, split: str | None = None) -> Row:
    return next(row for row in store.rows(name) if (row.quantity, row.split) == (quantity, split))


@pytest.mark.parametrize("subspace", ["fastfood", "said", "countsketch"])
def test_a_run_in_a_subspace_learns_and_says_which_it_was(subspace, folder, tmp_path):
    store = Store(tmp_path)
    name = run(replace(SMALL, subspace=subspace), store, folder)
    loss = row_of(store, name, "loss", "train")
    assert loss.value < row_of(store, name, "initial_loss", "train").value
    assert (loss.subspace, loss.k, loss.position_seed, loss.placement) == (subspace, 20, 0, "add")
    assert store.arrays(name)["z"].shape == (20,)
    with pytest.raises(UsageError, match=f"subspace {subspace}"):
        export(store.folder(name), "merged", tmp_path / "out")


def test_the_scope_holds(folder, tmp_path):
    whole, norms = (check(replace(SMALL, scope=scope), inputs(SMALL, folder))["in_scope"] for scope in ("", "norms"))
    assert norms < whole
    with pytest.raises(UsageError, match=f"k = {norms + 1} is over the {norms}"):
        check(replace(SMALL, scope="norms", k=norms + 1), inputs(SMALL, folder))
    store = Store(tmp_path)
    assert row_of(store, run(replace(SMALL, scope="norms"), store, folder), "loss", "train").placement == "add norms"


@pytest.mark.parametrize("method", ["lora", "prompt", "bitfit"])
def test_the_dimension_inside_a_method_is_of_its_own_parameters(method, folder, tmp_path):
    store, found = Store(tmp_path), inputs(SMALL, folder)
    plain = check(replace(SMALL, method=method, subspace="coordinates", k=None), found)
    inside = replace(SMALL, method=method)
    assert check(inside, found)["in_scope"] < plain["in_scope"]
    name = run(inside, store, folder)
    loss = row_of(store, name, "loss", "train")
    assert (loss.method, loss.subspace, loss.k) == (method, "fastfood", 20)
    assert np.abs(store.arrays(name)["z"]).min() > 0


def test_a_subspace_needs_its_size_and_splits_the_identity():
    with pytest.raises(UsageError, match="subspace fastfood needs either the number of tuned parameters"):
        replace(SMALL, method="lora", k=None).resolved()
    with pytest.raises(UsageError, match="did you mean fastfood"):
        replace(SMALL, subspace="fastfod")
    ids = [replace(SMALL, **changed).run_id("w", "d") for changed in ({}, {"subspace": "said"}, {"position_seed": 1})]
    assert len(set(ids)) == 3
    with pytest.raises(UsageError, match="order = layer has no effect .* it is for tuned entries"):
        replace(SMALL, order="layer").resolved()


@pytest.mark.long
def test_curvature_in_a_subspace_by_every_route_and_where_a_run_ended(folder, tmp_path):
    store = Store(tmp_path)
    ended = run(replace(SMALL, k=12), store, folder)
    fields = fields_at(store, ended)  # some are fields of slices only, such as `weights`
    spec = spec_from({"kind": "spectrum", "at": ended, **fields}, shared=fields)
    by_lanczos = replace(spec, algorithm="lanczos", lanczos_steps=12, probes=2)
    exact, estimated = (run(each, store, folder) for each in (replace(spec, algorithm="exact"), by_lanczos))
    top = [[row.value for row in store.rows(name) if row.quantity == "eigenvalue"][:5] for name in (exact, estimated)]
    np.testing.assert_allclose(top[1], top[0], rtol=1e-3, atol=1e-5 * abs(top[0][0]))
    at = row_of(store, exact, "loss", "train")
    assert at.subspace == "fastfood"
    assert at.value == pytest.approx(row_of(store, ended, "loss", "train").value, rel=1e-4)
    gauss_newton = run(replace(spec, matrix="ggn"), store, folder)
    assert row_of(store, gauss_newton, "negative_mass", "train").value < 1e-6
    with pytest.raises(UsageError, match="not in the same subspace"):
        run(replace(spec, subspace="countsketch"), store, folder)


@pytest.mark.long
def test_thresholds_are_of_one_subspace_each(folder, tmp_path):
    store = Store(tmp_path)
    run(replace(SMALL, method="full", subspace="coordinates", k=None, lr=None).resolved(), store, folder)
    for subspace in ("fastfood", "coordinates"):  # a few steps: the measured values do not matter
        for k in (4, 8, 16, 32):
            run(replace(SMALL, subspace=subspace, k=k, lr=None, steps=2).resolved(), store, folder)
    rows = thresholds(store, finished(store), Target("fraction", 0.3))
    measured = {row.subspace: row.value for row in rows if row.quantity == "runs"}
    assert measured == {"fastfood": 4, "coordinates": 4}
