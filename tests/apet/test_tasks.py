"""Reading tasks, scoring by label words, and errors that name file and line."""

import json

import pytest
import torch
import torch.nn.functional as F

from apet.errors import MissingInput, UsageError
from apet.models import Loaded, load_model
from apet.scoring import Scorer, chance, cross_entropy, evaluate, predictions
from apet.tasks import TASKS, load_task


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model("mini-t5-240k", random_init=True)


def scorer(loaded: Loaded, name: str = "sst2", **options) -> Scorer:
    return Scorer(TASKS[name], loaded.tokenizer, loaded.model.config.decoder_start_token_id, **options)


@pytest.mark.parametrize("name", TASKS)
def test_every_template_ends_in_a_question_with_one_slot(name, loaded):
    task = TASKS[name]
    row = dict.fromkeys(task.fields, "some words") | {"label": 0}
    (ids,) = scorer(loaded, name).encode([row])
    assert ids.count(loaded.tokenizer.convert_tokens_to_ids("<extra_id_0>")) == 1
    assert ids[-1] == loaded.tokenizer.eos_token_id


def test_a_long_field_loses_its_end_and_the_question_stays(loaded):
    rows = [{"sentence": text, "label": 0} for text in ("word " * 300, "word")]
    long, short = scorer(loaded, max_length=32).encode(rows)
    assert len(long) == 32
    assert long[-6:] == short[-6:]


def test_the_mean_does_not_depend_on_batch_size_or_order(loaded, folder):
    rows = load_task("sst2", folder).splits["train"]
    found = [evaluate(loaded.model, scorer(loaded), rows, size) for size in (1, 5, 24)] + [
        evaluate(loaded.model, scorer(loaded), rows[::-1], 7)
    ]
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-6)
        assert other["accuracy"] == found[0]["accuracy"]


def test_logits_are_the_models_own_at_the_slot(loaded, folder):
    rows = load_task("sst2", folder).splits["validation"]
    batch = next(scorer(loaded).batches(rows, 8))
    start, slot = loaded.model.config.decoder_start_token_id, loaded.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    decoder = torch.tensor([[start, slot]] * 8)
    with torch.no_grad():
        full = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=decoder).logits
    words = [loaded.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in TASKS["sst2"].words]
    logits, labels = predictions(loaded.model, scorer(loaded), rows)
    torch.testing.assert_close(logits.float(), full[:, 1, words])
    total, weight = cross_entropy(logits, batch)
    assert total.item() / weight == pytest.approx(F.cross_entropy(logits, labels).item())


def test_calibration_takes_the_mean_logits_off(loaded, folder):
    rows = load_task("sst2", folder).splits["train"]
    plain, calibrated = scorer(loaded), scorer(loaded)
    calibrated.calibrate(loaded.model, rows)
    raw, less = (predictions(loaded.model, each, rows)[0] for each in (plain, calibrated))
    torch.testing.assert_close(less.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(raw - less, raw.mean(0).expand_as(raw), atol=1e-5, rtol=0)


def test_chance_is_the_larger_of_majority_and_uniform():
    assert chance([{"label": 1}] * 3 + [{"label": 0}], 2) == 0.75
    assert chance([{"label": 0}, {"label": 1}], 3) == 0.5
    assert chance([{"label": 0}, {"label": 1}, {"label": 2}, {"label": 3}], 2 + 2) == 0.25


def test_label_words_that_begin_alike_are_refused(loaded):
    from dataclasses import replace

    with pytest.raises(UsageError, match="do not differ"):
        Scorer(replace(TASKS["sst2"], words=("great", "great")), loaded.tokenizer, 0)


def test_a_line_that_is_no_json_is_named(folder, tmp_path):
    (tmp_path / "train.jsonl").write_text((folder / "train.jsonl").read_text() + "not json\n")
    with pytest.raises(UsageError, match=r"train\.jsonl, line 25: not JSON"):
        load_task("sst2", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"sentence": "x"}, "fields sentence, label"), ({"sentence": "x", "label": 2}, "label 2 is not in 0..1"), ([1], "needs an object")],
)
def test_a_row_that_does_not_fit_is_named(row, message, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(UsageError, match=message):
        load_task("sst2", tmp_path)


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(MissingInput, match="no data folder"):
        load_task("sst2", tmp_path / "nowhere")
    with pytest.raises(MissingInput, match=r"must hold train\.jsonl"):
        load_task("sst2", tmp_path)
    with pytest.raises(MissingInput, match=r"--data FOLDER.*hf download --repo-type dataset nyu-mll/glue"):
        load_task("sst2")


def test_names_are_suggested():
    with pytest.raises(UsageError, match="did you mean sst2"):
        load_task("sst-2")
    with pytest.raises(UsageError, match="did you mean mini-t5"):
        load_model("mini-t5-2n")
    with pytest.raises(MissingInput, match="hf download google/t5-v1_1-xl"):
        load_model("t5-xl")
    with pytest.raises(MissingInput, match="no model folder"):
        load_model("./nowhere/at-all")


def test_random_init_is_named_by_its_seed():
    prints = [load_model("mini-t5-240k", random_init=True, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
