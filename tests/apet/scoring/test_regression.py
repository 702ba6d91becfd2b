"""Regressions: a head with one output, trained on standardised targets, against transformers and numpy."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from scoring_cases import REVIEWS, inputs, ready
from tiny_cases import tiny

from apet.errors import UsageError
from apet.models import load_model
from apet.scoring import evaluate, predictions, scorer_of, squared_error
from apet.scoring.verbaliser import Verbaliser, model_card
from apet.tasks.task_table import TASKS
from landscape import SquaredError

TASK = replace(TASKS["sst2"], words=(), metric="pearson", target="score")
SCORED = [{"sentence": row["sentence"], "score": score} for row, score in zip(REVIEWS, (4.5, 0.0, 3.0, 5), strict=True)]


@pytest.fixture(params=["bert", "roberta"])
def loaded(request):
    return tiny(request.param, classes=1)


def test_predictions_are_the_heads_output_and_targets_are_standardised(loaded):
    scorer = scorer_of(loaded, TASK)
    scorer.standardise(SCORED)
    outputs, targets = predictions(loaded.model, scorer, SCORED, size=3)
    numbers = np.array([row["score"] for row in SCORED])
    assert scorer.scale == (numbers.mean(), numbers.std())
    assert targets.numpy() == pytest.approx((numbers - numbers.mean()) / numbers.std(), abs=1e-6)
    with torch.no_grad():
        alone = [loaded.model(**inputs(loaded.tokenizer(row["sentence"]))).logits for row in SCORED]
    assert outputs.shape == (4, 1)
    torch.testing.assert_close(outputs.float(), torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_scores_are_the_squared_error_and_scipys_correlations(loaded):
    scorer = scorer_of(loaded, TASK)
    scorer.standardise(SCORED)
    outputs, targets = predictions(loaded.model, scorer, SCORED)
    x, y = outputs[:, 0].numpy(), targets.numpy()
    found = evaluate(loaded.model, scorer, SCORED[::-1], size=2, decode=True)
    assert list(found) == ["loss", "pearson", "spearman"]
    assert found["loss"].value == pytest.approx(((x - y) ** 2).mean(), rel=1e-5)
    assert found["loss"].stderr == pytest.approx(((x - y) ** 2).std(ddof=1) / 2, rel=1e-5)
    assert found["pearson"].value == pytest.approx(scipy.stats.pearsonr(x, y).statistic, rel=1e-4)
    assert found["spearman"].value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


def test_the_loss_of_training_is_that_of_the_criterion_and_of_transformers(loaded):
    scorer = scorer_of(loaded, TASK)
    scorer.standardise(SCORED)
    (batch,) = scorer.batches(SCORED, 4)
    outputs = scorer.logits(loaded.model, batch)
    total, weight = scorer.loss(loaded.model, batch)
    again, count = SquaredError()(outputs, batch)
    assert weight == count == 4 and scorer.total_weight(SCORED) == 4
    assert float(total.detach()) == pytest.approx(float(again.detach()))
    theirs = loaded.model(**{name: value for name, value in batch.items() if name != "token_type_ids"}).loss  # transformers' regression
    assert float(total.detach()) / 4 == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert squared_error(outputs.bfloat16(), batch)[0].dtype == torch.float32


def test_equal_targets_are_refused():
    with pytest.raises(UsageError, match="all 2 training examples of sst2 have the target 3: use more or other examples"):
        scorer_of(tiny("bert", classes=1), TASK).standardise([SCORED[2]] * 2)


@pytest.mark.parametrize("name", ["t5", "bloom", "bert"])
def test_a_model_without_a_head_is_refused(name):
    with pytest.raises(UsageError, match="sst2 asks for a number, which needs a head, but .* does not have one"):
        scorer_of(ready(name), TASK)


def test_a_head_has_at_least_one_output():
    with pytest.raises(UsageError, match="classes = 0 must be at least 2 for a classification head, or 1 for a regression"):
        load_model("mini-bert-120k", classes=0)


def test_the_card_predicts_in_the_units_of_the_data(loaded, tmp_path, monkeypatch):
    scorer = scorer_of(loaded, TASK)
    scorer.standardise(SCORED)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    Verbaliser.of(scorer).save(tmp_path)
    code = model_card("tiny", scorer, "head", "AutoModelForSequenceClassification").split("```")[1].removeprefix("python\n")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    outputs, _ = predictions(loaded.model, scorer, SCORED[:1])
    assert float(names["target"]({"sentence": SCORED[0]["sentence"]})) == pytest.approx(
        scorer.scale[0] + scorer.scale[1] * float(outputs), rel=1e-5
    )
