"""One record in a table adds a matrix or a kind of directions, and a table refuses contradictory records."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_cases import spec_of

from analyses.runs.execute import run
from analyses.runs.matrices import MATRICES, Matrix
from analyses.runs.record_tables import by_name
from analyses.runs.slice_directions import DIRECTIONS, Direction, Frame
from analyses.store.run_store import Store
from landscape.curvature.operators import DenseOperator


def twice_identity(objective, z, *, memory) -> DenseOperator:
    return DenseOperator(2 * torch.eye(len(z), dtype=z.dtype))


def first_coordinates(spec, point, gradient, context) -> Frame:
    return Frame(torch.eye(len(point.z), dtype=point.z.dtype)[:, : spec.dims], (0.5,) * spec.dims)


@pytest.mark.parametrize("algorithm", ["exact", "lanczos"])
def test_a_matrix_that_is_added_to_the_table_has_a_spectrum(algorithm, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(MATRICES, "toy", Matrix("toy", "twice the identity", "-.", twice_identity))
    store = Store(tmp_path)
    rows = store.rows(run(spec_of(kind="spectrum", k=12, matrix="toy", algorithm=algorithm), store, folder))
    trace = next(row for row in rows if row.quantity == "trace")
    assert trace.value == pytest.approx(24, abs=3 * trace.stderr + 1e-4)
    values = [row.value for row in rows if row.quantity == "eigenvalue"]
    assert values
    assert values == pytest.approx([2.0] * len(values))


def test_directions_that_are_added_to_the_table_can_be_sliced_along(folder, tmp_path, monkeypatch):
    toy = Direction("toy", "first coordinates", "the first coordinates of z", first_coordinates)
    monkeypatch.setitem(DIRECTIONS, "toy", toy)
    store = Store(tmp_path)
    name = run(spec_of(kind="slice", k=12, points=3, dims=2, directions="toy"), store, folder)
    np.testing.assert_array_equal(store.arrays(name)["directions"], np.eye(12)[:, :2])
    assert store.arrays(name)["axis_1"].tolist() == [-0.5, 0.0, 0.5]
    assert any(row.quantity == "slice_loss" and math.isfinite(row.value) for row in store.rows(name))


def test_a_table_refuses_records_that_share_a_name_or_have_an_empty_text():
    hessian = MATRICES["hessian"]
    with pytest.raises(ValueError, match="two records have the name 'hessian'"):
        by_name([hessian, hessian])
    with pytest.raises(ValueError, match="two records have the dashes '--'"):
        by_name([hessian, replace(hessian, name="other")], unique=("dashes",))
    with pytest.raises(ValueError, match="Matrix 'hessian' has an empty words"):
        by_name([replace(hessian, words="")])
