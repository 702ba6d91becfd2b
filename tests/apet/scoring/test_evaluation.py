"""Losses and metrics with their standard errors, and the scores of answers without a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scoring_cases import CHATS, MODELS, REVIEWS, WRITING, asked_by_hand, ready

from apet.errors import ApetError
from apet.scoring import Scorer, cross_entropy, scorer_of, stderr_of_mean
from apet.scoring.baselines import better_baseline, model_free_scores
from apet.scoring.evaluation import evaluate, predictions
from apet.scoring.metrics import exact_match, f1, metric_names, rouge_l
from apet.scoring.sampling_errors import Score
from apet.tasks.task_data import load_task
from apet.tasks.task_table import TASKS

every_form = pytest.mark.parametrize("name", MODELS)
every_writer = pytest.mark.parametrize("name", WRITING)


def says(monkeypatch: pytest.MonkeyPatch, answer: dict[str, str], field: str) -> None:
    """Make every scorer return `answer` of the example's `field` instead of the model's answer."""
    monkeypatch.setattr(
        Scorer, "generate", lambda self, model, examples, size=64, report=None: [answer[example[field]] for example in examples]
    )


def memory_for(most: int, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make memory run out above `most` examples per batch. Return the list of the batch sizes that are tried."""
    tried, collate = [], scorer.collate

    def limited(items):
        tried.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return collate(items)

    monkeypatch.setattr(scorer, "collate", limited)
    return tried


# Memory


@every_form
def test_where_memory_runs_out_the_same_means_come_from_smaller_batches(name, folder, monkeypatch):
    loaded, rows = ready(name), load_task("sst2", folder).splits["train"]
    whole, parts = scorer_of(loaded, TASKS["sst2"]), scorer_of(loaded, TASKS["sst2"])
    tried = memory_for(7, parts, monkeypatch)
    for scorer in (whole, parts):
        scorer.calibrate(loaded.model, rows)
    torch.testing.assert_close(parts.prior, whole.prior, rtol=1e-4, atol=1e-5)
    parts.prior = whole.prior
    decode = name in ("t5", "bert")
    expected, found = (evaluate(loaded.model, each, rows, decode=decode) for each in (whole, parts))
    assert tried[-6:] == [24, 12, 6, 6, 6, 6]
    for quantity, score in expected.items():
        assert found[quantity].value == pytest.approx(score.value, rel=1e-5)
        assert found[quantity].stderr == pytest.approx(score.stderr, rel=1e-4)


@every_writer
def test_where_memory_runs_out_texts_are_scored_in_smaller_batches(name, monkeypatch):
    loaded = ready(name)
    whole, parts = (scorer_of(loaded, TASKS["samsum"]) for _ in range(2))
    tried = memory_for(1, parts, monkeypatch)
    assert evaluate(loaded.model, parts, CHATS)["loss"].value == pytest.approx(evaluate(loaded.model, whole, CHATS)["loss"].value, rel=1e-5)
    assert tried == [4, 2, 1, 1, 1, 1]


def test_too_little_memory_for_one_example_is_said(monkeypatch):
    scorer = scorer_of(ready("t5"), TASKS["sst2"])
    memory_for(0, scorer, monkeypatch)
    with pytest.raises(ApetError, match="out of memory with one example at a time: lower max_length or use a smaller model"):
        evaluate(ready("t5").model, scorer, REVIEWS)


# Classes


@every_form
def test_the_mean_does_not_depend_on_batch_size_or_order(name, folder):
    loaded, rows = ready(name), load_task("sst2", folder).splits["train"]
    scorer = scorer_of(loaded, TASKS["sst2"])
    first, *others = [evaluate(loaded.model, scorer, given, size) for given, size in ((rows, 24), (rows, 1), (rows, 5), (rows[::-1], 7))]
    for other in others:
        assert other["loss"].value == pytest.approx(first["loss"].value, rel=1e-5)
        assert other["loss"].stderr == pytest.approx(first["loss"].stderr, rel=1e-4)
        assert other["accuracy"] == first["accuracy"]


@every_form
def test_loss_and_accuracy_are_those_of_the_models_answers_one_by_one(name):
    loaded = ready(name)
    found = evaluate(loaded.model, scorer_of(loaded, TASKS["sst2"]), REVIEWS)
    answers, labels = torch.stack([asked_by_hand(loaded, row["sentence"]) for row in REVIEWS]), torch.tensor([0, 1, 0, 1])
    losses = F.cross_entropy(answers, labels, reduction="none")
    right = (answers.argmax(1) == labels).double().mean().item()
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"].value == pytest.approx(losses.mean().item(), rel=1e-3)
    assert found["loss"].stderr == pytest.approx(losses.std().item() / 2, rel=1e-3)
    assert found["accuracy"] == Score(right, float(stderr_of_mean((answers.argmax(1) == labels).numpy())))


@every_form
def test_predictions_keep_the_order_of_the_examples(name):
    loaded = ready(name)
    scorer = scorer_of(loaded, TASKS["sst2"])
    logits, labels = predictions(loaded.model, scorer, REVIEWS, size=3)
    again, back = predictions(loaded.model, scorer, REVIEWS[::-1], size=2)
    assert logits.dtype == torch.float64 and logits.shape == (4, 2)
    assert labels.tolist() == [row["label"] for row in REVIEWS] == back.flip(0).tolist()
    torch.testing.assert_close(again.flip(0), logits, rtol=1e-4, atol=1e-5)


def test_a_single_example_has_no_standard_error_of_its_loss_and_one_of_its_accuracy():
    loaded = ready("t5")
    found = evaluate(loaded.model, scorer_of(loaded, TASKS["sst2"]), REVIEWS[:1])
    assert np.isfinite(found["loss"].value) and np.isnan(found["loss"].stderr)
    assert found["accuracy"].value in (0, 1) and found["accuracy"].stderr > 0.2


def test_decoded_accuracy_counts_texts_that_begin_with_the_label_word(monkeypatch):
    texts = ["Great!", "greatly good", "a terrible film", "terrible"]  # the third text begins with the label word after normalisation
    rows = [{"sentence": f"review {i}", "label": label} for i, label in enumerate((1, 1, 0, 1))]
    says(monkeypatch, {row["sentence"]: text for row, text in zip(rows, texts, strict=True)}, "sentence")
    loaded = ready("t5")
    found = evaluate(loaded.model, scorer_of(loaded, TASKS["sst2"]), rows, decode=True)
    assert found["decoded_accuracy"] == Score(0.5, pytest.approx((0.25 / (4 + 1.959964**2)) ** 0.5, rel=1e-4))  # Agresti and Coull


@pytest.mark.parametrize("name", ["t5", "bloom", "gpt2", "bert"])
def test_decoded_accuracy_is_read_off_the_models_own_text(name):
    loaded = ready(name)
    written = scorer_of(loaded, TASKS["sst2"]).generate(loaded.model, REVIEWS[:1])[0].split()[0]
    task = replace(TASKS["sst2"], words=("terrible", written))
    found = evaluate(loaded.model, scorer_of(loaded, task), [REVIEWS[0] | {"label": 1}], decode=True)
    assert found["decoded_accuracy"].value == 1.0


def test_one_mask_is_asked_for_the_first_piece_of_a_word(monkeypatch):
    loaded = ready("bert")
    scorer = scorer_of(loaded, replace(TASKS["sst2"], words=("no", "zebra")))
    pieces = loaded.tokenizer.tokenize("zebra")
    assert len(pieces) > 1 and scorer.spelling(0) == "no"
    assert scorer.spelling(1) == loaded.tokenizer.decode(loaded.tokenizer.convert_tokens_to_ids(pieces[:1])).strip() != "zebra"
    says(monkeypatch, {row["sentence"]: scorer.spelling(row["label"]) for row in REVIEWS}, "sentence")
    assert evaluate(loaded.model, scorer, REVIEWS, decode=True)["decoded_accuracy"].value == 1.0


def test_a_head_has_nothing_to_decode():
    loaded = ready("classifier")
    assert set(evaluate(loaded.model, scorer_of(loaded, TASKS["sst2"]), REVIEWS, decode=True)) == {"loss", "accuracy"}


# Texts


@every_writer
def test_the_mean_over_pieces_does_not_depend_on_batch_size_or_order(name):
    loaded = ready(name)
    scorer = scorer_of(loaded, TASKS["samsum"])
    first, *others = [evaluate(loaded.model, scorer, given, size)["loss"] for given, size in ((CHATS, 4), (CHATS, 1), (CHATS[::-1], 3))]
    for other in others:
        assert (other.value, other.stderr) == (pytest.approx(first.value, rel=1e-5), pytest.approx(first.stderr, rel=1e-3))


def test_the_standard_error_of_a_mean_over_pieces_is_the_bootstraps():
    loaded = ready("t5")
    random, words = np.random.default_rng(0), ["a", "man", "went", "to", "the", "town", "and", "told", "his", "old", "story", "of", "war"]
    chats = [
        {"dialogue": " ".join(random.choice(words, size=6)), "summary": " ".join(random.choice(words, size=random.integers(1, 15)))}
        for _ in range(80)
    ]
    scorer = scorer_of(loaded, TASKS["samsum"])
    with torch.no_grad():
        pairs = [cross_entropy(scorer.logits(loaded.model, batch), batch) for batch in scorer.batches(chats, 1)]
    sums, weights = np.array([[float(loss), weight] for loss, weight in pairs]).T
    drawn = random.integers(80, size=(20_000, 80))
    means = sums[drawn].sum(1) / weights[drawn].sum(1)
    found = evaluate(loaded.model, scorer, chats)["loss"]
    assert found.value == pytest.approx(sums.sum() / weights.sum(), rel=1e-5)
    assert found.stderr == pytest.approx(means.std(), rel=0.1)


def test_texts_are_scored_by_the_tasks_own_metrics(monkeypatch):
    rows = [{"question": "where", "answer": ["Paris", "the city of Paris"]}, {"question": "who", "answer": ["Ann Lee"]}]
    texts = {"where": "City of Paris.", "who": "Ann"}
    says(monkeypatch, texts, "question")
    loaded = ready("t5")
    found = evaluate(loaded.model, scorer_of(loaded, TASKS["nq_open"]), rows, decode=True)
    assert set(found) == {"loss", "exact_match", "f1"} and metric_names(TASKS["nq_open"]) == ("exact_match", "f1")
    for name, metric in (("exact_match", exact_match), ("f1", f1)):
        values = [metric(texts[row["question"]], row["answer"]) for row in rows]
        assert found[name].value == pytest.approx(np.mean(values))
        assert found[name].stderr == stderr_of_mean(values)


@every_writer
def test_rouge_l_is_that_of_what_the_model_writes(name):
    loaded = ready(name)
    scorer = scorer_of(loaded, TASKS["samsum"])
    found = evaluate(loaded.model, scorer, CHATS[:2], decode=True)
    values = [rouge_l(text, [chat["summary"]]) for text, chat in zip(scorer.generate(loaded.model, CHATS[:2]), CHATS, strict=False)]
    assert set(found) == {"loss", "rouge_l"} and found["rouge_l"].value == pytest.approx(np.mean(values))


# Without a model


def labelled(*labels: int) -> list[dict]:
    return [{"sentence": str(i), "label": label} for i, label in enumerate(labels)]


def test_the_majority_is_that_of_the_training_split():
    found = model_free_scores(TASKS["sst2"], labelled(1, 1, 0), labelled(0, 0, 0, 1))
    assert found["majority"] == Score(0.25, float(stderr_of_mean([0, 0, 0, 1])))
    assert found["random_guess"] == Score(0.5, 0.25)
    assert better_baseline(found) == found["random_guess"]
    assert better_baseline(model_free_scores(TASKS["sst2"], labelled(0, 0, 1), labelled(0, 0, 0, 1))).value == 0.75


def test_a_random_guess_among_three_classes_is_a_third():
    found = model_free_scores(TASKS["mnli"], labelled(0, 1, 2), labelled(*[0, 1, 2] * 6))
    assert found["random_guess"].value == pytest.approx(1 / 3)
    assert found["random_guess"].stderr == pytest.approx((2 / 9 / 18) ** 0.5)
    assert metric_names(TASKS["mnli"]) == ("accuracy",)


def test_texts_without_a_model_are_the_most_common_and_drawn_ones_of_the_training_split():
    train = [{"question": str(i), "answer": [answer, "other"]} for i, answer in enumerate(["yes"] * 3 + ["no"])]
    heldout = [{"question": str(i), "answer": ["Yes!" if i % 4 else "no"]} for i in range(400)]
    found = model_free_scores(TASKS["nq_open"], train, heldout)
    assert found == model_free_scores(TASKS["nq_open"], train, heldout)  # the guesses do not depend on other random draws
    assert found["majority"].value == 0.75
    expected = 0.75**2 + 0.25**2
    assert abs(found["random_guess"].value - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5
    assert found["random_guess"].stderr == pytest.approx((expected * (1 - expected) / 400) ** 0.5, rel=0.05)
