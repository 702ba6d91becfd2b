"""Runs that count are whole; rows come back as they were; identities depend on what decides the numbers, and on nothing else."""

import math

import numpy as np
import pytest

from analyses.spec import Spec, spec_from
from analyses.store import Row, Store, frame
from apet.errors import UsageError

ROWS = [
    Row("m", 10, "t", "loss", 0.5, "r", split="train", k=3, stderr=0.1),
    Row("m", 10, "t", "k_star", math.nan, "r", note="censored: above"),
]


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path)
    store.commit("r", {"kind": "train"}, ROWS, {"z": np.arange(3.0)}, {"seconds": 1})
    return store


def test_rows_and_arrays_come_back_as_they_were(store):
    assert repr(store.rows("r")) == repr(ROWS)  # repr: NaN equals itself there
    assert np.array_equal(store.arrays("r")["z"], np.arange(3.0))
    assert store.run_ids() == ["r"]
    assert len(frame(store.rows("r"))) == 2


@pytest.mark.parametrize("name", ["rows.jsonl", "arrays.safetensors", "spec.json"])
def test_a_flipped_bit_undoes_that_run_only(store, name):
    store.commit("other", {"kind": "train"}, ROWS, {}, {})
    path = store.folder("r") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not store.done("r")
    assert store.run_ids() == ["other"]


def test_a_run_without_done_does_not_count(store):
    (store.folder("r") / "DONE").unlink()
    assert store.run_ids() == []


def test_timings_do_not_change_a_run(store):
    before = (store.folder("r") / "DONE").read_text()
    store.commit("r", {"kind": "train"}, ROWS, {"z": np.arange(3.0)}, {"seconds": 99})
    assert (store.folder("r") / "DONE").read_text() == before


def test_the_identity_ignores_what_a_kind_does_not_use():
    assert Spec(kind="predict", lr=0.1, steps=7).run_id("w", "d") == Spec(kind="predict").run_id("w", "d")
    assert Spec(method="full", k=5, position_seed=2).run_id("w", "d") == Spec(method="full").run_id("w", "d")
    assert Spec(k=5).run_id("w", "d") == Spec(k=5, lr=Spec(k=5).resolved().lr).run_id("w", "d")


@pytest.mark.parametrize(
    "change", [{"k": 6}, {"position_seed": 1}, {"train_seed": 1}, {"batch": 8}, {"task": "rotten_tomatoes"}, {"examples": 9}]
)
def test_the_identity_splits_on_what_decides_the_numbers(change):
    assert Spec(**{"k": 5, **change}).run_id("w", "d") != Spec(k=5).run_id("w", "d")


def test_the_identity_splits_on_weights_and_data():
    ids = {Spec(k=5).run_id(weights, data) for weights in "wv" for data in "de"}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": "x"}, "unknown field 'modle': did you mean model"),
        ({"k": "many"}, "'many' is not int or null"),
        ({"k": True}, "True is not int or null"),
        ({"kind": "trian"}, "unknown kind 'trian': did you mean train"),
        ({"lr": 0}, "must be positive"),
        ({"steps": 0}, "steps = 0 must be at least 1"),
    ],
)
def test_a_wrong_field_is_named(values, message):
    with pytest.raises(UsageError, match=message):
        spec_from(values)
