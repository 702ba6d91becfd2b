"""Runs with other weights or other data are never pooled as seeds, nor used as points of the same subspace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from analyses.results.training_table import table
from analyses.runs import run_inputs as inputs
from analyses.runs.execute import run
from analyses.specs import KINDS, Spec, TrainSpec, as_kind
from analyses.store import Row, Store, frame
from analyses.thresholds.disambiguation import Names
from analyses.thresholds.measured import finished, thresholds
from analyses.thresholds.targets import Target
from apet.errors import UsageError
from apet.models.loading import load_model
from figures.report.summary_table import best_scores
from figures.rows import tidy


def forget() -> None:
    """Clear the caches of models and data, as in a new process, which did not read the files before they changed."""
    for cached in (inputs._model, inputs._data, inputs._of_data):
        cached.cache_clear()
    inputs._known.clear()


@pytest.fixture(scope="module")
def changing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Spec, Path, list[str]]:
    """Return (store, spec, data, ids) of three runs: with the first files, after a changed training label, and after changed weights."""
    root = tmp_path_factory.mktemp("changing")
    data, store = root / "data", Store(root / "store")
    shutil.copytree(folder, data)
    loaded = load_model("mini-t5-130k")
    model = loaded.model
    model.save_pretrained(root / "m")
    loaded.tokenizer.save_pretrained(root / "m")
    spec = TrainSpec(model=str(root / "m"), task="sst2", examples=8, steps=1, batch=8, early_stop=False, k=4)

    def made() -> str:
        forget()
        return run(spec, store, data)

    ids = [made()]
    lines = (data / "train.jsonl").read_text().splitlines()
    (data / "train.jsonl").write_text("\n".join([lines[0].replace('"label": 1', '"label": 0'), *lines[1:]]) + "\n")
    ids.append(made())
    with torch.no_grad():
        model.encoder.block[0].layer[0].SelfAttention.q.weight.mul_(3.0)
    model.save_pretrained(root / "m")
    return store, spec, data, [*ids, made()]


def test_a_table_has_a_line_for_each_data_set_and_each_state_of_the_weights(changing) -> None:
    store, spec, _, ids = changing
    lines = table(store)
    assert len(set(ids)) == len(lines) == 3
    assert {line["seeds"] for line in lines} == {1}
    first, turned, trained = (store.rows(ids[i])[0] for i in range(3))
    assert first.weights == turned.weights != trained.weights and first.data != turned.data == trained.data
    assert {(line["model"], line["settings"]) for line in lines} == {
        (f"{spec.model} [weights {row.weights}]", f"data {row.data}") for row in (first, turned, trained)
    }


def test_neither_thresholds_nor_reports_pool_them(changing) -> None:
    store, _, _, ids = changing
    runs = finished(store)
    assert len({run.setting for run in runs}) == 3
    rows = thresholds(store, runs, Target("loss", 1e-3))
    assert [row.value for row in rows if row.quantity == "runs"] == [1, 1, 1]
    assert len({(row.model, row.protocol) for row in rows}) == 3
    best = best_scores(tidy(frame([row for run in runs for row in run.rows])))
    scores = [store.rows(name) for name in ids]
    accuracies = [row.value for rows in scores for row in rows if (row.quantity, row.split) == ("accuracy", "validation")]
    assert sorted((each.score, each.n) for each in best) == sorted((accuracy, 1) for accuracy in accuracies)


def test_a_threshold_that_was_kept_under_the_plain_name_is_not_taken_for_a_named_one(changing, tmp_path: Path) -> None:
    store, spec, _, ids = changing
    copy = Store(tmp_path)
    for name in ids[:1]:
        shutil.copytree(store.folder(name), copy.folder(name))
    assert {row.model for row in thresholds(copy, finished(copy), Target("loss", 1e-3))} == {spec.model}
    for name in ids[1:]:
        shutil.copytree(store.folder(name), copy.folder(name))
    assert spec.model not in {row.model for row in thresholds(copy, finished(copy), Target("loss", 1e-3))}


def of_kind(spec: Spec, kind: str, **fields) -> Spec:
    """Return the spec of another kind with these fields, without the fields that this kind does not use."""
    return as_kind(spec, KINDS[kind], **fields)


@pytest.mark.parametrize(("which", "message"), [(0, "but this model has weights"), (2, None)])
@pytest.mark.parametrize("kind", ["spectrum", "slice"])
def test_where_a_run_ended_on_other_weights_is_no_point_of_this_model(kind: str, which: int, message: str | None, changing) -> None:
    store, spec, data, ids = changing
    forget()
    at = of_kind(spec, kind=kind, at=ids[which], **({"points": 3} if kind == "slice" else {"matrix": "ggn"}))
    if message is None:
        assert store.done(run(at, store, data))
    else:
        with pytest.raises(UsageError, match=message):
            run(at, store, data)


def test_a_run_on_other_data_is_refused_as_a_point_and_as_an_end_of_a_line(changing, folder: Path) -> None:
    store, spec, data, ids = changing
    forget()
    with pytest.raises(UsageError, match=r"used sst2 data \w{8}, but the present data are \w{8}"):
        run(of_kind(spec, kind="spectrum", at=ids[2], matrix="ggn"), store, folder)
    line = of_kind(spec, kind="slice", directions="optima", points=3, at=ids[2], to=ids[0])
    with pytest.raises(UsageError, match=f"{ids[0]} tuned"):
        run(line, store, data)


def test_a_test_split_alone_makes_no_other_data(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    (tmp_path / "data" / "test.jsonl").write_text("\n".join((folder / "validation.jsonl").read_text().splitlines()[:4]))
    without, also = (inputs.task_data("sst2", tmp_path / "data", test) for test in (False, True))
    assert without.fingerprint == without.fingerprint_without_test == also.fingerprint_without_test != also.fingerprint


def columns(weights: str = "", data: str = "", model: str = "m") -> dict:
    return vars(Row(model, 1, "t", "loss", 1.0, protocol="8 examples", weights=weights, data=data))


@pytest.mark.parametrize(
    ("specs", "weights", "named"),
    [
        (({}, {}), ("a", "a"), False),
        (({}, {}), ("a", "b"), True),
        (({}, {}), ("a", ""), False),  # not known, as in rows that were kept before there were digests
        (({}, {"weights": "bfloat16"}), ("a", "b"), False),
        (({}, {"weights": "bfloat16"}, {"weights": "bfloat16"}), ("a", "b", "c"), True),
        (({"random_init": True, "train_seed": 0}, {"random_init": True, "train_seed": 1}), ("a", "b"), False),
        (({"random_init": True, "train_seed": 0}, {"random_init": True, "train_seed": 0}), ("a", "b"), True),
    ],
)
def test_a_model_is_named_by_its_weights_only_where_they_changed(specs, weights, named: bool) -> None:
    rows = [columns(each) for each in weights]
    names = Names.of(zip(specs, rows, strict=True))
    assert [names.model(row) for row in rows] == [f"m [weights {each}]" if named and each else "m" for each in weights]


def test_data_are_named_by_task_whatever_the_model() -> None:
    rows = [columns(data="d", model="m"), columns(data="e", model="n")]
    assert [Names.of(({}, row) for row in rows).protocol(row) for row in rows] == ["8 examples, data d", "8 examples, data e"]
    assert Names.of([({}, rows[0])] * 2).protocol(rows[0]) == "8 examples"
