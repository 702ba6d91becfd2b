"""The table of tasks: the source of the examples, and the template that turns an example into text with a slot for its answer.

A template contains the fields and one `{slot}`. T5 has <extra_id_0> at the slot, BERT has [MASK], and BLOOM's text ends before it. A
classification task is scored by its label words at the slot. Pretraining has taught the model to fill this slot, so an untuned model
is already a classifier, although a poor one. `apet.tasks.examples` checks the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apet.errors import MissingInput, lookup
from apet.tasks.examples import Example, Placed, checked, distinct, hidden, read_rows, split_file
from apet.tasks.generated import GENERATORS
from apet.tasks.mnist_files import read_images


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face Hub and the names of its splits.

    Loading scripts are never run. If the main branch of a data set may still hold such a script, `revision` names the Hub's parquet copy.
    """

    id: str
    configuration: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = "test"
    revision: str | None = None

    @property
    def download(self) -> str:
        """The command that downloads the data set."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download --repo-type dataset {self.id}{revision}"


@dataclass(frozen=True)
class Task:
    """A task: a `template` with the `fields` and {slot}, label words, and the source of its examples.

    `words[label]` is the label word of a class. A task without label words is a generation task. `target` is the field of the answer: an
    integer label, a number, a text, or a list of texts that are all right. `metric` is the main metric, a key of a table in
    `apet.scoring.metrics`, and `also` names further metrics of labels to report. `scoring` is "first" (a label word is scored by its first
    token that differs), "whole" (by all tokens) or "auto" (by all tokens only if the first tokens coincide). Without `hub` the examples
    are generated.
    """

    name: str
    template: str
    fields: tuple[str, ...]
    words: tuple[str, ...] = ()
    target: str = "label"
    metric: str = "accuracy"
    also: tuple[str, ...] = ()
    hub: Hub | None = None
    about: str = ""
    images: bool = False  # the only field is an image, and there is no template
    scoring: str = "auto"

    @property
    def classes(self) -> int:
        return len(self.words)

    @property
    def outputs(self) -> int:
        """Number of outputs per example: the logits of the classes, one predicted number, or 0 for a text."""
        return 1 if self.regresses else self.classes

    @property
    def rank(self) -> int:
        """Largest rank of one example's Gauss-Newton matrix: C - 1 for C classes, 1 for a number, or 0 for a text (unknown here)."""
        return 1 if self.regresses else max(0, self.classes - 1)

    @property
    def regresses(self) -> bool:
        """Whether the answer is a number."""
        return self.metric in CORRELATIONS

    @property
    def generates(self) -> bool:
        """Whether the answer is a text."""
        return not (self.words or self.regresses)

    @property
    def type(self) -> str:
        return "regression" if self.regresses else "generation" if self.generates else "classification"

    @property
    def source(self) -> str:
        """The default source of the examples: a Hub id (with its configuration), `generated`, or `idx files` for images."""
        if self.images:
            return "idx files"
        return "generated" if self.hub is None else " ".join(filter(None, (self.hub.id, self.hub.configuration)))


CORRELATIONS = ("pearson", "spearman")  # metrics of numbers
_GLUE, _SUPERGLUE, _PARQUET = "nyu-mll/glue", "aps/super_glue", "refs/convert/parquet"
_REVIEW = ("terrible", "great")
TASKS = {
    task.name: task
    for task in [
        # Sentiment: 0 negative, 1 positive
        Task("mini-review", "{sentence} it was {slot}.", ("sentence",), _REVIEW,
             about="short plain opinions; all splits share their sentiment words, in different sentences"),
        Task("mini-sentiment", "{sentence} it was {slot}.", ("sentence",), _REVIEW,
             about="negation, contrast and intensity; the sentiment words of the test split are unseen in training"),
        Task("sst2", "{sentence} it was {slot}.", ("sentence",), _REVIEW, hub=Hub(_GLUE, "sst2"), about="Stanford Sentiment Treebank"),
        Task("rotten_tomatoes", "{text} it was {slot}.", ("text",), _REVIEW, hub=Hub("cornell-movie-review-data/rotten_tomatoes"),
             about="sentences of movie reviews"),
        Task("imdb", "{text} it was {slot}.", ("text",), _REVIEW, hub=Hub("stanfordnlp/imdb", validation="test", test=None),
             about="whole movie reviews; the Hub has no validation split, so the test split takes its place"),
        # Inference: does the second text follow from the first?
        Task("mini-nli", "{premise} {hypothesis} {slot}.", ("premise", "hypothesis"), ("yes", "no"),
             about="is a word of the claimed kind? The words of the test split are unseen in training; 0 entailment, 1 contradiction"),
        Task("mnli", "{premise} {hypothesis} true, false or neither? {slot}.", ("premise", "hypothesis"), ("true", "neither", "false"),
             hub=Hub(_GLUE, "mnli", validation="validation_matched", test="test_matched"),
             about="MultiNLI, matched genres; 0 entailment, 1 neutral, 2 contradiction"),
        Task("cb", "{premise} {hypothesis} true, false or neither? {slot}.", ("premise", "hypothesis"), ("true", "false", "neither"),
             hub=Hub(_SUPERGLUE, "cb"), about="CommitmentBank; 0 entailment, 1 contradiction, 2 neutral"),
        Task("rte", "{sentence1} {sentence2} true or false? {slot}.", ("sentence1", "sentence2"), ("true", "false"),
             hub=Hub(_GLUE, "rte"), about="Recognizing Textual Entailment; 0 entailment, 1 not entailment"),
        Task("wnli", "{sentence1} {sentence2} true or false? {slot}.", ("sentence1", "sentence2"), ("false", "true"),
             hub=Hub(_GLUE, "wnli"), about="Winograd sentences: the noun behind a pronoun; 0 not entailment, 1 entailment"),
        # Questions about a text
        Task("qnli", "{sentence} {question} is it answered, yes or no? {slot}.", ("sentence", "question"), ("yes", "no"),
             hub=Hub(_GLUE, "qnli"), about="questions of SQuAD; 0 the sentence contains the answer, 1 it does not"),
        Task("boolq", "{passage} {question}, yes or no? {slot}.", ("passage", "question"), ("no", "yes"),
             hub=Hub(_SUPERGLUE, "boolq"), about="questions that people asked a search engine; 0 no, 1 yes"),
        # Paraphrase: do the two texts have the same meaning?
        Task("mini-paraphrase", "{sentence1} {sentence2} {slot}.", ("sentence1", "sentence2"), ("no", "yes"),
             about="synonyms and roles in rearranged sentences; the nouns of the test split are unseen in training; 0 different, 1 same"),
        Task("mrpc", "{sentence1} {sentence2} the same or different? {slot}.", ("sentence1", "sentence2"), ("different", "same"),
             also=("f1",), hub=Hub(_GLUE, "mrpc"), about="sentences from the news; 0 different, 1 same"),
        Task("qqp", "{question1} {question2} the same or different? {slot}.", ("question1", "question2"), ("different", "same"),
             also=("f1",), hub=Hub(_GLUE, "qqp"), about="questions from Quora; 0 different, 1 same"),
        # Generation
        Task("mini-qa", "{context} question: {question} answer: {slot}", ("context", "question"), target="answer", metric="exact_match",
             about="who, where and when in short stories; the names and places of the test split are unseen in training"),
        Task("mini-summary", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             about="stories of three to five sentences, summarised in one; the persons of the test split are unseen in training"),
        Task("nq_open", "question: {question}? answer: {slot}", ("question",), target="answer", metric="exact_match",
             hub=Hub("google-research-datasets/nq_open", test=None),
             about="questions without a context, with short answers; any answer in the list is right"),
        Task("samsum", "{dialogue} in short: {slot}", ("dialogue",), target="summary", metric="rouge_l",
             hub=Hub("knkarthick/samsum"), about="summaries of chats"),
        Task("xsum", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             hub=Hub("EdinburghNLP/xsum", revision=_PARQUET), about="one-sentence summaries of BBC articles"),
        Task("multi_news", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             hub=Hub("alexfabbri/multi_news", revision=_PARQUET), about="long summaries of several articles at once"),
        # Images
        Task("mnist", "", ("image",), tuple("0123456789"), images=True,
             about="handwritten digits; the test images are the validation split"),
    ]
}  # fmt: skip

GENERATED = {"train": 4000, "validation": 1000, "test": 1000}


@dataclass(frozen=True)
class TaskData:
    """The examples of a task by split."""

    task: Task
    splits: dict[str, list[Example]]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all splits."""
        return _fingerprint(self.splits)

    @cached_property
    def fingerprint_without_test(self) -> str:
        """sha256 of the splits that every run reads: train and validation, whether a test split was loaded or not."""
        return _fingerprint({split: examples for split, examples in self.splits.items() if split != "test"})

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


def _fingerprint(splits: dict[str, list[Example]]) -> str:
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=_digest).encode()).hexdigest()


def _digest(image: bytes) -> str:
    """Return the hash that represents an image in a fingerprint."""
    return hashlib.sha256(image).hexdigest()


def task_named(name: str) -> Task:
    """Return the task `name`. Raises UsageError for an unknown name."""
    return lookup(TASKS, name, "task")


def load_task(name: str, folder: Path | None = None, test: bool = False) -> TaskData:
    """Load the examples of the task `name` from `folder`, from a generator, or from the local copy of a Hub data set.

    `folder` holds train.jsonl and validation.jsonl, with one object per line that has the task's fields (for images, see
    `apet.tasks.mnist_files`). Nothing is ever downloaded. With `test` the result also has the test split, if the source has one with
    labels (a benchmark that hides them sets all to -1).

    Raises UsageError for an unknown name or an invalid row (with its file and line), and MissingInput if the data are not on this machine.
    """
    task = task_named(name)
    wanted = ("train", "validation", "test") if test else ("train", "validation")
    if task.images:
        return TaskData(task, read_images(folder, task.classes))
    if folder is not None:
        return TaskData(task, _from_folder(task, Path(folder), wanted))
    if task.hub is None:
        return TaskData(task, {split: GENERATORS[name](split, GENERATED[split]) for split in wanted})
    return TaskData(task, _from_hub(task, task.hub, wanted))


def _from_folder(task: Task, folder: Path, wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    paths = {split: split_file(folder, split) for split in wanted if split != "test" or (folder / "test.jsonl").is_file()}
    distinct(paths.values())
    return _splits(task, {split: read_rows(path) for split, path in paths.items()})


def _splits(task: Task, rows: dict[str, Iterator[Placed]]) -> dict[str, list[Example]]:
    examples = {split: checked(rows[split], task) for split in ("train", "validation")}
    test = list(rows.get("test", ()))
    return examples | ({"test": checked(test, task)} if test and not hidden(test, task) else {})


def _from_hub(task: Task, hub: Hub, wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    data = _local_copy(task, hub)
    names = {split: getattr(hub, split) for split in wanted if getattr(hub, split) is not None}
    absent = [name for name in names.values() if name not in data]
    if absent:
        raise MissingInput(f"{hub.id} on this machine has no split {absent[0]}, only {', '.join(data)}: run '{hub.download}'")
    return _splits(task, {split: _placed(data[name], task, f"{hub.id} {name}") for split, name in names.items()})


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


def _placed(rows: Any, task: Task, source: str) -> Iterator[Placed]:
    """Yield (location, row) for every row without empty fields. Published data sets have a few empty texts, which users cannot correct."""
    known = [name for name in (*task.fields, task.target) if name in rows.column_names]
    for number, row in enumerate(rows.select_columns(known).to_list()):
        if isinstance(row.get(task.target), bool):
            row[task.target] = int(row[task.target])
        if not any(value is None or (isinstance(value, str) and not value.strip()) for value in row.values()):
            yield f"{source}, row {number}", row


def tasks_table() -> list[dict[str, Any]]:
    """Return one row per task with the columns of a listing: template, label words, metric, source of the data and so on."""
    names = ("name", "type", "classes", "metric", "template", "target", "source", "about")
    return [
        {name: getattr(task, name) for name in names}
        | {"label_words": list(task.words), "fields": list(task.fields), "hub": vars(task.hub) if task.hub else None}
        for task in TASKS.values()
    ]
