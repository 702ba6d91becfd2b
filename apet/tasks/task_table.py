"""The table of tasks: the source of the examples, and the template that turns an example into text with a slot for its answer.

A template contains the fields and one `{slot}`. T5 has <extra_id_0> at the slot, BERT has [MASK], and BLOOM's text ends before it. A
classification task is scored by its label words at the slot. Pretraining has taught the model to fill this slot, so an untuned model
is already a classifier, although a poor one. `apet.tasks.examples` checks the rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face Hub, the names of its splits, and its own names for columns (see `Task.columns`).

    Loading scripts are never run. If the main branch of a data set may still hold such a script, `revision` names the Hub's parquet copy.
    """

    id: str
    configuration: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"
    revision: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def download(self) -> str:
        """The command that downloads the data set."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download --repo-type dataset {self.id}{revision}"


@dataclass(frozen=True)
class Files:
    """A folder with one file per split. Without a name, a split's file is `train`, `validation` or `test` with a known ending."""

    folder: Path
    train: str | None = None
    validation: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class Task:
    """A task: a `template` with the `fields` and {slot}, label words, and the source of its examples.

    `words[label]` is the label word of a class. A task without label words asks for a number if its `metric` is one of CORRELATIONS,
    otherwise for a text. `target` is the field of the answer: an integer label, a number, a text, or a list of texts that are all right.
    `metric` is the main metric, a key of a table in `apet.scoring.metrics`, and `also` names further metrics of labels to report. `scoring`
    is "first" (a label word is scored by its first token that differs), "whole" (by all tokens) or "auto" (by all tokens only if the first
    tokens coincide).

    The examples come from `hub` or `files`; without both they are generated. `columns` holds pairs of a field and the name of its column
    in the data, if the two differ. `class_names` are other names for the classes in the data. `held_out` is the share of the training
    examples that takes the place of a missing validation split.
    """

    name: str
    template: str
    fields: tuple[str, ...]
    words: tuple[str, ...] = ()
    target: str = "label"
    metric: str = "accuracy"
    also: tuple[str, ...] = ()
    scoring: str = "auto"
    hub: Hub | None = None
    about: str = ""
    images: bool = False  # the only field is an image, and there is no template
    files: Files | None = None
    columns: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] = ()
    held_out: float = 0.0

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
        """The default source of the examples: a Hub id (with its configuration), a folder, `generated`, or `idx files` for images."""
        if self.images:
            return "idx files"
        if self.hub is not None:
            return " ".join(filter(None, (self.hub.id, self.hub.configuration)))
        return "generated" if self.files is None else str(self.files.folder)

    @property
    def built_in(self) -> bool:
        """Whether the table has a task of this name."""
        return self.name in TASKS

    @property
    def definition(self) -> dict[str, Any]:
        """The fields that determine inputs and scores of a model, except fields at their default, as a JSON object."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: vars(self)[name] for name in DEFINING if vars(self)[name] != defaults[name]}

    def column(self, field: str) -> str:
        """Return the name of a field's column in the data."""
        return dict(self.columns).get(field, field)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns of the data that hold the fields, and last the column of the target."""
        return tuple(self.column(field) for field in (*self.fields, self.target))

    @cached_property
    def class_labels(self) -> dict[str, int]:
        """Every name of a class (label word or class name) with the label of the class."""
        return {name: label for names in (self.words, self.class_names) for label, name in enumerate(names)}

    @cached_property
    def numbered_names(self) -> bool:
        """Whether any name of a class is a whole number. All labels in the data are then names."""
        return any(re.fullmatch(r"[-+]?\d+", name) for name in self.class_labels)


CORRELATIONS = ("pearson", "spearman")  # metrics of numbers
SCORINGS = ("auto", "first", "whole")  # of label words: first if possible, the first token in which they differ, or all tokens
DEFINING = ("template", "fields", "words", "target", "metric", "scoring")
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
        # Classes of single sentences and articles
        Task("ag_news", "{text} this is about {slot}.", ("text",), ("world", "sports", "business", "technology"),
             hub=Hub("fancyzhx/ag_news", validation="test", test=None),
             about="topics of news; 0 world, 1 sports, 2 business, 3 technology; the test split takes the place of a validation split"),
        Task("trec", "{text} the answer is a {slot}.", ("text",), ("short", "thing", "description", "person", "place", "number"),
             hub=Hub("SetFit/TREC-QC", validation="test", test=None, columns=(("label", "label_coarse_original"),)),
             class_names=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
             about="kinds of questions; 0 abbreviation, 1 entity, 2 description, 3 human, 4 location, 5 number; the test split takes the "
             "place of a validation split"),
        Task("subj", "{text} this is a {slot}.", ("text",), ("fact", "opinion"), hub=Hub("SetFit/subj", validation="test", test=None),
             about="sentences about films; 0 objective, 1 subjective; the test split takes the place of a validation split"),
        Task("cola", "{sentence} this is {slot}.", ("sentence",), ("wrong", "correct"), metric="matthews", hub=Hub(_GLUE, "cola"),
             about="Corpus of Linguistic Acceptability; 0 unacceptable, 1 acceptable"),
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
        # Numbers
        Task("stsb", "{sentence1} {sentence2} how similar? {slot}.", ("sentence1", "sentence2"), metric="pearson", hub=Hub(_GLUE, "stsb"),
             about="similarity of two sentences, a number from 0 to 5"),
        # Images
        Task("mnist", "", ("image",), tuple("0123456789"), images=True,
             about="handwritten digits; the test images are the validation split"),
    ]
}  # fmt: skip


def tasks_table() -> list[dict[str, Any]]:
    """Return one row per task with the columns of a listing: template, label words, metric, source of the data and so on."""
    names = ("name", "type", "classes", "metric", "template", "target", "source", "about")
    return [
        {name: getattr(task, name) for name in names}
        | {"label_words": list(task.words), "fields": list(task.fields), "hub": vars(task.hub) if task.hub else None}
        for task in TASKS.values()
    ]
