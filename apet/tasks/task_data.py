"""Load the examples of a task from files, from the local copy of a Hub data set, or from a generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from apet.errors import MissingInput, UsageError, lookup
from apet.random_numbers import permutation
from apet.tasks.examples import Example, checked, hidden
from apet.tasks.generated import GENERATORS
from apet.tasks.mnist_files import read_images
from apet.tasks.own_tasks import read_task
from apet.tasks.row_files import FORMATS, Placed, check_folder, distinct, numbered, read_rows, split_file, untyped
from apet.tasks.task_table import TASKS, Files, Hub, Task

SPLITS = ("train", "validation", "test")
GENERATED = {"train": 4000, "validation": 1000, "test": 1000}
HELD_OUT_SEED = 20261129


@dataclass(frozen=True)
class TaskData:
    """The examples of a task by split."""

    task: Task
    splits: dict[str, list[Example]]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all splits and of the definition of a task that is not built in."""
        return self._fingerprint(self.splits)

    @cached_property
    def fingerprint_without_test(self) -> str:
        """`fingerprint` of the splits that every run reads: train and validation, whether a test split was loaded or not."""
        return self._fingerprint({split: examples for split, examples in self.splits.items() if split != "test"})

    def _fingerprint(self, splits: dict[str, list[Example]]) -> str:
        content = splits if self.task.built_in else [self.task.definition, splits]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=_digest).encode()).hexdigest()

    @property
    def repeated(self) -> dict[str, int]:
        """The number of examples of each split whose inputs occur earlier in the split or in an earlier split (common in public data)."""
        seen: set[tuple[str | bytes, ...]] = set()
        counts = {}
        for split, examples in self.splits.items():
            before = len(seen)
            seen.update(tuple(example[field] for field in self.task.fields) for example in examples)
            counts[split] = len(examples) - (len(seen) - before)
        return counts


def _digest(image: bytes) -> str:
    """Return the hash that represents an image in a fingerprint."""
    return hashlib.sha256(image).hexdigest()


def task_named(name: str) -> Task:
    """Return the task `name` of the table or, if `name` ends in .yaml or .yml, the task that this file describes.

    A file is read once per process. Raises UsageError for an unknown name and for an invalid file (see `read_task`), and MissingInput if
    the file does not exist.
    """
    return _described(Path(name).absolute(), name) if name.endswith((".yaml", ".yml")) else lookup(TASKS, name, "task")


@cache
def _described(path: Path, name: str) -> Task:
    return read_task(Path(name))


def load_task(name: str, folder: Path | None = None, test: bool = False) -> TaskData:
    """Load the examples of the task `name` (see `task_named` and `load_data`)."""
    return load_data(task_named(name), folder, test)


def load_data(task: Task, folder: Path | None = None, test: bool = False) -> TaskData:
    """Load the examples of a task from `folder` or, without a folder, from the task's own source.

    `folder` holds one file per split (`apet.tasks.row_files`; for images, see `apet.tasks.mnist_files`). Nothing is ever downloaded. With
    `test` the result also has the test split, if the source has one with labels (a benchmark that hides them sets all to -1).

    Raises UsageError for an invalid row (with its file and line), and MissingInput if the data are not on this machine.
    """
    wanted = SPLITS if test else SPLITS[:2]
    if task.images:
        splits = read_images(folder, task.classes)
    elif folder is not None or task.files is not None:
        files = task.files or Files(Path())
        splits = _from_files(task, files if folder is None else replace(files, folder=Path(folder)), wanted)
    elif task.hub is not None:
        splits = _from_hub(task, task.hub, wanted)
    else:
        splits = {split: GENERATORS[task.name](split, GENERATED[split]) for split in wanted}
    return TaskData(task, splits)


def _from_files(task: Task, files: Files, wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    check_folder(files.folder)
    paths = {split: path for split in wanted if (path := _path(task, files, split)) is not None}
    distinct(paths.values())
    texts_only = {split for split, path in paths.items() if untyped(path)}
    return _splits(task, {split: read_rows(path, task.read_columns) for split, path in paths.items()}, texts_only)


def _path(task: Task, files: Files, split: str) -> Path | None:
    """Return the file of a split; None for a missing test split, and for a validation split that is held out from the training examples.

    Raises MissingInput if the file does not exist, and UsageError if the validation split exists although it is to be held out.
    """
    given = getattr(files, split)
    path = split_file(files.folder, split) if given is None else files.folder / given
    if split == "validation" and task.held_out:
        if path is not None:
            raise UsageError(f"{path} exists, but {task.name} holds out a share of the training examples for validation: keep only one")
        return None
    if given is not None and not (files.folder / given).is_file():
        raise MissingInput(f"no file {path}, which the task {task.name} names as its {split} split")
    if path is None and split != "test":
        *endings, last = FORMATS
        advice = " (or a task file with 'splits: {validation: 0.1}')" if split == "validation" else ""
        raise MissingInput(
            f"no file {files.folder / split}{endings[0]}: the folder must hold a train and a validation file that end in "
            f"{', '.join(endings)} or {last}{advice}"
        )
    return path


def _splits(task: Task, rows: dict[str, Iterable[Placed]], texts_only: Collection[str] = ()) -> dict[str, list[Example]]:
    """Return the examples of each split, without a test split whose labels are hidden. All values of the splits `texts_only` are texts."""
    examples = {split: checked(rows[split], task, split in texts_only) for split in rows if split != "test"}
    test = list(rows.get("test", ()))
    if test and not hidden(test, task):
        examples["test"] = checked(test, task, "test" in texts_only)
    return _with_validation(examples, task)


def _with_validation(examples: dict[str, list[Example]], task: Task) -> dict[str, list[Example]]:
    """Return the splits in their order, with a fixed random share of the training examples as validation split if the task asks for it."""
    if not task.held_out:
        return examples
    train = examples["train"]
    count = max(1, round(task.held_out * len(train)))
    if count >= len(train):
        raise UsageError(f"{task.name} has {len(train)} training examples: too few to hold out {task.held_out:g} of them for validation")
    chosen = set(permutation(HELD_OUT_SEED, "validation", len(train))[:count].tolist())
    parts = {
        "train": [example for i, example in enumerate(train) if i not in chosen],
        "validation": [example for i, example in enumerate(train) if i in chosen],
    }
    return parts | {split: examples[split] for split in examples if split not in parts}


def _from_hub(task: Task, hub: Hub, wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    data, task = _local_copy(task, hub), replace(task, columns=hub.columns or task.columns)
    names = {split: getattr(hub, split) for split in wanted if getattr(hub, split) is not None}
    absent = [name for split, name in names.items() if name not in data and split != "test"]
    if absent:
        raise MissingInput(f"{hub.id} on this machine has no split {absent[0]}, only {', '.join(data)}: run '{hub.download}'")
    return _splits(task, {split: _placed(data[name], task, f"{hub.id} {name}") for split, name in names.items() if name in data})


def _local_copy(task: Task, hub: Hub) -> Any:
    """Return the data set that `hf download` (or an earlier load_dataset) stored on this machine: {split: rows}."""
    remedy = f"download the data set with '{hub.download}', or provide a folder with train.jsonl and validation.jsonl"
    try:
        from datasets import load_dataset
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingInput(f"{task.name} needs the package datasets (pip install datasets); {remedy}", data=...) from error
    try:
        # With an id, load_dataset would query the Hub. Offline it would not find the files of `hf download`.
        folder = snapshot_download(hub.id, repo_type="dataset", revision=hub.revision, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingInput(f"{task.name} is not on this machine; {remedy}", data=...) from error
    try:
        return load_dataset(folder, hub.configuration)
    except Exception as error:  # partial downloads, loading scripts and foreign files each raise another class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingInput(f"the copy of {hub.id} in {folder} cannot be read ({reason}); {remedy}", data=...) from error


def _placed(rows: Any, task: Task, source: str) -> Iterable[Placed]:
    """Yield (location, row) for every row without empty fields. Published data sets have a few empty texts, which users cannot correct."""
    known = [name for name in task.read_columns if name in rows.column_names]
    for number, row in enumerate(rows.select_columns(known).to_list()):
        if not any(value is None or (isinstance(value, str) and not value.strip()) for value in row.values()):
            yield f"{source}, row {number}", numbered(row)
