"""What a row must hold to be an example of a task, and the files such rows are read from.

Every complaint names its place, FILE and line or the split and row of a data set, because a bad row found hours later,
in training, names nothing.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apet.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from apet.tasks.task_table import Task

Example = dict[str, Any]  # the task's fields, texts, and its target: a label, a text, or a list of texts
Placed = tuple[str, Any]  # (where, row)
HIDDEN = -1  # stands for every label of a test split whose answers a benchmark keeps to itself
PACKED = (".json", ".jsonl.gz", ".json.gz", ".jsonl.xz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.zip")


def split_file(folder: Path, split: str) -> Path:
    """Return the one file of `split` in `folder`.

    Raises MissingInput where there is none, and UsageError where a second one makes it unclear which is meant.
    """
    if not folder.is_dir():
        raise MissingInput(f"no data folder {folder}")
    path, others = folder / f"{split}.jsonl", [folder / f"{split}{ending}" for ending in PACKED]
    others = [other for other in others if other.exists()]
    if not path.is_file():
        found = f" ({others[0].name} is not read: write it as {path.name}, one object a line)" if others else ""
        raise MissingInput(f"no file {path}: the folder must hold train.jsonl and validation.jsonl{found}")
    if others:
        raise UsageError(f"{path} and {others[0]} are both there: keep the one that is meant")
    return path


def read_rows(path: Path) -> Iterator[Placed]:
    """Yield (where, object) of every line of `path` that is not empty.

    Lines end at line feeds alone: a text may hold any other character that Unicode calls a line's end. A byte order mark is skipped.
    Raises UsageError for a byte that is not UTF-8, a line that is not JSON, and a file without a row.
    """
    content, empty = path.read_bytes(), True
    offset = len(BOM_UTF8) if content.startswith(BOM_UTF8) else 0
    for number, line in enumerate(content[offset:].split(b"\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _parse(line, f"{path}, line {number}", offset)
            empty = False
        offset += len(line) + 1
    if empty:
        raise UsageError(f"{path} holds no example")


def _parse(line: bytes, where: str, offset: int) -> Any:
    if b"\r" in line.strip():  # JSON spells one within a text as \\r
        raise UsageError(f"{where}: its lines end in carriage returns alone: save the file with line feeds (\\n)")
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except _Twice as error:
        raise UsageError(f"{where}: the field {error} comes twice: keep the one that is meant") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at offset {offset + error.start} of the file"
        raise UsageError(f"{where}: {byte} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UsageError(f"{where}: not JSON that can be read ({error})") from error


class _Twice(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _Twice(key)
        seen[key] = value
    return seen


def checked(rows: Iterable[Placed], task: Task) -> list[Example]:
    """Return the rows as examples: the task's fields and target, nothing else.

    Raises UsageError for the first row that is no object, lacks a field, holds another type than text or an integer label,
    an empty text, or a label out of range.
    """
    return [_example(row, task, where) for where, row in rows]


def hidden(rows: Sequence[Placed], task: Task) -> bool:
    """Return whether the labels of these rows, a test split, are kept secret: then they tell nothing."""
    return task.classes > 0 and all(isinstance(row, dict) and row.get(task.target) == HIDDEN for _, row in rows)


def _example(row: Any, task: Task, where: str) -> Example:
    wanted = (*task.fields, task.target)
    if not isinstance(row, dict):
        raise UsageError(f"{where}: {task.name} needs an object with the fields {', '.join(wanted)}, not {_kind(row)}")
    missing = [field for field in wanted if field not in row]
    if missing:
        raise UsageError(f"{where}: no field {missing[0]}: {task.name} needs an object with the fields {', '.join(wanted)}")
    for field in task.fields:
        _check_text(row[field], f"{where}: field {field}")
    (_check_label if task.classes else _check_answer)(row[task.target], task, f"{where}: field {task.target}")
    return {field: row[field] for field in wanted}


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{what} must be text, not {_kind(value)}")
    if not value.strip():
        raise UsageError(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell it, UTF-8 and so every tokenizer cannot
        raise UsageError(f"{what} holds half a surrogate pair, \\u{ord(value[error.start]):x}, which is no character") from error


def _check_label(value: Any, task: Task, what: str) -> None:
    if type(value) is not int:
        raise UsageError(f"{what} must be an integer, not {_kind(value)}")
    if not 0 <= value < task.classes:
        raise UsageError(f"{what}: label {value} is not in 0..{task.classes - 1}")


def _check_answer(value: Any, task: Task, what: str) -> None:
    if not isinstance(value, list):
        return _check_text(value, what)
    if not value:
        raise UsageError(f"{what} is an empty list: {task.name} needs at least one answer")
    for number, answer in enumerate(value, 1):
        _check_text(answer, f"{what}, answer {number}")


def _kind(value: Any) -> str:
    """Return a JSON value as its author would call it: `1.0 (a decimal number)`, `"1" (text)`, `null`, `a list`."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    name = {float: " (a decimal number)", str: " (text)", int: " (a number)"}.get(type(value), "")
    shown = json.dumps(value)
    return (shown if len(shown) <= 40 else shown[:40] + "...") + name


def distinct(paths: Iterable[Path]) -> None:
    """Raise UsageError where two of these files hold the same bytes: a split copied, or linked, under another name."""
    for one, other in combinations(paths, 2):
        if one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes():
            raise UsageError(f"{one} and {other} are duplicate files: every byte of them is the same")
