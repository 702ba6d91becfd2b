"""Tasks: where the examples come from, and how an example becomes text with a slot for its answer.

A template holds the fields and one `{slot}`: T5 puts <extra_id_0> there, BERT [MASK], and BLOOM stops before it. A
classification task is scored by its label words at the slot, the question that pretraining has taught the model to
answer; so an untuned model is already a classifier, if a poor one. What a row needs to be an example stands in
`apet.tasks.examples`.
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
    """A data set of the Hugging Face Hub and what it calls the splits. Loading scripts are not run: where the data set's own
    branch may still be one, `revision` is the Hub's parquet copy of it."""

    id: str
    configuration: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = "test"
    revision: str | None = None

    @property
    def download(self) -> str:
        """The command that brings the data set to this machine."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download --repo-type dataset {self.id}{revision}"


@dataclass(frozen=True)
class Task:
    """`template` over the `fields` and {slot}; `words[label]` is what stands for the label, and no words make a generation task.

    `target` is the field of the answer: an integer label, or one text or a list of texts that are all right.
    `metric` is accuracy, exact_match (with F1) or rouge_l; without `hub` the examples are generated.
    """

    name: str
    template: str
    fields: tuple[str, ...]
    words: tuple[str, ...] = ()
    target: str = "label"
    metric: str = "accuracy"
    hub: Hub | None = None
    about: str = ""
    images: bool = False  # the one field is an image; it has no template

    @property
    def classes(self) -> int:
        return len(self.words)

    @property
    def generates(self) -> bool:
        return not self.words

    @property
    def type(self) -> str:
        return "generation" if self.generates else "classification"

    @property
    def source(self) -> str:
        """Where the examples come from without a folder of one's own: an id of the Hub (and configuration), or `generated`;
        images come from files alone."""
        if self.images:
            return "idx files"
        return "generated" if self.hub is None else " ".join(filter(None, (self.hub.id, self.hub.configuration)))


_GLUE, _SUPERGLUE, _PARQUET = "nyu-mll/glue", "aps/super_glue", "refs/convert/parquet"
_REVIEW = ("terrible", "great")
TASKS = {
    task.name: task
    for task in [
        # Sentiment: 0 negative, 1 positive
        Task("mini-review", "{sentence} it was {slot}.", ("sentence",), _REVIEW,
             about="short plain opinions; all splits share their sentiment words, in other sentences"),
        Task("mini-sentiment", "{sentence} it was {slot}.", ("sentence",), _REVIEW,
             about="negation, contrast, intensity; sentiment words of the test split unseen in training"),
        Task("sst2", "{sentence} it was {slot}.", ("sentence",), _REVIEW, hub=Hub(_GLUE, "sst2"), about="Stanford Sentiment Treebank"),
        Task("rotten_tomatoes", "{text} it was {slot}.", ("text",), _REVIEW, hub=Hub("cornell-movie-review-data/rotten_tomatoes"),
             about="sentences of movie reviews"),
        Task("imdb", "{text} it was {slot}.", ("text",), _REVIEW, hub=Hub("stanfordnlp/imdb", validation="test", test=None),
             about="whole movie reviews; the Hub has no validation split, so its test split is one"),
        # Inference: does the second text follow from the first
        Task("mini-nli", "{premise} {hypothesis} {slot}.", ("premise", "hypothesis"), ("yes", "no"),
             about="is a word of the kind claimed; the words of the test split unseen in training; 0 entailment, 1 contradiction"),
        Task("mnli", "{premise} {hypothesis} true, false or neither? {slot}.", ("premise", "hypothesis"), ("true", "neither", "false"),
             hub=Hub(_GLUE, "mnli", validation="validation_matched", test="test_matched"),
             about="MultiNLI, matched genres; 0 entailment, 1 neutral, 2 contradiction"),
        Task("cb", "{premise} {hypothesis} true, false or neither? {slot}.", ("premise", "hypothesis"), ("true", "false", "neither"),
             hub=Hub(_SUPERGLUE, "cb"), about="CommitmentBank; 0 entailment, 1 contradiction, 2 neutral"),
        Task("rte", "{sentence1} {sentence2} true or false? {slot}.", ("sentence1", "sentence2"), ("true", "false"),
             hub=Hub(_GLUE, "rte"), about="Recognizing Textual Entailment; 0 entailment, 1 not"),
        Task("wnli", "{sentence1} {sentence2} true or false? {slot}.", ("sentence1", "sentence2"), ("false", "true"),
             hub=Hub(_GLUE, "wnli"), about="Winograd sentences, what a pronoun stands for; 0 not, 1 entailment"),
        # Questions about a text
        Task("qnli", "{sentence} {question} is it answered, yes or no? {slot}.", ("sentence", "question"), ("yes", "no"),
             hub=Hub(_GLUE, "qnli"), about="SQuAD's questions; 0 the sentence holds the answer, 1 not"),
        Task("boolq", "{passage} {question}, yes or no? {slot}.", ("passage", "question"), ("no", "yes"),
             hub=Hub(_SUPERGLUE, "boolq"), about="questions that people asked a search engine; 0 no, 1 yes"),
        # Paraphrase: do both texts mean the same
        Task("mini-paraphrase", "{sentence1} {sentence2} {slot}.", ("sentence1", "sentence2"), ("no", "yes"),
             about="synonyms and roles in turned sentences; nouns of the test split unseen in training; 0 different, 1 the same"),
        Task("mrpc", "{sentence1} {sentence2} the same or different? {slot}.", ("sentence1", "sentence2"), ("different", "same"),
             hub=Hub(_GLUE, "mrpc"), about="sentences of the news; 0 different, 1 the same"),
        Task("qqp", "{question1} {question2} the same or different? {slot}.", ("question1", "question2"), ("different", "same"),
             hub=Hub(_GLUE, "qqp"), about="questions of Quora; 0 different, 1 the same"),
        # Generation
        Task("mini-qa", "{context} question: {question} answer: {slot}", ("context", "question"), target="answer", metric="exact_match",
             about="who, where and when in short stories; names and places of the test split unseen in training"),
        Task("mini-summary", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             about="stories of three to five sentences, said in one; the persons of the test split unseen in training"),
        Task("nq_open", "question: {question}? answer: {slot}", ("question",), target="answer", metric="exact_match",
             hub=Hub("google-research-datasets/nq_open", test=None), about="short answers without a context; any in the list is right"),
        Task("samsum", "{dialogue} in short: {slot}", ("dialogue",), target="summary", metric="rouge_l",
             hub=Hub("knkarthick/samsum"), about="summaries of chats"),
        Task("xsum", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             hub=Hub("EdinburghNLP/xsum", revision=_PARQUET), about="one-sentence summaries of BBC articles"),
        Task("multi_news", "{document} in short: {slot}", ("document",), target="summary", metric="rouge_l",
             hub=Hub("alexfabbri/multi_news", revision=_PARQUET), about="long summaries of several articles at once"),
        # Images
        Task("mnist", "", ("image",), tuple("0123456789"), images=True, about="written digits; its test images are the validation split"),
    ]
}  # fmt: skip

GENERATED = {"train": 4000, "validation": 1000, "test": 1000}


@dataclass(frozen=True)
class TaskData:
    """The examples of a task by split, and a sha256 of them (`fingerprint`)."""

    task: Task
    splits: dict[str, list[Example]]

    @cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self.splits)

    @cached_property
    def fingerprint_without_test(self) -> str:
        """sha256 of the splits that every run reads, train and validation: the same whether a test split was loaded or not."""
        return _fingerprint({split: examples for split, examples in self.splits.items() if split != "test"})

    @property
    def repeated(self) -> dict[str, int]:
        """By split, how many examples have inputs that stand earlier in it or in a split before it; public data hold some."""
        seen: set[tuple[str | bytes, ...]] = set()
        found = {}
        for split, examples in self.splits.items():
            before = len(seen)
            seen.update(tuple(example[field] for field in self.task.fields) for example in examples)
            found[split] = len(examples) - (len(seen) - before)
        return found


def _fingerprint(splits: dict[str, list[Example]]) -> str:
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=_digest).encode()).hexdigest()


def _digest(image: bytes) -> str:
    """What stands for an image in a fingerprint."""
    return hashlib.sha256(image).hexdigest()


def load_task(name: str, folder: Path | None = None, test: bool = False) -> TaskData:
    """Examples of the named task: from `folder` (train.jsonl and validation.jsonl, one object a line in the task's field
    names; images: see `apet.tasks.mnist_files`), generated, or of the local copy of its data set of the Hub; nothing is ever downloaded.

    With `test` there is a test split as well, where the source has one with labels (all -1: hidden by a benchmark).
    Raises UsageError for an unknown name or a bad row (file and line are named), MissingInput where the data are not here.
    """
    task = lookup(TASKS, name, "task")
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
    found = {split: checked(rows[split], task) for split in ("train", "validation")}
    test = list(rows.get("test", ()))
    return found | ({"test": checked(test, task)} if test and not hidden(test, task) else {})


def _from_hub(task: Task, hub: Hub, wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    data = _local_copy(task, hub)
    names = {split: getattr(hub, split) for split in wanted if getattr(hub, split) is not None}
    absent = [name for name in names.values() if name not in data]
    if absent:
        raise MissingInput(f"{hub.id} on this machine has no split {absent[0]}, only {', '.join(data)}: '{hub.download}'")
    return _splits(task, {split: _placed(data[name], task, f"{hub.id} {name}") for split, name in names.items()})


def _local_copy(task: Task, hub: Hub) -> Any:
    """Return the data set as `hf download` (or an earlier load_dataset) left it here: {split: rows}."""
    remedy = f"'{hub.download}' downloads it, and a folder with train.jsonl and validation.jsonl replaces it"
    try:
        from datasets import load_dataset
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingInput(f"{task.name} needs the package datasets (pip install datasets); {remedy}", data=...) from error
    try:
        # load_dataset would ask the Hub for the id, and offline it does not look where `hf download` puts the files
        folder = snapshot_download(hub.id, repo_type="dataset", revision=hub.revision, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingInput(f"{task.name} is not on this machine; {remedy}", data=...) from error
    try:
        return load_dataset(folder, hub.configuration)
    except Exception as error:  # half a download, a loading script, files of another kind: each has its own class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingInput(f"the copy of {hub.id} in {folder} cannot be read ({reason}); {remedy}", data=...) from error


def _placed(rows: Any, task: Task, source: str) -> Iterator[Placed]:
    """Yield (where, row) of the rows that have all their texts: published sets hold a few empty ones that no user can mend."""
    known = [name for name in (*task.fields, task.target) if name in rows.column_names]
    for number, row in enumerate(rows.select_columns(known).to_list()):
        if isinstance(row.get(task.target), bool):
            row[task.target] = int(row[task.target])
        if not any(value is None or (isinstance(value, str) and not value.strip()) for value in row.values()):
            yield f"{source}, row {number}", row


def tasks_table() -> list[dict[str, Any]]:
    """All tasks with what a listing shows: template, label words, metric and where the data come from."""
    names = ("name", "type", "classes", "metric", "template", "target", "source", "about")
    return [
        {name: getattr(task, name) for name in names}
        | {"label_words": list(task.words), "fields": list(task.fields), "hub": vars(task.hub) if task.hub else None}
        for task in TASKS.values()
    ]
