"""Curvature and predictions of whole label words: exact rows, products and the Gram matrix agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.runs.evaluation_point import point
from analyses.runs.execute import run
from analyses.runs.matrices import gauss_newton_rows_of
from analyses.runs.run_inputs import Context, inputs
from analyses.specs import PredictSpec, SpectrumSpec
from analyses.store import Store
from apet.tasks.task_table import TASKS
from landscape import GaussNewton, gradient_spectrum, to_dense

MODELS = ["mini-t5-130k", "mini-bloom-120k", "mini-bert-120k"]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setitem(TASKS, "sst2", replace(TASKS["sst2"], words=("really great", "really terrible film"), scoring="whole"))


@pytest.mark.parametrize("model", MODELS)
def test_the_rows_of_the_gauss_newton_matrix_give_its_products(model, folder):
    spec = SpectrumSpec(model=model, task="sst2", k=15, batch=4, matrix="ggn")
    with point(spec, inputs(spec, folder), Context(Path("."), lambda *_: None)) as here:
        rows, matrix = gauss_newton_rows_of(here), to_dense(GaussNewton(here.objective, here.z)).double()
    assert rows.shape == (24, 15)  # n (C - 1)
    assert float((rows.T @ rows - matrix).norm()) < 1e-4 * float(matrix.norm()) != 0


@pytest.mark.parametrize("model", MODELS[1:])
def test_the_gram_matrix_predicts_the_loss_and_gradient_of_the_model(model, folder, tmp_path):
    spec = PredictSpec(model=model, task="sst2", examples=6, scope="layers:0 attention")
    store = Store(tmp_path)
    arrays = store.arrays(run(spec, store, folder))
    found = gradient_spectrum(arrays["gram"], arrays["logits"], arrays["labels"])
    at = SpectrumSpec(model=model, task="sst2", examples=6, scope=spec.scope, k=1, batch=6)
    size = next(int(row.value) for row in store.rows(store.run_ids()[0]) if row.quantity == "in_scope")
    at = replace(at, k=size)
    with point(at, inputs(at, folder), Context(tmp_path / "x", lambda *_: None)) as here:
        gradient = here.objective.gradient(here.z).double()
        loss = here.objective.loss(here.z)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert np.sum(found.projections) == pytest.approx(float(gradient @ gradient), rel=1e-3)
