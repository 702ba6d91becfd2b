"""Read rows from files and check that each is an example of its task.

Every error names its location: the file and line, or the split and row of a data set. Rows are checked when they are loaded, because an
error hours later, in training, could not name the row.
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

Example = dict[str, Any]  # the task's fields (texts) and its target (a label, a text, or a list of texts)
Placed = tuple[str, Any]  # (location, row)
HIDDEN = -1  # every label of a test split whose answers a benchmark does not publish
PACKED = (".json", ".jsonl.gz", ".json.gz", ".jsonl.xz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.zip")


def check_folder(folder: Path) -> None:
    """Raise MissingInput unless `folder` is a folder."""
    if not folder.is_dir():
        raise MissingInput(f"{folder} is a file: name the folder that holds it" if folder.is_file() else f"no data folder {folder}")


def split_file(folder: Path, split: str) -> Path:
    """Return the path of the file of `split` in `folder`.

    Raises MissingInput if the file does not exist, and UsageError if a packed file of the same split exists as well.
    """
    check_folder(folder)
    path, others = folder / f"{split}.jsonl", [folder / f"{split}{ending}" for ending in PACKED]
    others = [other for other in others if other.exists()]
    if not path.is_file():
        packed = f" ({others[0].name} is not read: convert it to {path.name}, one object per line)" if others else ""
        raise MissingInput(f"no file {path}: the folder must hold train.jsonl and validation.jsonl{packed}")
    if others:
        raise UsageError(f"{path} and {others[0]} both exist: keep only one of them")
    return path


def read_rows(path: Path) -> Iterator[Placed]:
    """Yield (location, object) for every line of `path` that is not empty.

    Only line feeds end a line; a text may contain the other characters that Unicode defines as line ends. A byte order mark is skipped.
    Raises UsageError for a byte that is not UTF-8, a line that is not JSON, and a file without rows.
    """
    content, empty = path.read_bytes(), True
    offset = len(BOM_UTF8) if content.startswith(BOM_UTF8) else 0
    for number, line in enumerate(content[offset:].split(b"\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _parse(line, f"{path}, line {number}", offset)
            empty = False
        offset += len(line) + 1
    if empty:
        raise UsageError(f"{path} holds no example: write one JSON object per line")


def _parse(line: bytes, where: str, offset: int) -> Any:
    if b"\r" in line.strip():  # within a text, JSON writes a carriage return as \\r
        raise UsageError(f"{where}: the lines end in carriage returns without line feeds: save the file with line feeds (\\n)")
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except _Twice as error:
        raise UsageError(f"{where}: the field {error} occurs twice: keep only one of them") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at offset {offset + error.start} of the file"
        raise UsageError(f"{where}: {byte} is not UTF-8: save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or thousands of nested brackets
        raise UsageError(f"{where}: this JSON cannot be read ({error})") from error


class _Twice(Exception):
    """A key that occurs twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _Twice(key)
        seen[key] = value
    return seen


def checked(rows: Iterable[Placed], task: Task) -> list[Example]:
    """Return the rows as examples, reduced to the task's fields and target.

    Raises UsageError for the first row that is not an object, lacks a field, or holds an invalid value. Empty texts, labels out of range,
    and values that are neither text nor an integer label are invalid.
    """
    return [_example(row, task, where) for where, row in rows]


def hidden(rows: Sequence[Placed], task: Task) -> bool:
    """Return whether the labels of a test split's rows are not published: all of them are HIDDEN."""
    return task.classes > 0 and all(isinstance(row, dict) and row.get(task.target) == HIDDEN for _, row in rows)


def _example(row: Any, task: Task, where: str) -> Example:
    wanted = (*task.fields, task.target)
    if not isinstance(row, dict):
        raise UsageError(f"{where}: {task.name} needs an object with the fields {', '.join(wanted)}, not {_kind(row)}")
    missing = [field for field in wanted if field not in row]
    if missing:
        raise UsageError(f"{where}: the field {missing[0]} is missing: {task.name} needs an object with the fields {', '.join(wanted)}")
    for field in task.fields:
        _check_text(row[field], f"{where}: field {field}")
    (_check_label if task.classes else _check_answer)(row[task.target], task, f"{where}: field {task.target}")
    return {field: row[field] for field in wanted}


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


def _check_label(value: Any, task: Task, location: str) -> None:
    if type(value) is not int:
        raise UsageError(f"{location} must be an integer, not {_kind(value)}")
    if not 0 <= value < task.classes:
        raise UsageError(f"{location}: label {value} is not in 0..{task.classes - 1}")


def _check_answer(value: Any, task: Task, location: str) -> None:
    if not isinstance(value, list):
        return _check_text(value, location)
    if not value:
        raise UsageError(f"{location} is an empty list: {task.name} needs at least one answer")
    for number, answer in enumerate(value, 1):
        _check_text(answer, f"{location}, answer {number}")


def _kind(value: Any) -> str:
    """Return a JSON value with the name of its type: `1.0 (a decimal number)`, `"1" (text)`, `null`, `a list`."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    name = {float: " (a decimal number)", str: " (text)", int: " (a number)"}.get(type(value), "")
    shown = json.dumps(value)
    return (shown if len(shown) <= 40 else shown[:40] + "...") + name


def distinct(paths: Iterable[Path]) -> None:
    """Raise UsageError if two files have the same bytes, because a split was copied or linked under another name."""
    for one, other in combinations(paths, 2):
        if one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes():
            raise UsageError(f"{one} and {other} are duplicate files, byte for byte: use different examples for each split")
