"""Right answers of examples, and the tokens by which label words are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apet.errors import UsageError
from apet.tasks import Example, Task


def right_answers(example: Example, task: Task) -> list[str]:
    """Return all right target texts."""
    answer = example[task.target]
    return [answer] if isinstance(answer, str) else answer


def first_answer(example: Example, task: Task) -> str:
    """Return the target text: the only right answer or the first of several."""
    return right_answers(example, task)[0]


def label_tokens(task: Task, words: list[list[int]], unknown: int | None, stems: bool) -> tuple[list[int], list[list[int]], bool]:
    """Return the stem, the scored tokens of each label word, and whether they are whole words.

    `words` are the tokens of the label words, and `unknown` is the id of an unknown token. The stem are the tokens with which all words
    begin; without `stems` the model cannot read a stem. Raises UsageError if a token is unknown, or if the scored tokens of two words are
    equal.
    """
    for word, ids in zip(task.words, words, strict=True):
        if not ids or unknown in ids:
            raise UsageError(f"the tokenizer does not know the label word {word!r}: choose another label word or model")
    same = 0
    while same < min(map(len, words), default=0) and len({ids[same] for ids in words}) == 1:
        same += 1
    stem, rest = words[0][:same] if words else [], [ids[same : same + 1] for ids in words]
    distinct = [] not in rest and len({ids[0] for ids in rest}) == len(rest) and (not stem or stems)
    if distinct and task.scoring != "whole":
        return stem, rest, False
    if task.scoring == "first":
        raise UsageError(
            f"the label words {task.words} do not differ in their first token under this tokenizer: "
            "choose other label words, or score whole words"
        )
    if len(set(map(tuple, words))) < len(words):
        raise UsageError(f"the label words {task.words} must have different tokens under this tokenizer: choose other label words")
    return [], words, True


def mean_log_probabilities(logits: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean log-probability of the L tokens of each of `words`, (B, number of words), from logits (B, L, V)."""
    log_p = (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(-1)
    tokens = torch.tensor(words, device=logits.device).T  # (L, number of words)
    return log_p.gather(-1, tokens.expand(len(log_p), -1, -1)).mean(1)
