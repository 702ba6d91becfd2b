"""An exported run gives the scores that the run reported, in this program and in transformers alone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.results.exporting import export
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs, plain_scorer
from analyses.specs import Spec, TrainSpec
from analyses.store import Row, Store
from apet.errors import UsageError
from apet.methods import artefact

MODELS = {"t5": {"model": "mini-t5-130k"}, "bloom": {"model": "mini-bloom-120k"}, "bert": {"model": "mini-bert-120k", "readout": "words"}}


@pytest.fixture(scope="module", params=MODELS)
def tuned(request, folder, tmp_path_factory) -> tuple[Spec, Store, str, Path]:
    """Return a run of tuned entries, whose stored prior differs much from the prior of the tuned model, and its merged checkpoint."""
    root = tmp_path_factory.mktemp("tuned")
    spec = TrainSpec(**MODELS[request.param], task="sst2", k=200, scope="all", early_stop=False, steps=30, batch=8)
    name, store = run(spec, Store(root / "runs"), folder), Store(root / "runs")
    export(store.folder(name), "merged", root / "merged")
    return spec, store, name, root / "merged"


def at_the_end(spec: Spec, model: Path) -> Spec:
    return replace(spec, model=str(model), scope="", k=1, lr=1e-9, steps=1)


def reported(rows: list[Row], prefix: str = "") -> dict[tuple, float]:
    wanted = (prefix + "loss", prefix + "accuracy")
    return {(row.quantity.removeprefix(prefix), row.split): row.value for row in rows if row.quantity in wanted}


def test_a_merged_run_has_the_losses_and_accuracies_that_the_run_reported(tuned, folder, tmp_path):
    spec, store, name, merged = tuned
    again = Store(tmp_path)
    rows = again.rows(run(at_the_end(spec, merged), again, folder))
    before = reported(store.rows(name))
    assert len(before) == 4
    assert reported(rows, "initial_") == pytest.approx(before, abs=1e-5)
    assert [row.note for row in rows if row.quantity == "kept_prior"] == [
        f"the label words' prior was read from apet.json in {merged}, not measured on this model"
    ]


def test_the_prior_of_a_folder_is_said_and_is_a_part_of_the_identity(tuned, folder, tmp_path):
    spec, _, _, merged = tuned
    bare = shutil.copytree(merged, tmp_path / "bare")
    (bare / "apet.json").unlink()
    with_prior, without = (check(each, inputs(each, folder)) for each in (at_the_end(spec, merged), at_the_end(spec, bare)))
    assert "apet.json" in with_prior["prior"] and "prior" not in without
    ids = {at_the_end(spec, place).model: plan["run_id"] for place, plan in ((merged, with_prior), (bare, without))}
    (bare / "apet.json").write_text((merged / "apet.json").read_text())
    assert check(at_the_end(spec, bare), inputs(at_the_end(spec, bare), folder))["run_id"] != ids[str(bare)]
    about = json.loads((bare / "apet.json").read_text())
    (bare / "apet.json").write_text(json.dumps(about | {"task": "rotten_tomatoes"}))  # of another task: measured
    assert check(at_the_end(spec, bare), inputs(at_the_end(spec, bare), folder))["run_id"] == ids[str(bare)]
    for wrong in ("{", "[]", json.dumps(about | {"prior": [0.0]}), json.dumps(about | {"label_ids": about["label_ids"][::-1]})):
        (bare / "apet.json").write_text(wrong)
        with pytest.raises(UsageError, match=r"apet\.json"):
            run(at_the_end(spec, bare), Store(tmp_path / "runs"), folder)


def test_the_readme_of_a_merged_run_computes_its_logits_by_transformers_alone(tuned, folder, monkeypatch):
    spec, store, name, merged = tuned
    found = inputs(at_the_end(spec, merged), folder)
    scorer, examples = plain_scorer(spec, found.loaded), found.data.splits["validation"]
    scorer.prior = torch.as_tensor(store.arrays(name)["prior"])
    monkeypatch.chdir(merged)
    namespace: dict = {}
    exec((merged / "README.md").read_text().partition("```python\n")[2].partition("```")[0], namespace)
    with torch.no_grad():
        expected = scorer.logits(found.loaded.model, next(scorer.batches(examples, len(examples))))
    ours = torch.stack([namespace["logits"]({"sentence": example["sentence"]}) for example in examples])
    assert torch.allclose(ours, expected, atol=1e-5)
    assert expected.std() > 0.01


def test_an_artefact_holds_the_prior_and_the_hash_of_its_positions(tuned, tmp_path):
    spec, store, name, _ = tuned
    export(store.folder(name), "apet", tmp_path / "a")
    found, arrays = artefact.load(tmp_path / "a"), store.arrays(name)
    assert np.array_equal(np.float32(found.verbaliser.prior), arrays["prior"])
    assert (found.verbaliser.task, found.verbaliser.max_length) == (spec.task, spec.max_length)
    assert found.positions == arrays["positions"].tobytes().hex()


def test_a_run_that_kept_no_prior_is_not_exported(tuned, tmp_path):
    _, store, name, _ = tuned
    old = Store(tmp_path / "old")
    arrays = {key: value for key, value in store.arrays(name).items() if key != "prior"}
    old.commit(name, store.spec(name), store.rows(name), arrays, store.env(name))
    with pytest.raises(UsageError, match="lacks the label words' prior or the hash of its positions"):
        export(old.folder(name), "merged", tmp_path / "x")
    assert not os.path.exists(tmp_path / "x")
