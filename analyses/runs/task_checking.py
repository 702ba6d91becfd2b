"""Check the definition and the data of a task, and show its examples as a model reads them."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analyses.runs.run_inputs import model_of, plain_scorer, task_data
from analyses.specs import TrainSpec
from apet.errors import UsageError

SHOWN = 3  # examples


def task_check(name: str, model: str | None = None, data: Path | None = None, max_length: int | None = None) -> dict[str, Any]:
    """Return a JSON object about the task `name` (a name of the table or a task file), its data, and its examples for a model.

    definition: the fields of the task.
    splits: one object per split with the numbers of examples, of repeated inputs and of truncated inputs, and the longest input in tokens.
    answers: one object per split with the number of examples per class, or the mean, spread and range of numbers.
    label_words: one object per class with its names and the tokens of its label word.
    examples: the first examples, of different classes if possible, with their tokens after truncation.

    `model` and `max_length` have the defaults of a training run. The readout is label words, or a head for numbers.

    Raises UsageError for an invalid task file or example, and for a model that cannot perform the task. Raises MissingInput if the data or
    the model are not on this machine.
    """
    chosen = {"model": model, "max_length": max_length}
    task_examples = task_data(name, data, True)
    task = task_examples.task
    if task.images:
        raise UsageError(f"{task.name} has images: only tasks with texts can be checked")
    spec = TrainSpec(
        task=name, method="full", readout="auto" if task.regresses else "words", **{key: value for key, value in chosen.items() if value}
    )
    scorer = plain_scorer(spec, model_of(spec))
    unlimited = copy.copy(scorer)
    unlimited.max_length = sys.maxsize
    repeated = task_examples.repeated
    lengths = {split: [scorer.length(item) for item in unlimited.encode(part)] for split, part in task_examples.splits.items()}
    return {
        "definition": {
            "name": task.name, "about": task.about, "type": task.type, "metric": task.metric,
            "score": task.scoring if task.classes else None, "template": task.template, "source": str(data) if data else task.source,
        },
        "model": spec.model,
        "max_length": scorer.max_length,
        "splits": [
            {
                "split": split, "examples": len(counts), "repeated": repeated[split],
                "truncated": sum(length > scorer.max_length for length in counts), "longest": max(counts),
            }
            for split, counts in lengths.items()
        ],
        "answers": [{"split": split} | _balance(task, part) for split, part in task_examples.splits.items()],
        "label_words": [_label_word(task, label, scorer) for label in range(task.classes)],
        "examples": [_shown(example, task, scorer, unlimited) for example in _first(task, task_examples.splits["train"])],
    }  # fmt: skip


def _balance(task: Any, examples: list) -> dict[str, Any]:
    """Return the distribution of the answers of a split: counts of classes, statistics of numbers, or the number of distinct texts."""
    answers = [example[task.target] for example in examples]
    if task.classes:
        counts = Counter(answers)
        return {word: counts[label] for label, word in enumerate(task.words)}
    if task.regresses:
        spread = stdev(answers) if len(answers) > 1 else None
        return {"mean": mean(answers), "standard deviation": spread, "lowest": min(answers), "highest": max(answers)}
    return {"distinct": len({str(answer) for answer in answers})}


def _label_word(task: Any, label: int, scorer: Any) -> dict[str, Any]:
    word = task.words[label]
    class_name = {"class": task.class_names[label]} if task.class_names else {}
    return {"label": label, **class_name, "word": word, "tokens": _tokens(scorer, scorer.tokenizer.continuation(scorer.lead, word))}


def _first(task: Any, examples: list) -> list:
    """Return SHOWN examples: the first of each class, then the first of all."""
    firsts: dict[int, dict] = {}
    for example in examples if task.classes else ():
        firsts.setdefault(example[task.target], example)
    return [*firsts.values(), *(example for example in examples[:SHOWN] if example not in firsts.values())][:SHOWN]


def _shown(example: dict, task: Any, scorer: Any, unlimited: Any) -> dict[str, Any]:
    (item,), (whole,) = scorer.encode([example]), unlimited.encode([example])
    answer = example[task.target]
    return {
        "answer": task.words[answer] if task.classes else answer,
        "text": scorer.tokenizer.pretrained.decode(item["input_ids"]),
        "tokens": _tokens(scorer, item["input_ids"]),
        "untruncated": scorer.length(whole),
    }


def _tokens(scorer: Any, ids: list[int]) -> list[str]:
    return scorer.tokenizer.pretrained.convert_ids_to_tokens(ids)
