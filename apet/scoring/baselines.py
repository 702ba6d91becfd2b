"""Scores of answers without a model, which a model must exceed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from apet.random_numbers import generator
from apet.scoring.answers import first_answer, right_answers
from apet.scoring.label_scores import label_score
from apet.scoring.metrics import LABEL_METRICS, TEXT_METRICS
from apet.scoring.sampling_errors import Score, mean_score, stderr_of_counts
from apet.tasks import Example, Task

RANDOM_GUESS_SEED = 20261121


def model_free_scores(task: Task, train: Sequence[Example], heldout: Sequence[Example]) -> dict[str, Score]:
    """Return the scores of two baselines on `heldout`, by the task's main metric.

    `majority` always gives the most common answer of `train` (for a regression, the mean). `random_guess` gives each class with equal
    probability or, for another task, the answer of a random training example.

    A guess among C classes turns a confusion matrix into its expectation, in which each label's count is spread evenly over the classes.
    The metric of this matrix is 1 / C for accuracy, 2 p / (2 p + 1) for F1 with a share p of class 1, and 0 for Matthews. The correlation
    of a constant or independent number is 0, with the standard error 1 / sqrt(n - 1) of independent numbers.
    """
    if task.regresses:
        independent = Score(0.0, (len(heldout) - 1) ** -0.5 if len(heldout) > 1 else float("nan"))
        return {"majority": independent, "random_guess": independent}
    if task.generates:
        return _of_texts(task, train, heldout)
    label = Counter(example[task.target] for example in train).most_common(1)[0][0]
    labels = np.array([example[task.target] for example in heldout])
    return {
        "majority": label_score(task.metric, labels, np.full_like(labels, label), task.classes),
        "random_guess": _guess(task.metric, labels, task.classes),
    }


def better_baseline(baselines: dict[str, Score]) -> Score:
    """Return the higher score of the baselines."""
    return max(baselines.values(), key=lambda score: score.value)


def _of_texts(task: Task, train: Sequence[Example], heldout: Sequence[Example]) -> dict[str, Score]:
    draws = generator(RANDOM_GUESS_SEED).integers(len(train), size=len(heldout))
    guesses = [first_answer(train[i], task) for i in draws]
    common = Counter(first_answer(example, task) for example in train).most_common(1)[0][0]
    metric = TEXT_METRICS[task.metric][task.metric]
    return {
        name: mean_score([metric(text, right_answers(example, task)) for text, example in zip(texts, heldout, strict=True)])
        for name, texts in {"majority": [common] * len(heldout), "random_guess": guesses}.items()
    }


def _guess(metric: str, labels: np.ndarray, classes: int) -> Score:
    """Return the score of a guess among the classes with equal probabilities."""
    if metric == "accuracy":
        return Score(1 / classes, (1 / classes * (1 - 1 / classes) / len(labels)) ** 0.5)
    counts = np.outer(np.bincount(labels, minlength=classes), np.full(classes, 1 / classes))
    return Score(float(LABEL_METRICS[metric](counts)), stderr_of_counts(LABEL_METRICS[metric], counts))
