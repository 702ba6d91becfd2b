"""Read a task of the user's own from a YAML file.

    name: support
    fields: [message]
    template: "{message} this is about {slot}."
    label_words: [money, delivery, quality]
    target: topic                       # the column of the labels
    source: {files: data}               # a folder with train.csv and validation.csv, relative to this file

`KEYS` lists all keys. Every error names the file and the line of the key.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

from apet.errors import UsageError, did_you_mean
from apet.tasks.row_files import FORMATS
from apet.tasks.task_table import CORRELATIONS, SCORINGS, TASKS, Files, Hub, Task
from apet.yaml_lines import Mapping, read_yaml

KEYS = {
    "name": "Name of the task in results. A name of the built-in tasks is permitted only with the same definition.",
    "about": "One sentence about the task. Optional.",
    "fields": "List of the text fields of an example.",
    "template": "Text with every field in braces and one {slot} for the answer. A causal model reads only the text before {slot}.",
    "label_words": "List of the label words, label 0 first. A task without label words asks for a text or a number.",
    "classes": "List of class names in the order of the label words, if the data use other names. Optional.",
    "target": "Field of the answer: a label (an integer from 0, a label word or a class name), a text, a list of texts, or a number. "
    "Default: label.",
    "metric": "Main metric. With label words: accuracy (default), f1 or matthews. Texts: exact_match (default) or rouge_l. "
    "Numbers: pearson or spearman.",
    "score": "Scoring of label words: first (the first token in which the words differ), whole (all tokens), or auto (first if possible). "
    "Default: auto.",
    "source": "Source of the data: {files: FOLDER}, relative to the task file, or {hub: ID, configuration: NAME, revision: NAME}. "
    "Default: the folder of the task file. The option --data replaces the source.",
    "splits": "Files or Hub splits for train, validation and test. A number as validation, such as 0.1, holds out this share of the "
    "training examples, chosen at random with a fixed seed. Default: files or splits with these three names.",
    "columns": "Mapping of fields to names of columns in the data, where they differ. Optional.",
}
METRICS = {True: ("accuracy", "f1", "matthews"), False: ("exact_match", "rouge_l", *CORRELATIONS)}  # with and without label words
ANSWER = "label"  # the field of every label and number, whatever its column


def read_task(path: Path) -> Task:
    """Return the task that a YAML file describes.

    Raises MissingInput if the file does not exist. Raises UsageError, with the file and line, for an invalid key or value, and for the
    name of a built-in task with another definition.
    """
    content = read_yaml(path, "task")
    content.only(tuple(KEYS))
    name, fields = _name(content), _fields(content)
    words = _names(content, "label_words") if "label_words" in content else ()
    if len(words) == 1:
        raise UsageError(f"{content.at('label_words')}label_words: a single class leaves nothing to learn: list at least two label words")
    metric = _metric(content, bool(words))
    target = _word(content, "target", "label")
    if target in fields:
        raise UsageError(f"{content.at('target')}target: '{target}' is one of the fields, which the model reads: name the answer's field")
    columns = _columns(content, (*fields, target))
    answer = target if not words and metric not in CORRELATIONS else ANSWER
    if answer in fields:
        raise UsageError(f"{content.at('fields')}fields: '{answer}' is the name of every label: rename the field, and map it with columns")
    files, hub, held_out = _source(content, path.parent)
    task = Task(
        name, _template(content, fields), fields, words, answer, metric, scoring=_scoring(content, words), hub=hub,
        about=_text(content, "about", ""), files=files, class_names=_class_names(content, words), held_out=held_out,
        columns=tuple((field, column) for field, column in zip((*fields, answer), columns, strict=True) if field != column),
    )  # fmt: skip
    if task.built_in and task.definition != TASKS[name].definition:
        raise UsageError(f"{content.at('name')}name: '{name}' is a built-in task with another definition: choose another name")
    return task


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _text(content: Mapping, key: str, default: str | None = None) -> str:
    """Return the text at `key`. Raises UsageError if it is missing without a default, and for another type."""
    if key not in content and default is None:
        raise UsageError(f"{content.where}the key '{key}' is missing: {KEYS[key]}")
    value = content.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        quoted = f': write "{_shown(value)}"' if isinstance(value, bool | int | float) else ""
        raise UsageError(f"{content.at(key)}{key}: {_shown(value)} is not a text{quoted}")
    return value


def _word(content: Mapping, key: str, default: str) -> str:
    word = _text(content, key, default)
    if not re.fullmatch(r"\w+", word):
        raise UsageError(f"{content.at(key)}{key}: '{word}' is not a name of letters, digits and '_': choose one, and map it with columns")
    return word


def _name(content: Mapping) -> str:
    name = _text(content, "name")
    if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith((".yaml", ".yml")):
        raise UsageError(f"{content.at('name')}name: use letters, digits, '-', '_' and '.', beginning with a letter or digit (got: {name})")
    return name


def _names(content: Mapping, key: str) -> tuple[str, ...]:
    """Return the list of distinct texts at `key`."""
    values = content.get(key)
    if not isinstance(values, list) or not values:
        raise UsageError(f"{content.at(key)}{key}: {_shown(values)} is not a list of texts: write {key}: [first, second]")
    for value in values:
        if not isinstance(value, str):
            quoted = f': put it in quotes, "{_shown(value)}"' if isinstance(value, bool | int | float) else ""
            raise UsageError(f"{content.at(key)}{key}: {_shown(value)} is not a text{quoted}")
        if value != value.strip() or not value:
            raise UsageError(f"{content.at(key)}{key}: {_shown(value)} is empty or has spaces at its ends: write a word")
        if values.count(value) > 1:
            raise UsageError(f"{content.at(key)}{key}: '{value}' occurs twice: the names must be distinct")
    return tuple(values)


def _fields(content: Mapping) -> tuple[str, ...]:
    if "fields" not in content:
        raise UsageError(f"{content.where}the key 'fields' is missing: {KEYS['fields']}")
    fields = _names(content, "fields")
    for field in fields:
        if not re.fullmatch(r"\w+", field) or field == "slot" or field.isdigit():
            raise UsageError(
                f"{content.at('fields')}fields: '{field}' cannot stand in a template: use a name of letters, digits and '_' other than "
                "slot, and map it with columns"
            )
    return fields


def _template(content: Mapping, fields: tuple[str, ...]) -> str:
    """Return the template. Raises UsageError unless it holds every field and one {slot}, and no other name in braces."""
    template, place = _text(content, "template"), content.at("template")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"{place}template: the braces do not match ({error}): write {{{{ and }}}} for braces in the text") from error
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, form, conversion in parts:
        if name is not None and name not in (*fields, "slot"):
            raise UsageError(f"{place}template: {{{name}}} is not a field{did_you_mean(name, (*fields, 'slot'))}")
        if form or conversion:
            raise UsageError(f"{place}template: {{{name}}} must not have a format or a conversion: write {{{name}}}")
    if names.count("slot") != 1 or template.count("{slot}") != 1:
        raise UsageError(f"{place}template: {{slot}} must occur once, where the answer belongs (found: {template.count('{slot}')})")
    missing = [field for field in fields if field not in names]
    if missing:
        raise UsageError(f"{place}template: the field {{{missing[0]}}} is missing: add it, or remove it from fields")
    return template


def _metric(content: Mapping, classes: bool) -> str:
    metric, known = _text(content, "metric", METRICS[classes][0]), METRICS[classes]
    if metric not in known:
        kind = f"tasks {'with' if classes else 'without'} label words"
        raise UsageError(f"{content.at('metric')}metric: '{metric}' is not a metric of {kind}: one of {', '.join(known)}")
    return metric


def _scoring(content: Mapping, words: tuple[str, ...]) -> str:
    scoring = _text(content, "score", SCORINGS[0])
    if scoring not in SCORINGS:
        raise UsageError(f"{content.at('score')}score: '{scoring}' is unknown{did_you_mean(scoring, SCORINGS)}")
    if "score" in content and not words:
        raise UsageError(f"{content.at('score')}score: it has no effect without label_words: leave it out")
    return scoring


def _class_names(content: Mapping, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names. Raises UsageError unless there is one per label word, and for the label word of another class."""
    if "classes" not in content:
        return ()
    names, place = _names(content, "classes"), content.at("classes")
    if len(names) != len(words):
        raise UsageError(f"{place}classes: {len(names)} names for {len(words)} label words: list one name per label word, in their order")
    for label, name in enumerate(names):
        if name in words and words.index(name) != label:
            raise UsageError(f"{place}classes: '{name}' is the label word of another class: list the names in the order of label_words")
    return names


def _columns(content: Mapping, fields: tuple[str, ...]) -> list[str]:
    """Return the column of each of `fields`."""
    columns = content.mapping("columns")
    columns.only(fields)
    for field in columns:
        if not isinstance(columns[field], str):
            raise UsageError(f"{columns.at(field)}columns: {field}: {_shown(columns[field])} is not the name of a column")
    names = [columns.get(field, field) for field in fields]
    for column in names:
        if names.count(column) > 1:
            raise UsageError(f"{content.at('columns')}columns: two fields have the column '{column}': give each field its own column")
    return names


def _source(content: Mapping, folder: Path) -> tuple[Files | None, Hub | None, float]:
    """Return the files or the Hub data set, and the share of the training examples that is held out."""
    source = content.mapping("source")
    source.only(("files", "hub", "configuration", "revision"))
    for key in source:
        if not isinstance(source[key], str):
            raise UsageError(f"{source.at(key)}source: {key}: {_shown(source[key])} is not a text")
    if "hub" not in source and ("configuration" in source or "revision" in source):
        raise UsageError(f"{source.where}source: configuration and revision belong to a Hub data set: add hub: ID")
    if "hub" in source and "files" in source:
        raise UsageError(f"{source.where}source: files and hub exclude each other: keep one of them")
    names, held_out = _splits(content, "hub" not in source)
    if "hub" in source:
        names |= {"validation": None} if held_out else {}
        return None, Hub(source["hub"], source.get("configuration"), revision=source.get("revision"), **names), held_out
    return Files((folder / source.get("files", "")).absolute(), **names), None, held_out


def _splits(content: Mapping, files: bool) -> tuple[dict[str, Any], float]:
    """Return the names of the splits, and the share of the training examples that is held out for validation (0: none)."""
    splits = content.mapping("splits")
    splits.only(("train", "validation", "test"))
    names: dict[str, Any] = dict(splits)
    share = names.pop("validation") if isinstance(names.get("validation"), int | float) else 0.0
    if "validation" in splits and "validation" not in names and (isinstance(share, bool) or not 0 < share < 1):
        raise UsageError(f"{splits.at('validation')}splits: validation: the share {_shown(share)} is not between 0 and 1")
    for split, name in names.items():
        if not isinstance(name, str):
            raise UsageError(f"{splits.at(split)}splits: {split}: {_shown(name)} is not the name of a file or of a split")
        if files and Path(name).suffix not in FORMATS:
            raise UsageError(f"{splits.at(split)}splits: {split}: '{name}' must end in {', '.join(FORMATS)}")
    return names, float(share)
