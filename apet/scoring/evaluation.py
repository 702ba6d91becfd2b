"""Evaluate a model on a task: loss and metrics with their standard errors over examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.machine import in_parts
from apet.scoring.answers import right_answers
from apet.scoring.label_scores import label_score, number_score
from apet.scoring.loss import IGNORED
from apet.scoring.metrics import TEXT_METRICS, metric_names, normalised
from apet.scoring.sampling_errors import Score, mean_score, stderr_of_ratio
from apet.scoring.scorer import SILENT, Item, Report, Scorer
from apet.tasks import Example, Task


@torch.no_grad()
def evaluate(
    model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64, decode: bool = False, report: Report = SILENT
) -> dict[str, Score]:
    """Return the scores of a model: `loss`, and the task's metrics (`metric_names`) unless the task asks for text.

    `size` is the number of examples per batch. `report(done, total)` receives the number of evaluated examples. With `decode` the result
    also has scores of the model's text, decoded greedily: `decoded_accuracy` (the share of texts that begin with the right label word), or
    the metrics of a generation task. The loss of a generation task is a mean over tokens, with the standard error of a ratio.
    """
    task = scorer.task
    examples = sorted_by_length(task, examples)  # reduces padding and does not change the mean
    if task.generates:
        scores = {"loss": _ratio(*_text_losses(model, scorer, examples, size, report))}
    else:
        outputs, labels = predictions(model, scorer, examples, size, report)
        scores = {"loss": _mean(_losses(task, outputs, labels).numpy())}
        scores |= {name: _score(name, task, outputs, labels.numpy()) for name in metric_names(task)}
    return scores | (_decoded(model, scorer, examples, size, report) if decode else {})


@torch.no_grad()
def predictions(
    model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64, report: Report = SILENT
) -> tuple[Tensor, Tensor]:
    """Return logits, float64 (n, C), and labels (n,) of all examples on the CPU; for a regression, outputs (n, 1) and targets (n,).

    A batch has `size` examples, or fewer if memory runs out.
    """

    def work(items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        batch = scorer.collate(items)
        return scorer.logits(model, batch).double().cpu(), batch["labels"].cpu()

    logits, labels = zip(*in_parts(work, scorer.encode(examples), size, scorer.together, report), strict=True)
    return torch.cat(logits), torch.cat(labels)


def _losses(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each example, (n,)."""
    if task.regresses:
        return (outputs[:, 0] - labels).square()
    return F.cross_entropy(outputs, labels, reduction="none")


def _score(metric: str, task: Task, outputs: Tensor, labels: np.ndarray) -> Score:
    if task.regresses:
        return number_score(metric, labels, outputs[:, 0].numpy())
    return label_score(metric, labels, outputs.argmax(1).numpy(), task.classes)


def sorted_by_length(task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the examples sorted by the number of characters in the task's fields, the shortest first."""
    return sorted(examples, key=lambda example: sum(len(example[name]) for name in task.fields))


def _decoded(model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int, report: Report) -> dict[str, Score]:
    task = scorer.task
    if not scorer.writes_text:
        return {}
    texts = scorer.generate(model, examples, size, report)
    if task.generates:
        pairs = [(text, right_answers(example, task)) for text, example in zip(texts, examples, strict=True)]
        return {name: mean_score([metric(*pair) for pair in pairs]) for name, metric in TEXT_METRICS[task.metric].items()}
    right = [_begins(text, scorer.spelling(example[task.target])) for text, example in zip(texts, examples, strict=True)]
    return {"decoded_accuracy": mean_score(right)}


def _begins(text: str, word: str) -> bool:
    """Return whether `text` begins with the words of `word`."""
    wanted = normalised(word).split()
    return normalised(text).split()[: len(wanted)] == wanted


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
