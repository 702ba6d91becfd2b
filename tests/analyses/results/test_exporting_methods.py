"""A run of any method with its final values is exported, and the exported model has the losses that the run reported."""

import pytest
import torch
from peft import PeftModel
from study_cases import BASE

from analyses.results.exporting import export
from analyses.runs.execute import run
from analyses.runs.run_inputs import inputs, plain_scorer
from analyses.specs import TrainSpec
from analyses.store import Store
from apet.errors import UsageError
from apet.models import load_model
from apet.scoring import evaluate

TRAIN = {**BASE, "random_init": False, "steps": 6, "keep_end": True, "lr": 0.02}
RUNS = {
    "lora": {"model": "mini-t5-130k", "method": "lora", "method_option": "r=2"},
    "lora k": {"model": "mini-bloom-120k", "method": "lora", "k": 900},
    "lora head": {"model": "mini-bert-120k", "method": "lora"},
    "full head": {"model": "mini-bert-120k", "method": "full"},
    "bitfit": {"model": "mini-bloom-120k", "method": "bitfit"},
    "bitfit t5": {"model": "mini-t5-130k", "method": "bitfit"},
    "ia3": {"model": "mini-bloom-120k", "method": "peft:ia3"},
    "prompt": {"model": "mini-bloom-120k", "method": "prompt", "method_option": "tokens=4"},
    "prompt head": {"model": "mini-bert-120k", "method": "prompt", "method_option": "tokens=4"},
    "prefix": {"model": "mini-t5-130k", "method": "prefix", "method_option": "tokens=4"},
    "prefix head": {"model": "mini-bert-120k", "method": "prefix", "method_option": "tokens=4"},
    "adapter": {"model": "mini-bloom-120k", "method": "adapter"},
    "forgot": {"model": "mini-bloom-120k", "method": "lora", "keep_end": False},
}


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return a function that trains a run of RUNS once: name -> (spec, its folder)."""
    store, known = Store(tmp_path_factory.mktemp("runs")), {}

    def get(name: str):
        if name not in known:
            spec = TrainSpec(**{**TRAIN, "readout": "auto", **RUNS[name]})
            known[name] = (spec.resolved(), store.folder(run(spec, store, folder)))
        return known[name]

    return get


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("lora", "merged"), ("lora head", "merged"), ("full head", "merged"), ("bitfit", "merged"), ("ia3", "merged"), ("lora k", "merged"),
        ("lora", "peft"), ("lora head", "peft"), ("prompt", "peft"), ("prefix", "peft"), ("prefix head", "peft"),
        ("ia3", "peft"), ("lora k", "peft"),
    ],
)  # fmt: skip
def test_an_exported_model_has_the_loss_that_the_run_reported(name, form, trained, folder, tmp_path):
    spec, place = trained(name)
    store = Store(place.parent)
    found = export(place, form, tmp_path / "out")
    rows = {(row.quantity, row.split): row for row in store.rows(place.name)}
    assert found == {"run_id": place.name, "form": form, "k": rows["loss", "train"].k, "written": str(tmp_path / "out")}
    classes = 2 if "head" in name else None
    if form == "merged":
        loaded = load_model(str(tmp_path / "out"), classes=classes)
        model = loaded.model
    else:
        loaded = load_model(spec.model, classes=classes)
        model = PeftModel.from_pretrained(loaded.model, str(tmp_path / "out")).eval()
    scorer = plain_scorer(spec, loaded)
    scorer.prior = torch.as_tensor(store.arrays(place.name)["prior"])
    loss = evaluate(model, scorer, inputs(spec, folder).data.splits["validation"])["loss"].value
    assert loss == pytest.approx(rows["loss", "validation"].value, abs=1e-6)
    assert loss != pytest.approx(rows["initial_loss", "validation"].value, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("forgot", "merged", "did not save its final values: train it again: use keep_end: true"),
        ("lora", "apet", "the form apet holds tuned entries, but .* is a run of lora: choose the form merged or peft"),
        ("lora", "mergd", "unknown form 'mergd': did you mean merged"),
        ("bitfit t5", "merged", "bitfit tunes parameters that a checkpoint of mini-t5-130k cannot hold"),
        ("prompt", "merged", "prompt tunes parameters that a checkpoint of mini-bloom-120k cannot hold"),
        ("adapter", "peft", "adapter is not a tuner of peft"),
        ("bitfit", "peft", "bitfit is not a tuner of peft"),
        ("prompt head", "peft", "its head reads the first token of the text, in peft the first virtual token"),
    ],
)
def test_what_a_form_cannot_hold_is_one_line_and_writes_nothing(name, form, message, trained, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        export(trained(name)[1], form, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
