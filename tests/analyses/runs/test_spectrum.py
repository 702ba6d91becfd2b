"""Spectra: all algorithms agree, a stopped spectrum resumes, and unreliable curvature is refused."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from study_cases import spec_of

from analyses.runs.checkpointed_operator import Recorded
from analyses.runs.evaluation_point import fields_at, trajectory_steps
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs
from analyses.runs.spectrum import route
from analyses.specs import Spec, spec_dict, spec_from
from analyses.store.run_store import Store
from apet.errors import ApetError, UsageError
from landscape import DenseOperator, eigenpairs, slq

ROOT = Path(__file__).parent.parent.parent.parent
SMALL = spec_of(kind="spectrum", k=40, lanczos_steps=40, probes=6)


def rows_of(spec: Spec, folder, root) -> dict:
    """Return {(quantity, x, "series: group" of a block): row}."""
    store = Store(root)
    rows = store.rows(run(spec, store, folder))
    return {(row.quantity, None if math.isnan(row.x) else row.x, f"{row.series}: {row.group}" if row.group else ""): row for row in rows}


def single(rows: dict, quantity: str) -> float:
    return next(row.value for (name, x, _), row in rows.items() if name == quantity and x is None)


def curve(rows: dict, quantity: str) -> list[float]:
    return [row.value for (name, x, _), row in rows.items() if name == quantity and x is not None]


@pytest.mark.parametrize("matrix", ["ggn", *(pytest.param(matrix, marks=pytest.mark.long) for matrix in ("hessian", "fisher"))])
def test_lanczos_finds_what_is_exact(matrix, folder, tmp_path):
    exact = rows_of(spec_of(kind="spectrum", k=40, matrix=matrix, algorithm="exact"), folder, tmp_path)
    found = rows_of(replace(SMALL, matrix=matrix, algorithm="lanczos"), folder, tmp_path)
    largest = max(map(abs, curve(exact, "eigenvalue")))
    np.testing.assert_allclose(curve(found, "eigenvalue")[:8], curve(exact, "eigenvalue")[:8], rtol=1e-3, atol=1e-5 * largest)
    for name in ("loss", "gradient_norm", "trace", "squared_frobenius", "participation_ratio", "effective_rank"):
        assert single(found, name) == pytest.approx(single(exact, name), rel=0.05)
    blocks = {key[2]: row.value for key, row in exact.items() if key[0] == "block_trace"}
    for by in ("layer", "kind"):
        assert sum(value for label, value in blocks.items() if label.startswith(by)) == pytest.approx(single(exact, "trace"), rel=1e-6)
    top = {key[2]: row.value for key, row in found.items() if key[0] == "block_eigenvalue"}
    assert top
    for label, value in top.items():
        assert value == pytest.approx(exact["block_eigenvalue", *next(key[1:] for key in exact if key[2] == label)].value, rel=1e-3)


def test_the_exact_gauss_newton_spectrum_is_that_of_its_columns(folder, tmp_path, monkeypatch):
    rows = rows_of(replace(SMALL, matrix="ggn"), folder, tmp_path / "rows")
    monkeypatch.setattr("analyses.runs.spectrum.route", lambda *_: ("columns", 40))
    columns = rows_of(replace(SMALL, matrix="ggn"), folder, tmp_path / "columns")
    for name in ("trace", "squared_frobenius"):
        assert single(rows, name) == pytest.approx(single(columns, name), rel=1e-5)
    assert curve(rows, "alignment")[:5] == pytest.approx(curve(columns, "alignment")[:5], rel=1e-3)


@pytest.mark.long
def test_sampled_labels_come_with_their_error(folder, tmp_path):
    exact = rows_of(replace(SMALL, matrix="ggn"), folder, tmp_path)
    drawn = rows_of(replace(SMALL, matrix="ggn", samples=16), folder, tmp_path)
    top, error = drawn["eigenvalue", 1.0, ""].value, drawn["eigenvalue", 1.0, ""].stderr
    assert error > 0
    assert abs(top - exact["eigenvalue", 1.0, ""].value) < 4 * error
    assert drawn["trace", None, ""].stderr > 0
    assert math.isnan(drawn["effective_rank", None, ""].stderr)
    with pytest.raises(UsageError, match="samples = 1 must be at least 2"):
        replace(SMALL, matrix="ggn", samples=1).resolved()


def test_the_cheapest_route_is_taken_and_said_beforehand(folder):
    assert route(replace(SMALL, matrix="ggn"), 10**6) == ("rows", 1)
    assert route(SMALL, 40) == ("columns", 40)
    assert route(SMALL, 10**6)[0] == "lanczos"
    assert route(replace(SMALL, matrix="ggn", task="xsum"), 10**6)[0] == "lanczos"
    planned = check(SMALL, inputs(SMALL, folder))
    assert (planned["algorithm"], planned["products"]) == ("columns", 40)


class Dies(RuntimeError):
    pass


@pytest.mark.long
def test_a_spectrum_that_was_stopped_goes_on_and_ends_bitwise_the_same(folder, tmp_path, monkeypatch):
    whole, part = Store(tmp_path / "whole"), Store(tmp_path / "part")
    spec = replace(SMALL, algorithm="lanczos", lanczos_steps=10)
    name = run(spec, whole, folder)
    honest, products, kills = Recorded.matmat, [], [12]

    def counted(self: Recorded, vectors: torch.Tensor) -> torch.Tensor:
        if kills and len(products) == kills[0]:
            kills.clear()
            raise Dies
        before = self.made
        found = honest(self, vectors)
        products.append(self.made - before)
        return found

    monkeypatch.setattr(Recorded, "matmat", counted)
    with pytest.raises(Dies):
        run(spec, part, folder)
    made = sum(products)
    products.clear()
    run(spec, part, folder)
    assert sum(products[:12]) == 0  # saved products are not computed again
    assert made > 0
    assert (part.folder(name) / "rows.jsonl").read_bytes() == (whole.folder(name) / "rows.jsonl").read_bytes()
    assert not list(part.folder(name).glob("checkpoint*"))


def test_kept_products_are_those_of_the_operator_and_others_are_dropped(tmp_path):
    def start(name: str = "", scale: float = 1.0) -> Recorded:
        return Recorded(_Counted(scale * torch.diag(torch.arange(1.0, 31))), tmp_path, name, seconds=0)

    with start() as first:
        expected = slq(first, 3, 10)
    assert first.made == 30
    with start() as again:
        np.testing.assert_array_equal(slq(again, 3, 10).nodes, expected.nodes)
        assert again.made == 0
        eigenpairs(again, 1, 5, rounds=1)
        assert again.made == 6
    with start() as third:  # both parts are saved
        slq(third, 3, 10)
        eigenpairs(third, 1, 5, rounds=1)
        assert third.made == 0
    for name in ("other weights", ""):  # products saved under another name are not used and are deleted
        with start(name) as other:
            slq(other, 3, 10)
            assert other.made == 30


def test_rounding_of_another_start_does_not_drop_what_was_kept_and_other_vectors_do(tmp_path):
    """Vectors of two starts on a GPU differ only in their last bits; vectors of a changed run differ more."""

    def products(vectors: torch.Tensor) -> Recorded:
        with Recorded(_Counted(torch.diag(torch.arange(1.0, 31))), tmp_path, seconds=0) as operator:
            for vector in vectors:
                operator.matvec(vector)
        return operator

    random = torch.Generator().manual_seed(0)
    vectors, noise = (torch.randn(5, 30, generator=random) for _ in range(2))
    assert products(vectors).made == 5
    assert products(vectors * (1 + 1e-6 * noise)).made == 0
    vectors[3] += 0.1 * noise[3]
    assert products(vectors).made == 2


def test_a_damaged_file_costs_what_comes_after_it_once(tmp_path):
    def products(count: int) -> int:
        with Recorded(_Counted(torch.diag(torch.arange(1.0, 31))), tmp_path, seconds=0) as operator:
            for i in range(count):
                operator.matvec(torch.eye(30)[i])
        return operator.made

    assert products(6) == 6
    path = tmp_path / "checkpoint-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert products(6) == 4
    assert products(6) == 0
    assert products(2) == 0
    with Recorded(_Counted(torch.eye(30)), tmp_path, seconds=0) as operator:  # another order from the third vector on
        for i in (0, 1, 9):
            operator.matvec(torch.eye(30)[i])
        assert operator.made == 1
    assert products(2) == 0


class _Counted(DenseOperator):
    def release(self) -> None:
        pass


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.curvature.objective.Objective.loss", lambda self, z: value)
    with pytest.raises(ApetError, match=f"the loss at this point is {value}"):
        run(SMALL, Store(tmp_path), folder)


def test_dropout_left_on_is_refused(folder, tmp_path):
    model = inputs(SMALL, folder).loaded.model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    model.train()
    try:
        with pytest.raises(ApetError, match="turn dropout off"):
            run(SMALL, Store(tmp_path), folder)
    finally:
        model.eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


def test_a_run_on_other_weights_or_other_entries_is_refused(folder, tmp_path):
    store = Store(tmp_path)
    random = run(spec_of(k=40, steps=5, train_seed=3), store, folder)
    with pytest.raises(UsageError, match="has train_seed 3, but this spectrum has 0"):
        run(replace(SMALL, at=random), store, folder)
    at = spec_from({**spec_dict(SMALL), **fields_at(store, random), "at": random}, shared={"weights"})
    assert single(rows_of(at, folder, tmp_path), "loss") == pytest.approx(store.arrays(random)["history"][-1, 1], rel=1e-5)
    scored = run(spec_of(k=40, steps=5, order="gradient"), store, folder)
    with pytest.raises(UsageError, match="ranked its entries by gradient on other examples"):
        run(replace(SMALL, at=scored, order="gradient", examples=4), store, folder)
    full = run(spec_of(method="full", steps=5), store, folder)
    with pytest.raises(UsageError, match="train run of method full"):
        fields_at(store, full)
    curved = run(replace(SMALL, algorithm="exact", lanczos_steps=40, probes=4, k=3), store, folder)
    with pytest.raises(UsageError, match=f"{curved} is a spectrum run: only training runs of method apet"):
        fields_at(store, curved)
    with pytest.raises(UsageError, match=f"{curved} is not an apet run with label words"):
        run(spec_of(kind="slice", k=40, directions="optima", points=3, to=curved), store, folder)


def test_a_single_coordinate_has_one_eigenvalue(folder, tmp_path):
    for matrix in ("hessian", "ggn", "fisher"):
        rows = rows_of(replace(SMALL, k=1, matrix=matrix), folder, tmp_path)
        assert curve(rows, "eigenvalue") == pytest.approx([single(rows, "trace")])


@pytest.mark.long
def test_spectra_along_a_trajectory_begin_and_end_where_the_run_did(folder, tmp_path):
    store = Store(tmp_path)
    tuned = run(spec_of(k=40, steps=45, trajectory=True), store, folder)
    steps = trajectory_steps(store, tuned)
    assert steps == [0, 20, 40, 45]
    at = replace(SMALL, at=tuned)
    losses = {step: single(rows_of(replace(at, at_step=step), folder, tmp_path), "loss") for step in steps}
    history = store.arrays(tuned)["history"]
    assert list(losses.values()) == pytest.approx(history[:, 1], rel=1e-5)
    assert single(rows_of(at, folder, tmp_path), "loss") == losses[45]
    assert single(rows_of(SMALL, folder, tmp_path), "loss") == losses[0]
    with pytest.raises(UsageError, match=r"at_step = 7 is not a recorded step of .*: recorded steps are 0, 20, 40, 45"):
        run(replace(at, at_step=7), store, folder)


@pytest.mark.long
@pytest.mark.parametrize("how", [("--algorithm", "lanczos", "--lanczos-steps", "8"), ("--matrix", "ggn")])
def test_two_processes_find_what_one_does(how, folder, tmp_path):
    options = [
        "cli.py", "spectrum", "--model", "mini-t5-240k", "--data", folder, "--k", "30", "--examples", "18", "--batch", "4",
        "--device", "cpu", *how,
    ]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for name, start in (("one", [sys.executable]), ("two", launch)):
        command = [*start, *options, "--out", tmp_path / name]
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True, timeout=300, capture_output=True)
        store = Store(tmp_path / name / "spectrum")
        (run_id,) = store.run_ids()
        found.append([row.value for row in store.rows(run_id) if row.quantity in ("eigenvalue", "loss", "gradient_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
