"""Metrics of labels and numbers, their standard errors and baselines, against scikit-learn, scipy and direct simulation."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from apet.scoring.baselines import better_baseline, model_free_scores
from apet.scoring.label_scores import label_score, number_score
from apet.scoring.metrics import LABEL_METRICS, confusion, label_f1, lowest, matthews, metric_names, pearson, spearman
from apet.scoring.sampling_errors import stderr_of_correlation, stderr_of_counts, stderr_of_mean
from apet.tasks.task_table import TASKS

NUMBERS = replace(TASKS["sst2"], words=(), metric="pearson", target="score")


def drawn(n: int, classes: int, seed: int = 0, right: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions; about the share `right` of the predictions is correct."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, size=n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    return labels, np.where(random.random(n) < right, labels, random.integers(classes, size=n))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_label_metrics_are_scikit_learns(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = drawn(300, classes)
    counts = confusion(labels, predicted, classes)
    average = "binary" if classes == 2 else "macro"
    assert (counts == metrics.confusion_matrix(labels, predicted)).all()
    assert LABEL_METRICS["accuracy"](counts) == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert label_f1(counts) == pytest.approx(metrics.f1_score(labels, predicted, average=average))
    assert matthews(counts) == pytest.approx(metrics.matthews_corrcoef(labels, predicted))


def test_label_metrics_are_their_definitions():
    labels, predicted = drawn(200, 2)
    counts = confusion(labels, predicted, 2)
    precision, recall = labels[predicted == 1].mean(), predicted[labels == 1].mean()
    assert label_f1(counts) == pytest.approx(2 * precision * recall / (precision + recall))
    assert matthews(counts) == pytest.approx(np.corrcoef(labels, predicted)[0, 1])  # for two classes
    labels, predicted = drawn(200, 3)
    per_class = [label_f1(confusion(labels == c, predicted == c, 2)) for c in range(3)]
    assert label_f1(confusion(labels, predicted, 3)) == pytest.approx(np.mean(per_class))
    one_hot = [np.eye(3)[values] for values in (labels, predicted)]  # Gorodkin's definition: a correlation of matrices
    centred = [matrix - matrix.mean(0) for matrix in one_hot]
    expected = (centred[0] * centred[1]).sum() / np.prod([np.linalg.norm(matrix) for matrix in centred])
    assert matthews(confusion(labels, predicted, 3)) == pytest.approx(expected)


def test_constant_predictions_and_absent_classes_have_defined_scores():
    labels = np.array([0, 1, 1, 0, 1])
    for constant, f1 in ((0, 0.0), (1, 2 * 3 / (3 + 5))):
        counts = confusion(labels, np.full(5, constant), 2)
        assert matthews(counts) == 0 and label_f1(counts) == pytest.approx(f1)
    assert label_f1(confusion(labels, labels, 4)) == 1.0  # the mean is over the classes that occur


def test_correlations_are_scipys_one_by_one_and_in_a_batch():
    x, y = np.random.default_rng(1).normal(size=(2, 5, 40))
    y = (y + x).round(1)  # with ties
    for ours, theirs in ((pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)):
        expected = [theirs(*pair).statistic for pair in zip(x, y, strict=True)]
        assert ours(x, y) == pytest.approx(np.array(expected))
    assert pearson(np.full(4, 0.1), np.arange(4.0)) == 0 and spearman(np.arange(4.0), np.full(4, 0.1)) == 0


def test_standard_errors_of_label_metrics_are_the_spread_over_samples_of_examples():
    for metric in ("f1", "matthews"):
        function = LABEL_METRICS[metric]
        values = [function(confusion(*drawn(400, 3, seed), 3)) for seed in range(300)]
        assert stderr_of_counts(function, confusion(*drawn(400, 3), 3)) == pytest.approx(np.std(values), rel=0.15)


def test_standard_errors_of_correlations_are_scipys_bootstrap():
    x, noise = np.random.default_rng(2).normal(size=(2, 80))
    y = x + noise
    for name, function in (("pearson", pearson), ("spearman", spearman)):
        theirs = scipy.stats.bootstrap(
            (x, y), lambda a, b, axis=-1, f=function: f(a, b), paired=True, vectorized=True, n_resamples=4000, rng=1, method="percentile"
        )
        assert stderr_of_correlation(function, x, y) == pytest.approx(theirs.standard_error, rel=0.08)
        assert number_score(name, y, x).stderr == stderr_of_correlation(function, x, y)  # the seed is fixed


def test_no_standard_error_is_zero():
    right, zeros = np.array([0, 1, 1, 0, 1, 1]), np.zeros(6, int)
    for metric in LABEL_METRICS:
        assert label_score(metric, right, right, 2).value == 1 and label_score(metric, right, right, 2).stderr > 0.02
        assert label_score(metric, right, zeros, 2).stderr > 0.02
    assert label_score("accuracy", right, zeros, 2).stderr == stderr_of_mean(right == zeros)
    x = np.arange(6.0)
    assert number_score("spearman", x, x).stderr == pytest.approx(5**-0.5)


def test_an_undefined_correlation_counts_as_zero_with_a_note():
    x = np.arange(6.0)
    for targets, predicted, noun in ((x, np.full(6, 0.3), "predictions"), (np.full(6, 0.3), x, "targets")):
        score = number_score("pearson", targets, predicted)
        assert (score.value, score.stderr) == (0.0, pytest.approx(5**-0.5))
        assert score.remark == f"all {noun} are equal: the correlation is not defined and counts as 0"
    assert number_score("pearson", x, x**2).remark == ""
    assert np.isnan(number_score("pearson", x[:1], x[:1]).stderr)


def labelled(*labels: int) -> list[dict]:
    return [{"sentence": str(i), "label": label} for i, label in enumerate(labels)]


def test_baselines_of_f1_and_matthews():
    heldout = labelled(*[1] * 60, *[0] * 140)
    f1, correlation = (replace(TASKS["sst2"], metric=metric) for metric in ("f1", "matthews"))
    found = model_free_scores(f1, labelled(1, 1, 0), heldout)
    assert found["majority"].value == pytest.approx(2 * 60 / (60 + 200))
    assert found["random_guess"].value == pytest.approx(2 * 0.3 * 0.5 / (0.3 + 0.5))
    random = np.random.default_rng(0)
    labels = np.array([row["label"] for row in heldout])
    guesses = [label_f1(confusion(labels, random.integers(2, size=200), 2)) for _ in range(2000)]
    assert found["random_guess"].value == pytest.approx(np.mean(guesses), abs=0.005)
    assert found["random_guess"].stderr == pytest.approx(np.std(guesses), rel=0.35)  # also the draw of the examples
    assert better_baseline(model_free_scores(f1, labelled(0, 0, 1), heldout)).value == found["random_guess"].value  # F1 of all 0 is 0
    for score in model_free_scores(correlation, labelled(1, 1, 0), heldout).values():
        assert score.value == pytest.approx(0) and 0.005 < score.stderr < 0.1


def test_baselines_of_a_regression_are_zero_with_the_error_of_independent_numbers():
    train = [{"sentence": str(i), "score": float(i)} for i in range(9)]
    assert {(s.value, s.stderr) for s in model_free_scores(NUMBERS, train, train).values()} == {(0.0, 8**-0.5)}


def test_tasks_report_their_main_metric_first():
    assert metric_names(TASKS["mrpc"]) == metric_names(TASKS["qqp"]) == ("accuracy", "f1")
    assert metric_names(replace(TASKS["sst2"], metric="matthews")) == ("matthews", "accuracy")
    assert metric_names(NUMBERS) == ("pearson", "spearman")
    assert metric_names(replace(NUMBERS, metric="spearman")) == ("spearman", "pearson")
    assert [lowest(metric) for metric in ("accuracy", "f1", "rouge_l", "matthews", "pearson", "spearman")] == [0, 0, 0, -1, -1, -1]
