"""Check that each row of a data set is an example of its task, and convert its label.

Every error names its location: the file and line, or the split and row of a data set. Rows are checked when they are loaded, because an
error hours later, in training, could not name the row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from apet.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from apet.tasks.row_files import Placed
    from apet.tasks.task_table import Task

Example = dict[str, Any]  # the task's fields (texts) and its target (a label, a number, a text, or a list of texts)
HIDDEN = -1  # every label of a test split whose answers a benchmark does not publish


def checked(rows: Iterable[Placed], task: Task, texts_only: bool = False) -> list[Example]:
    """Return the rows as examples, reduced to the task's fields and target.

    A label is an integer, a label word or a class name, and becomes an integer. A number becomes a float. With `texts_only` all values
    of the rows are texts, and labels and numbers are read from them.

    Raises UsageError for the first row that is not an object, lacks a column, or holds an invalid value. Empty texts, labels out of
    range, unknown class names, and numbers that are not finite are invalid.
    """
    return [_example(row, task, where, texts_only) for where, row in rows]


def hidden(rows: Sequence[Placed], task: Task) -> bool:
    """Return whether the labels of a test split's rows are not published: all of them are HIDDEN."""
    column = task.column(task.target)
    return not task.generates and all(isinstance(row, dict) and row.get(column) in (HIDDEN, str(HIDDEN)) for _, row in rows)


def _example(row: Any, task: Task, where: str, texts_only: bool) -> Example:
    columns = task.read_columns
    if not isinstance(row, dict):
        raise UsageError(f"{where}: {task.name} needs an object with the fields {', '.join(columns)}, not {_kind(row)}")
    missing = [column for column in columns if column not in row]
    if missing:
        raise UsageError(f"{where}: the field {missing[0]} is missing: {task.name} needs an object with the fields {', '.join(columns)}")
    for column in columns[:-1]:
        _check_text(row[column], f"{where}: field {column}")
    answer, place = row[columns[-1]], f"{where}: field {columns[-1]}"
    example = {field: row[column] for field, column in zip(task.fields, columns, strict=False)}
    if task.generates:
        _check_answer(answer, task, place)
        return example | {task.target: answer}
    if texts_only and isinstance(answer, str):
        answer = _read(answer.strip(), task)
    return example | {task.target: (_number if task.regresses else _label)(answer, task, place)}


def _check_text(value: Any, location: str) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{location} must be text, not {_kind(value)}")
    if not value.strip():
        raise UsageError(f"{location} is empty: write a text, or remove the example")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can encode half a surrogate pair; UTF-8, and therefore every tokenizer, cannot
        raise UsageError(
            f"{location} holds half a surrogate pair, \\u{ord(value[error.start]):x}, which is not a character: remove it"
        ) from error


def _read(text: str, task: Task) -> Any:
    """Return the number that `text` writes, or `text` itself if it does not write a number or is the name of a class."""
    if text in task.class_labels:
        return text
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?(\d+\.\d*|\.?\d+)([eE][-+]?\d+)?", text) else text


def _label(value: Any, task: Task, location: str) -> int:
    """Return the label 0 .. C - 1 of an integer or of the name of a class.

    If a class has a whole number as its name, integers are names of classes, too.
    """
    names, last = task.class_labels, task.classes - 1
    name = str(value) if type(value) is int and task.numbered_names else value
    if isinstance(name, str) and name in names:
        return names[name]
    if task.numbered_names:
        raise UsageError(f"{location} must be the name of a class, not {_kind(value)}: one of {', '.join(names)}")
    if type(value) is not int:
        advice = did_you_mean(value, names) if isinstance(value, str) else ""
        whole = f": write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise UsageError(f"{location} must be an integer from 0 to {last} or the name of a class, not {_kind(value)}{advice or whole}")
    if not 0 <= value <= last:
        raise UsageError(f"{location}: label {value} is not in 0..{last}")
    return value


def _number(value: Any, task: Task, location: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise UsageError(f"{location} must be a finite number, not {_kind(value)}")
    return float(value)


def _check_answer(value: Any, task: Task, location: str) -> None:
    if not isinstance(value, list):
        return _check_text(value, location)
    if not value:
        raise UsageError(f"{location} is an empty list: {task.name} needs at least one answer")
    for number, answer in enumerate(value, 1):
        _check_text(answer, f"{location}, answer {number}")


def _kind(value: Any) -> str:
    """Return a value with the name of its type: `1.0 (a decimal number)`, `"1" (text)`, `null`, `a list`."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    name = {float: " (a decimal number)", str: " (text)", int: " (a number)"}.get(type(value), "")
    shown = json.dumps(value, default=str)
    return (shown if len(shown) <= 40 else shown[:40] + "...") + name
