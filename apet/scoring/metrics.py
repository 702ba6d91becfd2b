"""Metrics of answers: of labels, of numbers, and of texts.

Metrics of labels are functions of the confusion matrix, and metrics of numbers are correlations. Both accept any number of leading
dimensions, so that a bootstrap computes all its resamples at once (`apet.scoring.sampling_errors`). Metrics of texts are in 0..1, one value
per example: exact match and F1 of words as for SQuAD, and ROUGE-L.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from apet.tasks import CORRELATIONS, Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the names of the metrics that runs of the task report. The first is the main metric, to which targets refer.

    A classification task also reports its accuracy and the metrics in `task.also`. A regression reports both correlations.
    """
    if task.generates:
        return tuple(TEXT_METRICS[task.metric])
    others = CORRELATIONS if task.regresses else ("accuracy", *task.also)
    return tuple(dict.fromkeys((task.metric, *others)))


def lowest(metric: str) -> float:
    """Return the lowest possible value of a metric: -1 for a correlation, else 0. The highest value is 1."""
    return -1.0 if metric in (*CORRELATIONS, "matthews") else 0.0


# Labels


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix (C, C): entry (i, j) counts the examples of label i with prediction j. Both arguments are (n,)."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes).astype(np.float64)


def label_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of right answers (...,) of confusion matrices (..., C, C)."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def label_f1(counts: np.ndarray) -> np.ndarray:
    """Return the F1 score (...,) of confusion matrices (..., C, C): of class 1 for two classes, the mean over classes (macro) for more.

    The F1 score of a class is the harmonic mean of precision and recall. The mean is over the classes that occur in the matrix.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    scores = 2 * _ratio(right, total)
    return scores[..., 1] if counts.shape[-1] == 2 else scores.sum(-1) / (total > 0).sum(-1)


def matthews(counts: np.ndarray) -> np.ndarray:
    """Return the Matthews correlation coefficient (...,) of confusion matrices (..., C, C), for any number of classes (Gorodkin 2004).

    The coefficient is 0 if all labels or all predictions are equal.
    """
    n, of_labels, of_predictions = counts.sum((-2, -1)), counts.sum(-1), counts.sum(-2)
    covariance = np.trace(counts, axis1=-2, axis2=-1) * n - (of_labels * of_predictions).sum(-1)
    spreads = (n**2 - (margin**2).sum(-1) for margin in (of_labels, of_predictions))
    return _ratio(covariance, np.sqrt(np.prod(list(spreads), axis=0)))


# Numbers


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation (...,) of x and y (..., n), or 0 where the numbers of either are all equal."""
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    x, y = (np.where(_constant(values), 0.0, values) for values in (x, y))
    return _ratio((x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation (...,) of x and y (..., n): Pearson's correlation of their ranks."""
    from scipy.stats import rankdata

    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def _constant(centred: np.ndarray) -> np.ndarray:
    """Return whether the numbers (..., n) less their mean differ only by rounding, (..., 1)."""
    return np.ptp(centred, axis=-1, keepdims=True) == 0


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0)


# Texts


def normalised(text: str) -> str:
    """Return the text in lower case without punctuation, articles and extra spaces (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1 if `text` equals one of `answers` after normalisation, else 0."""
    return float(normalised(text) in {normalised(answer) for answer in answers})


def f1(text: str, answers: Sequence[str]) -> float:
    """Return the harmonic mean of word precision and word recall, for the best of `answers`."""
    return max(_word_f1(normalised(text).split(), normalised(answer).split()) for answer in answers)


def _word_f1(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    common = (Counter(words) & Counter(answer)).total()
    return 2 * common / (len(words) + len(answer))


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence of stemmed words (Lin 2004), for the best of `answers`.

    The package rouge-score computes it.
    """
    return max(_rouge().score(answer, text)["rougeL"].fmeasure for answer in answers)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


TextMetric = Callable[[str, Sequence[str]], float]  # (text, right answers) -> score in 0..1

LABEL_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"accuracy": label_accuracy, "f1": label_f1, "matthews": matthews}
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"pearson": pearson, "spearman": spearman}
# main metric of a task -> reported metrics, the main metric first
TEXT_METRICS: dict[str, dict[str, TextMetric]] = {
    "exact_match": {"exact_match": exact_match, "f1": f1},
    "f1": {"f1": f1, "exact_match": exact_match},
    "rouge_l": {"rouge_l": rouge_l},
}
