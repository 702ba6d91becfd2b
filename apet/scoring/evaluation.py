"""Evaluate a model on a task: loss and metrics with their standard errors over examples, and baselines without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.machine import in_parts
from apet.random_numbers import generator
from apet.scoring.loss import IGNORED
from apet.scoring.metrics import METRICS, normalised
from apet.scoring.sampling_errors import stderr_of_mean, stderr_of_ratio
from apet.scoring.scorer import SILENT, Item, Report, Scorer, first_answer
from apet.tasks import Example, Task

RANDOM_GUESS_SEED = 20261121


@dataclass(frozen=True)
class Score:
    """A mean over examples and its standard error.

    A loss is in nats; its standard error is NaN for a single example. A metric is a fraction; its standard error is never 0.
    """

    value: float
    stderr: float


@torch.no_grad()
def evaluate(
    model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64, decode: bool = False, report: Report = SILENT
) -> dict[str, Score]:
    """Return the scores of a model: `loss`, and `accuracy` if the task has classes. `size` is the number of examples per batch.

    `report(done, total)` receives the number of evaluated examples. With `decode` the result also has scores of the model's text, decoded
    greedily: `decoded_accuracy` (the share of texts that begin with the right label word), or the task's metrics (`exact_match` and `f1`,
    or `rouge_l`). The loss of a generation task is a mean over tokens, with the standard error of a ratio.
    """
    examples = sorted_by_length(scorer.task, examples)  # reduces padding and does not change the mean
    if scorer.task.generates:
        scores = {"loss": _ratio(*_text_losses(model, scorer, examples, size, report))}
    else:
        logits, labels = predictions(model, scorer, examples, size, report)
        losses = F.cross_entropy(logits, labels, reduction="none")
        scores = {"loss": _mean(losses.numpy()), "accuracy": _of_scores((logits.argmax(1) == labels).numpy())}
    return scores | (_decoded(model, scorer, examples, size, report) if decode else {})


@torch.no_grad()
def predictions(
    model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64, report: Report = SILENT
) -> tuple[Tensor, Tensor]:
    """Return logits, float64 (n, C), and labels (n,) of all examples on the CPU.

    A batch has `size` examples, or fewer if memory runs out.
    """

    def work(items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        batch = scorer.collate(items)
        return scorer.logits(model, batch).double().cpu(), batch["labels"].cpu()

    logits, labels = zip(*in_parts(work, scorer.encode(examples), size, scorer.together, report), strict=True)
    return torch.cat(logits), torch.cat(labels)


def sorted_by_length(task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the examples sorted by the number of characters in the task's fields, the shortest first."""
    return sorted(examples, key=lambda example: sum(len(example[name]) for name in task.fields))


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the names of the task's metrics, the main metric first."""
    return tuple(METRICS[task.metric]) if task.generates else ("accuracy",)


def model_free_scores(task: Task, train: Sequence[Example], heldout: Sequence[Example]) -> dict[str, Score]:
    """Return the scores of two baselines on `heldout`, by the task's main metric.

    `majority` always gives the most common answer of `train`. `random_guess` gives each class with equal probability, or, for a
    generation task, the answer of a random training example.
    """
    if task.generates:
        draws = generator(RANDOM_GUESS_SEED).integers(len(train), size=len(heldout))
        guesses = [first_answer(train[i], task) for i in draws]
        common = Counter(first_answer(example, task) for example in train).most_common(1)[0][0]
        metric = METRICS[task.metric][task.metric]
        texts = {"majority": [common] * len(heldout), "random_guess": guesses}
        return {
            name: _of_scores([metric(g, _answers(e, task)) for g, e in zip(written, heldout, strict=True)])
            for name, written in texts.items()
        }
    label = Counter(example["label"] for example in train).most_common(1)[0][0]
    share = 1 / task.classes
    return {
        "majority": _of_scores([example["label"] == label for example in heldout]),
        "random_guess": Score(share, (share * (1 - share) / len(heldout)) ** 0.5),
    }


def better_baseline(baselines: dict[str, Score]) -> Score:
    """Return the higher score of the baselines."""
    return max(baselines.values(), key=lambda score: score.value)


def _decoded(model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int, report: Report) -> dict[str, Score]:
    task = scorer.task
    if not scorer.writes_text:
        return {}
    texts = scorer.generate(model, examples, size, report)
    if task.generates:
        pairs = [(text, _answers(example, task)) for text, example in zip(texts, examples, strict=True)]
        return {name: _of_scores([metric(*pair) for pair in pairs]) for name, metric in METRICS[task.metric].items()}
    right = [_begins(text, scorer.spelling(example["label"])) for text, example in zip(texts, examples, strict=True)]
    return {"decoded_accuracy": _of_scores(right)}


def _begins(text: str, word: str) -> bool:
    """Return whether `text` begins with the words of `word`."""
    wanted = normalised(word).split()
    return normalised(text).split()[: len(wanted)] == wanted


def _answers(example: Example, task: Task) -> list[str]:
    answer = example[task.target]
    return [answer] if isinstance(answer, str) else answer


def _text_losses(model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the token losses (n,) and the number of tokens (n,) of every example."""

    def work(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        batch = scorer.collate(items)
        logits = scorer.logits(model, batch).float()
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED, reduction="none")
        return losses.sum(1).double().cpu().numpy(), (batch["labels"] != IGNORED).sum(1).cpu().numpy()

    sums, counts = zip(*in_parts(work, scorer.encode(examples), size, scorer.together, report), strict=True)
    return np.concatenate(sums), np.concatenate(counts)


def _ratio(sums: np.ndarray, weights: np.ndarray) -> Score:
    """Return sum(sums) / sum(weights) with its standard error."""
    return Score(float(sums.sum() / weights.sum()), stderr_of_ratio(sums, weights))


def _mean(losses: np.ndarray) -> Score:
    spread = np.std(losses, ddof=1) if len(losses) > 1 else float("nan")
    return Score(float(np.mean(losses)), float(spread / len(losses) ** 0.5))


def _of_scores(scores: Sequence[float] | np.ndarray) -> Score:
    """Return the mean and the standard error of scores in 0..1, one per example."""
    return Score(float(np.mean(scores)), float(stderr_of_mean(scores)))
