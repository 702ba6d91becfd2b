"""Tasks: where the examples come from, and how an example becomes text with a slot for the label word.

A classification example is scored by its label words at the sentinel `<extra_id_0>`, the question that span
corruption has taught the model to answer; so an untuned model is already a classifier, if a poor one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from apet.errors import MissingInput, UsageError, lookup
from apet.mini_sentiment import generate

Example = dict  # the task's fields and "label", an integer


@dataclass(frozen=True)
class Task:
    """`template` over the fields; `words[label]` is what stands for the label; `hub` is (id, configuration)."""

    name: str
    template: str
    words: tuple[str, ...]
    fields: tuple[str, ...]
    hub: tuple[str, str | None] | None = None
    about: str = ""

    @property
    def classes(self) -> int:
        return len(self.words)


_REVIEW = ("terrible", "great")
TASKS = {
    task.name: task
    for task in [
        Task("mini-sentiment", "{sentence} it was <extra_id_0>.", _REVIEW, ("sentence",), None,
             "generated sentences: negation, contrast, intensity; sentiment words of the test set unseen in training"),
        Task("sst2", "{sentence} it was <extra_id_0>.", _REVIEW, ("sentence",), ("nyu-mll/glue", "sst2"),
             "Stanford Sentiment Treebank, 0 negative, 1 positive"),
        Task("rotten_tomatoes", "{text} it was <extra_id_0>.", _REVIEW, ("text",), ("cornell-movie-review-data/rotten_tomatoes", None),
             "movie review sentences, 0 negative, 1 positive"),
    ]
}  # fmt: skip

GENERATED = {"train": 4000, "validation": 1000, "test": 1000}


@dataclass(frozen=True)
class TaskData:
    """The examples of a task by split, and a sha256 of them."""

    task: Task
    splits: dict[str, list[Example]]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.splits, sort_keys=True).encode()).hexdigest()


def load_task(name: str, folder: Path | None = None, test: bool = False) -> TaskData:
    """Examples of the named task: generated, from `folder` (train.jsonl and validation.jsonl; with `test` test.jsonl, if
    it is there with labels), or from the datasets cache.

    Raises UsageError for an unknown name or a bad line (file and line are named), MissingInput where the data are not here.
    """
    task = lookup(TASKS, name, "task")
    if folder is not None:
        splits = {split: _read_jsonl(Path(folder) / f"{split}.jsonl", task) for split in ("train", "validation")}
        return TaskData(task, splits | (_labelled_test(Path(folder) / "test.jsonl", task) if test else {}))
    if task.hub is None:
        return TaskData(task, {split: generate(split, count) for split, count in GENERATED.items()})
    return TaskData(task, _from_cache(task))


def _labelled_test(path: Path, task: Task) -> dict[str, list[Example]]:
    """The test split, if there is one; benchmarks hide its labels behind -1, and then it tells nothing."""
    if not path.is_file() or '"label": -1' in path.read_text(encoding="utf-8"):
        return {}
    return {"test": _read_jsonl(path, task)}


def _read_jsonl(path: Path, task: Task) -> list[Example]:
    if not path.parent.is_dir():
        raise MissingInput(f"no data folder {path.parent}")
    if not path.is_file():
        raise MissingInput(f"no file {path}: the folder must hold train.jsonl and validation.jsonl")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            rows.append(_parse(line, task, f"{path}, line {number}"))
    if not rows:
        raise UsageError(f"{path} holds no example")
    return rows


def _parse(line: str, task: Task, where: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error.msg})") from error
    return _checked(row, task, where)


def _checked(row: object, task: Task, where: str) -> Example:
    wanted = [*task.fields, "label"]
    if not isinstance(row, dict) or any(field not in row for field in wanted):
        raise UsageError(f"{where}: {task.name} needs an object with the fields {', '.join(wanted)}")
    if row["label"] not in range(task.classes):
        raise UsageError(f"{where}: label {row['label']!r} is not in 0..{task.classes - 1}")
    return {field: row[field] for field in wanted}


def _from_cache(task: Task) -> dict[str, list[Example]]:
    assert task.hub is not None
    hub_id, configuration = task.hub
    missing = MissingInput(
        f"{task.name} is not on this machine: pass --data FOLDER with train.jsonl and validation.jsonl, "
        f"or download it with 'hf download --repo-type dataset {hub_id}'"
    )
    try:
        from datasets import DownloadConfig, load_dataset
    except ImportError as error:
        raise missing from error
    try:
        data = load_dataset(hub_id, configuration, download_config=DownloadConfig(local_files_only=True))
    except (OSError, ValueError) as error:  # datasets raises either, by version, for what is not in its cache
        raise missing from error
    return {split: [_checked(dict(row), task, f"{hub_id} {split}") for row in data[split]] for split in ("train", "validation")}
