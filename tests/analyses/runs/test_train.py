"""Training runs of every form: their rows, and the table of training runs."""

import copy
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.results.training_table import table, write_table
from analyses.runs.execute import gradients, run
from analyses.runs.rehearsal import rehearse
from analyses.runs.run_inputs import inputs
from analyses.specs import PredictSpec, Spec, SpectrumSpec, TrainSpec
from analyses.store import Row, Store
from analyses.thresholds.measured import finished, thresholds
from analyses.thresholds.targets import Target
from apet.errors import UsageError
from apet.models.loading import fingerprint, load_model
from apet.scoring import cross_entropy, scorer_of
from apet.tasks import TASKS, load_task

BERT, T5, BLOOM = "mini-bert-120k", "mini-t5-130k", "mini-bloom-120k"
BASE = TrainSpec(model=T5, random_init=True, task="sst2", k=30, steps=20, batch=8).resolved()


def rows_of(spec: Spec, folder, tmp_path) -> dict[tuple[str, str | None], Row]:
    store = Store(tmp_path)
    return {(row.quantity, row.split): row for row in store.rows(run(spec, store, folder))}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return a data folder for nq_open."""
    root = tmp_path_factory.mktemp("nq_open")
    for split, count in (("train", 16), ("validation", 6)):
        lines = [json.dumps({"question": f"what is {split} {i}", "answer": [f"number {i}", "it"]}) for i in range(count)]
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def test_a_head_is_counted_apart_and_trained_along(folder, tmp_path):
    spec = replace(BASE, model=BERT)
    rows = rows_of(spec, folder, tmp_path)
    assert rows["k_head", None].value == 2 * 24 + 2
    assert rows["loss", "validation"].k == 30
    arrays = Store(tmp_path).arrays(rows["loss", "validation"].run_id)
    start = dict(inputs(spec, folder).loaded.model.named_parameters())["classifier.weight"].detach().numpy()
    assert arrays["head.classifier.weight"].shape == start.shape
    assert not np.array_equal(arrays["head.classifier.weight"], start)


def test_bert_answers_in_words_where_asked(folder, tmp_path):
    rows = rows_of(replace(BASE, model=BERT, readout="words"), folder, tmp_path)
    assert ("k_head", None) not in rows
    assert ("decoded_accuracy", "validation") not in rows
    assert 0 < rows["prior_stderr", None].value < 1


def test_free_text_is_decoded_on_request(folder, tmp_path):
    assert ("decoded_accuracy", "validation") in rows_of(replace(BASE, decode=True), folder, tmp_path)


@pytest.mark.parametrize("model", [T5, BLOOM])
def test_a_task_of_texts_reports_its_own_metrics(model, answers, tmp_path):
    rows = rows_of(replace(BASE, model=model, task="nq_open"), answers, tmp_path)
    for name in ("loss", "exact_match", "f1", "majority", "random_guess", "chance"):
        assert rows[name, "validation"].stderr >= 0
    assert ("accuracy", "validation") not in rows


@pytest.mark.parametrize(("model", "head"), [(T5, 24 * 24 + 24 + 2 * 24 + 2), (BLOOM, 2 * 24)])
def test_a_head_on_a_model_of_words_is_trained_where_asked(model, head, folder, tmp_path):
    words, headed = replace(BASE, model=model), replace(BASE, model=model, readout="head")
    assert ("k_head", None) not in rows_of(words, folder, tmp_path)
    rows = rows_of(headed, folder, tmp_path)
    loss = rows["loss", "validation"]
    assert (rows["k_head", None].value, loss.k) == (head, 30)
    assert loss.protocol.endswith(", head") and loss.weights == rows_of(words, folder, tmp_path)["loss", "validation"].weights


def test_a_model_without_language_model_head_answers_by_a_head_alone(folder, tmp_path):
    model: Any = load_model(BERT, random_init=True)
    model.model.bert.save_pretrained(tmp_path / "encoder")
    model.tokenizer.save_pretrained(tmp_path / "encoder")
    spec = replace(BASE, model=str(tmp_path / "encoder"), random_init=False, steps=2)
    auto, headed = rows_of(spec, folder, tmp_path), rows_of(replace(spec, readout="head"), folder, tmp_path)
    losses = [rows["loss", "validation"] for rows in (auto, headed)]
    assert losses[0].value == losses[1].value and losses[0].weights == losses[1].weights != ""
    for lacking in (replace(spec, readout="words"), SpectrumSpec(model=spec.model, task="sst2", k=5)):
        with pytest.raises(UsageError, match=r"encoder has no language-model head, so it cannot answer sst2 in words .*: use readout"):
            inputs(lacking, folder)


@pytest.mark.parametrize(
    "change", [{"model": BERT, "task": "nq_open"}, {"task": "nq_open", "readout": "head"}, {"model": BERT, "readout": "hed"}]
)
def test_what_a_model_cannot_answer_is_refused(change, folder, answers, tmp_path):
    with pytest.raises(UsageError, match="an encoder-decoder or a causal|nq_open has no classes|did you mean head"):
        run(replace(BASE, **change), Store(tmp_path), answers if change.get("task") else folder)


def test_the_gradient_left_is_that_of_the_mean_over_pieces(answers, tmp_path):
    rows = rows_of(replace(BASE, task="nq_open", method="full", k=None, lr=1e-12, early_stop=False, steps=1), answers, tmp_path)
    found = inputs(replace(BASE, task="nq_open"), answers)
    model, scorer = copy.deepcopy(found.loaded.model).requires_grad_(True), scorer_of(found.loaded, found.data.task)
    (batch,) = scorer.batches(found.data.splits["train"], 64)
    total, pieces = cross_entropy(scorer.logits(model, batch), batch)
    (total / pieces).backward()
    norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
    assert rows["residual_gradient", "train"].value == pytest.approx(norm, rel=1e-3)


def test_a_batch_larger_than_the_data_counts_the_examples_there_are(folder, tmp_path):
    rows = rows_of(replace(BASE, examples=4, batch=8, steps=3), folder, tmp_path)
    assert rows["example_gradients", None].value == 3 * 4


def test_too_few_examples_to_watch_some_are_refused(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"sentence": split, "label": 0}) + "\n")
    with pytest.raises(UsageError, match="too few training examples"):
        run(BASE, Store(tmp_path / "out"), tmp_path)


def test_predictions_speak_of_the_random_weights_that_are_trained(folder):
    train, predict = BASE, PredictSpec(model=T5, random_init=True)
    prints = [{inputs(replace(s, train_seed=seed).resolved(), folder).loaded.fingerprint for s in (train, predict)} for seed in (0, 1)]
    assert [len(each) for each in prints] == [1, 1] and prints[0] != prints[1]


def test_half_precision_weights_are_for_methods_whose_values_are_their_own(folder, tmp_path):
    rows = rows_of(replace(BASE, weights="bfloat16"), folder, tmp_path)
    assert rows["loss", "validation"].value > 0
    with pytest.raises(UsageError, match="round small updates away"):
        run(replace(BASE, weights="bfloat16", method="full", k=None), Store(tmp_path), folder)


def test_runs_with_a_head_are_no_part_of_a_threshold(folder, tmp_path):
    store, bert = Store(tmp_path), replace(BASE, model=BERT, early_stop=False, examples=16)
    for method, k in (("full", None), ("apet", 30)):
        run(replace(bert, method=method, k=k).resolved(), store, folder)
    assert thresholds(store, finished(store), Target("fraction", 0.5)) == []


@pytest.mark.long
def test_a_search_for_the_rate_is_reported(folder, tmp_path):
    store = Store(tmp_path)
    rows = store.rows(run(replace(BASE, find_lr=True), store, folder))
    pilots = {row.x: row.value for row in rows if row.quantity == "pilot_loss"}
    (chosen,) = (row.value for row in rows if row.quantity == "learning_rate")
    assert len(pilots) == 5
    assert pilots[chosen] == min(pilots.values())


def test_a_run_that_diverges_says_so_and_keeps_its_best_state(folder, tmp_path):
    rows = rows_of(replace(BASE, lr=1e38), folder, tmp_path)
    assert 0 < rows["diverged", None].value <= BASE.steps
    assert rows["loss", "validation"].value <= rows["initial_loss", "validation"].value + 1e-6


def test_a_finished_run_leaves_no_checkpoint_behind(folder, tmp_path):
    store = Store(tmp_path)
    name = run(BASE, store, folder)
    assert not list(store.folder(name).glob("checkpoint*"))
    env = json.loads((store.folder(name) / "env.json").read_text())
    assert set(env["parts"]) == {"prior", "before", "steps", "monitoring", "after"}
    assert 0 < sum(env["parts"].values()) <= env["seconds"]
    assert env["peak_gb"] is None or env["peak_gb"] > 0.05  # None if the system cannot reset the peak for each run


@pytest.mark.parametrize(
    "options",
    [
        {}, {"subspace": "fastfood"}, {"model": BERT}, {"optimizer": "lbfgs", "lr": None}, {"lr": 1e38}, {"operations": "bias+plug"},
        {"method": "lora", "k": None}, {"method": "prefix", "k": None}, {"method": "adapter", "k": None, "model": BERT},
        {"method": "full", "k": None, "keep_end": True}, {"method": "full", "subspace": "countsketch"},
    ],
)  # fmt: skip
def test_a_run_leaves_the_loaded_model_bitwise_as_it_was_without_a_copy_of_it(options, folder, tmp_path, monkeypatch):
    spec = replace(BASE, steps=3, early_stop=False, examples=8, **options).resolved()
    model = inputs(spec, folder).loaded.model
    before, modules = fingerprint(model), [type(module) for module in model.modules()]
    copied = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda of, memo=None: _without_weights(of, copied(of, memo)))
    run(spec, Store(tmp_path), folder)
    assert fingerprint(model) == before and [type(module) for module in model.modules()] == modules
    assert all(type(p) is torch.nn.Parameter and p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


def _without_weights(of, made):
    """Return the copy `made` of an object. A copy of a whole model may exist on the meta device only."""
    if isinstance(of, torch.nn.Module) and hasattr(of, "config"):
        assert all(p.is_meta for p in made.parameters())
    return made


def test_runs_of_one_model_and_task_measure_the_untuned_model_once(folder, tmp_path, monkeypatch):
    from apet import scoring

    store, evaluated = Store(tmp_path), []
    evaluate = scoring.evaluate

    def counted(model, scorer, examples, *more, **options):
        evaluated.append(len(examples))
        return evaluate(model, scorer, examples, *more, **options)

    monkeypatch.setattr(scoring, "evaluate", counted)
    spec = replace(BASE, eval_examples=3)
    first = run(spec, store, folder)
    once = len(evaluated)
    second = run(replace(spec, position_seed=1), store, folder)
    assert len(evaluated) - once == once - 2  # neither the training nor the validation examples of the untuned model again
    assert max(evaluated) == 3
    initial = [{(r.quantity, r.split): r.value for r in store.rows(name) if r.quantity.startswith("initial")} for name in (first, second)]
    assert initial[0] == initial[1] and len(initial[0]) == 4
    shared = sorted((tmp_path / ".shared").iterdir())
    before, rows = [path.read_bytes() for path in shared], store.rows(first)
    for path in shared:
        path.write_text("{")
    assert run(spec, store, folder, force=True) == first
    assert store.rows(first) == rows and [path.read_bytes() for path in shared] == before


def test_without_early_stopping_a_subset_is_evaluated_if_asked_for(folder, tmp_path, monkeypatch):
    from apet import scoring

    evaluated, evaluate = [], scoring.evaluate

    def counted(model, scorer, examples, *more, **options):
        evaluated.append(len(examples))
        return evaluate(model, scorer, examples, *more, **options)

    monkeypatch.setattr(scoring, "evaluate", counted)
    spec = replace(BASE, early_stop=False, steps=2)
    few = rows_of(replace(spec, eval_examples=3), folder, tmp_path)
    assert max(evaluated) == 3
    assert ("residual_gradient", "train") not in few
    everything = rows_of(spec, folder, tmp_path)
    assert ("residual_gradient", "train") in everything
    assert few["loss", "train"].value != everything["loss", "train"].value
    assert few["loss", "train"].protocol != everything["loss", "train"].protocol


def test_a_prior_is_measured_on_as_few_examples_as_its_standard_error_needs():
    loaded = load_model(T5)
    task, examples = TASKS["mini-review"], load_task("mini-review").splits["train"][:512]
    priors = {}
    for within in (0.0, 0.05, 10.0):
        scorer = scorer_of(loaded, task)
        done = []
        scorer.calibrate(loaded.model, examples, within, lambda count, total, done=done: done.append(count))
        priors[within] = done[-1], scorer.prior_stderr
    assert priors[0.0][0] == 512 and priors[10.0][0] == 64
    logits = torch.cat([scorer_of(loaded, task).logits(loaded.model, b) for b in scorer_of(loaded, task).batches(examples[:64], 64)])
    half = (logits[:, 0] - logits[:, 1]).double().std() / 2  # of two classes less their mean
    assert priors[10.0][1] == pytest.approx(float(half) / 8, rel=1e-4)
    assert priors[0.05][1] <= 0.05 or priors[0.05][0] == 512


def test_a_run_that_fails_half_way_leaves_the_model_as_it_was(folder, tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError

    for spec in (BASE, replace(BASE, subspace="countsketch"), replace(BASE, model=BERT)):
        model = inputs(spec, folder).loaded.model
        before = fingerprint(model)
        with monkeypatch.context() as patched:
            patched.setattr("analyses.runs.train._loop_rows", fails)
            with pytest.raises(ZeroDivisionError):
                run(spec, Store(tmp_path), folder)
        assert fingerprint(model) == before


def test_a_rehearsal_leaves_the_model_alone_and_writes_nothing(folder, tmp_path):
    found = inputs(BASE, folder)
    before = {name: p.detach().clone() for name, p in found.loaded.model.named_parameters()}
    foreseen = rehearse(BASE, found)
    assert foreseen["seconds"] > BASE.steps * foreseen["step_seconds"] > 0
    assert foreseen["peak_gb"] > 0.05
    assert all(p.equal(before[name]) and p.requires_grad for name, p in found.loaded.model.named_parameters())


@pytest.fixture(scope="module")
def seeds(folder, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("seeds"))
    for seed in range(3):
        run(replace(BASE, position_seed=seed), store, folder)
    return store


def test_the_table_averages_over_seeds(seeds):
    (line,) = table(seeds)
    rows = [row for name in seeds.run_ids() for row in seeds.rows(name) if (row.quantity, row.split) == ("accuracy", "validation")]
    assert line["seeds"] == 3
    assert line["value"] == pytest.approx(np.mean([row.value for row in rows]))
    assert line["stderr_seeds"] == pytest.approx(np.std([row.value for row in rows], ddof=1) / 3**0.5)
    assert line["stderr"] == pytest.approx(math.hypot(np.mean([row.stderr for row in rows]), line["stderr_seeds"]))
    assert (line["metric"], line["chance"], line["k"]) == ("accuracy", 0.5, 30)


def test_runs_that_differ_in_more_than_their_seeds_are_not_averaged(folder, tmp_path):
    store = Store(tmp_path)
    for change in ({}, {"position_seed": 1}, {"scope": "decoder"}):
        run(replace(BASE, **change), store, folder)
    lines = {line["settings"]: line for line in table(store)}
    assert {settings: line["seeds"] for settings, line in lines.items()} == {"scope ": 2, "scope decoder": 1}
    assert math.isnan(lines["scope decoder"]["stderr_seeds"]) and lines["scope decoder"]["stderr"] > 0  # over examples only


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".tex", ".md"])
def test_a_table_is_written_in_each_format(suffix, seeds, tmp_path):
    path = tmp_path / f"t{suffix}"
    write_table(table(seeds), path)
    if suffix in (".csv", ".parquet"):
        frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        assert list(frame["model"]) == [f"{T5} (random init)"]
    else:
        text = path.read_text()
        assert "accuracy" in text and "sst2" in text


def test_a_table_of_a_split_or_format_that_is_not_there_is_refused(seeds, tmp_path):
    with pytest.raises(UsageError, match="test split"):
        table(seeds, "test")
    with pytest.raises(UsageError, match="suffix"):
        write_table(table(seeds), tmp_path / "t.xls")


@pytest.mark.long
def test_a_minimum_is_a_run_of_its_own_without_what_belongs_to_adamw(tmp_path):
    spec = TrainSpec(model=T5, task="mini-nli", examples=16, k=30, early_stop=False, batch=16, steps=40, optimizer="lbfgs")
    with pytest.raises(UsageError, match="schedule = cosine has no effect on this train run: it is for training by adamw"):
        replace(spec, schedule="cosine").resolved()
    assert spec.resolved().lr is None
    assert spec.run_id("w", "d") != replace(spec, optimizer="adamw").run_id("w", "d")
    rows = rows_of(spec, None, tmp_path)
    assert rows["loss", "train"].value < 0.8 * rows["initial_loss", "train"].value
    assert rows["example_gradients", None].value == 16 * rows["steps", None].value
    assert ("learning_rate", None) not in rows
    assert rehearse(spec, inputs(spec, None))["seconds"] > 0


@pytest.mark.parametrize(("field", "wrong"), [({"early_stop": True}, "use early_stop: false"), ({"dtype": "bfloat16"}, "too coarse")])
def test_a_minimum_takes_neither_early_stop_nor_coarse_numbers(field, wrong):
    with pytest.raises(UsageError, match=wrong):
        replace(TrainSpec(k=3, optimizer="lbfgs", early_stop=False), **field).resolved()


@pytest.mark.parametrize(
    ("change", "most"), [({}, 20), ({"find_lr": True}, 20 + 5 * 40), ({"optimizer": "lbfgs", "early_stop": False, "lr": None}, 3 * 20 + 41)]
)
def test_the_cost_that_is_stated_is_an_upper_bound_and_progress_has_its_unit(change, most, folder, tmp_path):
    spec, told = replace(BASE, **change).resolved(), []
    examples = 24 if "optimizer" in change else 8
    store = Store(tmp_path)
    assert gradients(spec, 24) == most * examples
    name = run(spec, store, folder, report=lambda what, done, of: told.append((done, of)) if "monitored" in what else None)
    rows = {row.quantity: row.value for row in store.rows(name)}
    assert 0 < rows["example_gradients"] <= most * examples
    assert all(0 <= done <= of == 20 for done, of in told)
    assert told[-1][0] == 20
