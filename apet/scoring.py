"""Label-word scoring: a batch of examples -> one logit a class.

The decoder is given `<pad> <extra_id_0>` and asked for the next piece; class c's logit is that of its label word's
first piece. The loss is the cross-entropy over the C label words alone, so its Gauss-Newton matrix has rank at most
n (C - 1).

A language model prefers some words to others whatever the input. That prior, the untuned model's mean logits over
unlabelled examples, is taken off once (calibration as in Zhao et al. 2021, arXiv 2102.09690, with the task's own inputs):
otherwise the first parameters tuned only unlearn it, and the quadratic at the pretrained point describes little else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError
from apet.tasks import Example, Task

Batch = dict[str, Tensor]  # input_ids (B, T), attention_mask (B, T), labels (B,)


class Scorer:
    """Turns examples into batches and batches into label-word logits, for one task and tokenizer."""

    def __init__(self, task: Task, tokenizer: Any, start: int, max_length: int = 128, device: str = "cpu"):
        self.task, self.tokenizer, self.max_length, self.device = task, tokenizer, max_length, device
        sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
        self.prefix = torch.tensor([[start, sentinel]], device=device)
        first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in task.words]
        if len(set(first)) < len(first):
            raise UsageError(f"the label words {task.words} do not differ in their first piece under this tokenizer")
        self.label_ids = torch.tensor(first, device=device)  # (C,)
        self.prior = torch.zeros(len(first), device=device)  # (C,)
        tail = task.template.rsplit("}", 1)[1]
        self._tail = len(tokenizer(tail)["input_ids"])  # pieces after the last field, </s> included

    @torch.no_grad()
    def calibrate(self, model: nn.Module, examples: Sequence[Example]) -> None:
        """Measure the label words' prior under `model`, the untuned one, on `examples` (labels are not looked at)."""
        logits, _ = predictions(model, self, examples)
        self.prior += logits.mean(0).to(self.prior)

    def encode(self, examples: Sequence[Example]) -> list[list[int]]:
        """Piece ids of every example; a long field loses its end, never the question after it."""
        texts = [self.task.template.format(**example) for example in examples]
        encoded = self.tokenizer(texts)["input_ids"]
        return [ids if len(ids) <= self.max_length else ids[: self.max_length - self._tail] + ids[-self._tail :] for ids in encoded]

    def batch(self, encoded: Sequence[list[int]], examples: Sequence[Example]) -> Batch:
        """Pad to the longest of these examples."""
        width = max(map(len, encoded))
        ids = np.full((len(encoded), width), self.tokenizer.pad_token_id)
        mask = np.zeros((len(encoded), width), dtype=np.int64)
        for i, row in enumerate(encoded):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        labels = np.array([example["label"] for example in examples])
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: torch.as_tensor(array, device=self.device) for name, array in arrays.items()}

    def batches(self, examples: Sequence[Example], size: int) -> Iterator[Batch]:
        """All examples in order, `size` at a time; the last batch may be smaller."""
        encoded = self.encode(examples)
        for start in range(0, len(examples), size):
            yield self.batch(encoded[start : start + size], examples[start : start + size])

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Label-word logits less their prior (B, C)."""
        inputs = {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "decoder_input_ids": self.prefix.expand(len(batch["labels"]), -1),
        }
        return model(**inputs).logits[:, -1, self.label_ids] - self.prior


def cross_entropy(logits: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """(sum of losses, number of examples): the pieces of an exact mean over any batching."""
    return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, batch["labels"], reduction="sum"), float(len(logits))


@torch.no_grad()
def evaluate(model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64) -> dict[str, float]:
    """Mean loss and accuracy over `examples`, each with its standard error over examples (fractions, nats)."""
    by_length = sorted(examples, key=lambda example: sum(len(str(example[name])) for name in scorer.task.fields))
    logits, labels = predictions(model, scorer, by_length, size)  # sorted: less padding, the same mean
    losses = F.cross_entropy(logits, labels, reduction="none")
    right = (logits.argmax(1) == labels).double()
    n = len(losses)
    return {
        "loss": losses.mean().item(),
        "loss_stderr": losses.std().item() / n**0.5,
        "accuracy": right.mean().item(),
        "accuracy_stderr": (right.mean() * (1 - right.mean()) / n).sqrt().item(),
    }


@torch.no_grad()
def predictions(model: nn.Module, scorer: Scorer, examples: Sequence[Example], size: int = 64) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and labels (n,) of all examples, float64, on the CPU."""
    found = [(scorer.logits(model, b).double().cpu(), b["labels"].cpu()) for b in scorer.batches(examples, size)]
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


def chance(examples: Sequence[Example], classes: int) -> float:
    """What needs no model: the larger of the majority class's share and 1 / C."""
    counts = np.bincount([example["label"] for example in examples], minlength=classes)
    return float(max(counts.max() / counts.sum(), 1 / classes))
