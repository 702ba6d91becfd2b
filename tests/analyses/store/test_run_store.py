"""Only complete runs count; rows are read as they were written; run ids depend only on fields that determine the numbers."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from analyses.specs import PredictSpec, TrainSpec, spec_from, trimmed
from analyses.store import Row, Store, frame
from apet.errors import UsageError
from figures.plots.grids import grids
from figures.rows import tidy

ROWS = [
    Row("m", 10, "t", "loss", 0.5, "r", split="train", k=3, stderr=0.1),
    Row("m", 10, "t", "k_star", math.nan, "r", status="above"),
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


def test_rows_that_were_written_before_there_was_a_column_lack_it(store):
    """Read rows of a curve from before the column y existed: y is NaN, and a figure draws the rows as a line."""
    on_a_line = [replace(ROWS[0], quantity="slice_loss", x=x) for x in (-1.0, 0.0, 1.0)]
    store.commit("old", {"kind": "slice"}, on_a_line, {}, {})
    folder = store.folder("old")
    written = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    content = "".join(json.dumps({name: value for name, value in row.items() if name != "y"}) + "\n" for row in written)
    assert '"y"' not in content
    (folder / "rows.jsonl").write_text(content)
    about = json.loads((folder / "DONE").read_text())
    about["sums"]["rows.jsonl"] = hashlib.sha256(content.encode()).hexdigest()
    (folder / "DONE").write_text(json.dumps(about))
    (store.root / "journal.jsonl").unlink()
    again = Store(store.root)
    assert again.done("old")
    assert repr(again.rows("old")) == repr(on_a_line)
    assert dict(again.summaries())["old"].scores == {}
    table = frame(again.rows("old"))
    assert table["y"].isna().all()
    (grid,) = grids(tidy(table), 1)
    assert grid.y is None
    assert grid.x.tolist() == [-1, 0, 1]


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


def test_what_is_shared_with_other_runs_and_not_used_has_no_part_in_the_identity():
    for spec, shared in ((PredictSpec(), {"steps": 7, "probes": 3}), (TrainSpec(method="full"), {"k": 5, "position_seed": 2})):
        wide = replace(spec, **shared)
        assert trimmed(wide, shared).run_id("w", "d") == spec.run_id("w", "d")
        with pytest.raises(UsageError, match="has no effect on this"):
            wide.run_id("w", "d")
    assert spec_from({"kind": "predict", "lr": 0.1}, shared={"lr"}) == PredictSpec()
    with pytest.raises(UsageError, match=r"lr = 0.1 has no effect on predictions: it is for training runs"):
        spec_from({"kind": "predict", "lr": 0.1})
    assert TrainSpec(k=5).run_id("w", "d") == TrainSpec(k=5, lr=TrainSpec(k=5).resolved().lr).run_id("w", "d")


@pytest.mark.parametrize(
    "change", [{"k": 6}, {"position_seed": 1}, {"train_seed": 1}, {"batch": 8}, {"task": "rotten_tomatoes"}, {"examples": 9}]
)
def test_the_identity_splits_on_what_decides_the_numbers(change):
    assert spec_from({"k": 5, **change}).run_id("w", "d") != TrainSpec(k=5).run_id("w", "d")


def test_the_identity_splits_on_weights_and_data():
    ids = {TrainSpec(k=5).run_id(weights, data) for weights in "wv" for data in "de"}
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


def test_results_of_an_earlier_version_are_refused_in_one_line(store):
    about = json.loads((store.folder("r") / "DONE").read_text())
    del about["format"]
    (store.folder("r") / "DONE").write_text(json.dumps({**about, "schema": 6}))
    for use in (lambda old: old.run_ids(), lambda old: old.claim("new").__enter__()):
        with pytest.raises(UsageError, match="holds runs of an earlier version of this program"):
            use(Store(store.root))
