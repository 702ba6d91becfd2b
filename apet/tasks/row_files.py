"""Read the rows of a data file: JSON lines, CSV, TSV or parquet.

Each row comes with its location, which errors name. A row is an object with the file's column names. The values of CSV and TSV files are
texts.
"""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from apet.errors import MissingInput, UsageError, did_you_mean

Placed = tuple[str, Any]  # (location, row)
PACKED = (".json", ".jsonl.gz", ".json.gz", ".jsonl.xz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.zip", ".csv.gz", ".xlsx")


def check_folder(folder: Path) -> None:
    """Raise MissingInput unless `folder` is a folder."""
    if not folder.is_dir():
        raise MissingInput(f"{folder} is a file: name the folder that holds it" if folder.is_file() else f"no data folder {folder}")


def split_file(folder: Path, split: str) -> Path | None:
    """Return the path of the file of `split` in `folder`, in any of the `FORMATS`; None if no file has the split's name.

    Raises MissingInput if the only file of the split has an unknown format, and UsageError if several files have the split's name.
    """
    known = [path for ending in FORMATS if (path := folder / f"{split}{ending}").is_file()]
    others = [path for ending in PACKED if (path := folder / f"{split}{ending}").exists()]
    if not known and others:
        raise MissingInput(f"no file {folder / split}.jsonl: {others[0].name} is not read: convert it to {' or '.join(FORMATS)}")
    if len(found := known + others) > 1:
        raise UsageError(f"{found[0]} and {found[1]} both exist: keep only one of them")
    return known[0] if known else None


def distinct(paths: Iterable[Path]) -> None:
    """Raise UsageError if two files have the same bytes, because a split was copied or linked under another name."""
    for one, other in combinations(paths, 2):
        if one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes():
            raise UsageError(f"{one} and {other} are duplicate files, byte for byte: use different examples for each split")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Placed]:
    """Yield (location, row) for every row of a file, whose format follows from its ending (`FORMATS`).

    The rows of CSV, TSV and parquet files hold only `columns`. A byte order mark is skipped, and lines may end in CRLF.

    Raises UsageError for a file without rows, for content that does not have the file's format, for text that is not UTF-8, and for a
    table without one of `columns`.
    """
    empty = True
    for placed in FORMATS[path.suffix](path, columns):
        yield placed
        empty = False
    if empty:
        rows = "one JSON object per line" if path.suffix == ".jsonl" else "one example per row"
        raise UsageError(f"{path} holds no example: write {rows}")


def untyped(path: Path) -> bool:
    """Return whether all values of the file's format are texts."""
    return path.suffix in (".csv", ".tsv")


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Placed]:
    """Yield the object on every line that is not empty. Only line feeds end a line; a text may contain Unicode's other line ends."""
    content = path.read_bytes()
    offset = len(BOM_UTF8) if content.startswith(BOM_UTF8) else 0
    for number, line in enumerate(content[offset:].split(b"\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _parse(line, f"{path}, line {number}", offset)
        offset += len(line) + 1


def _parse(line: bytes, where: str, offset: int) -> Any:
    if b"\r" in line.strip():  # within a text, JSON writes a carriage return as \\r
        raise UsageError(f"{where}: the lines end in carriage returns without line feeds: save the file with line feeds (\\n)")
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except _Twice as error:
        raise UsageError(f"{where}: the field {error} occurs twice: keep only one of them") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(where, line[error.start], offset + error.start) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or thousands of nested brackets
        raise UsageError(f"{where}: this JSON cannot be read ({error})") from error


def _not_utf8(where: str, byte: int, offset: int) -> UsageError:
    return UsageError(f"{where}: byte 0x{byte:02x} at offset {offset} of the file is not UTF-8: save the file as UTF-8")


class _Twice(Exception):
    """A key that occurs twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _Twice(key)
        seen[key] = value
    return seen


def _delimited(path: Path, columns: Sequence[str], delimiter: str, separators: str) -> Iterator[Placed]:
    """Yield the records of a CSV or TSV file with the quotes of RFC 4180. The location is the line on which a record begins.

    A field in quotes may contain line breaks. Empty lines are skipped.
    """
    text = _decoded(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # the default refuses long documents
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            advice = "put quotes around a text that contains quotes or line breaks, and double the quotes inside it"
            raise UsageError(f"{where}: the quotes of this record are not valid ({error}): {advice}") from error
        if not values:
            continue
        if header is None:
            header = values
            _check_header(header, columns, where, separators)
        elif len(values) != len(header):
            advice = f"put quotes around a text that contains {separators} or line breaks"
            raise UsageError(f"{where}: {len(values)} values, but the header names {len(header)} columns: {advice}")
        else:
            row = dict(zip(header, values, strict=True))
            yield where, {name: row[name] for name in columns}


def _decoded(path: Path) -> str:
    content = path.read_bytes().removeprefix(BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        skipped = path.stat().st_size - len(content)
        line = content[: error.start].count(b"\n") + 1
        raise _not_utf8(f"{path}, line {line}", content[error.start], skipped + error.start) from error


def _check_header(header: Sequence[str], columns: Sequence[str], where: str, separators: str) -> None:
    """Raise UsageError for a column name that occurs twice, and for a missing column."""
    doubled = [name for name, count in Counter(header).items() if count > 1 and name.strip()]
    if doubled:
        raise UsageError(f"{where}: the column '{doubled[0]}' occurs twice in the header: rename one of them")
    for name in columns:
        if name not in header:
            if separators and len(header) == 1 and any(separator in header[0] for separator in ",;\t|"):
                raise UsageError(f"{where}: the header {header[0]!r} is a single column: separate the columns by {separators}")
            raise UsageError(f"{where}: the header has no column '{name}'{did_you_mean(name, header)}")


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Placed]:
    return _delimited(path, columns, ",", "commas")


def _tsv(path: Path, columns: Sequence[str]) -> Iterator[Placed]:
    return _delimited(path, columns, "\t", "tabs")


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Placed]:
    """Yield the rows of a parquet file, counted from 0 as in pandas."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        header = pq.read_schema(path).names
        _check_header(header, columns, str(path), "")
        rows = pq.read_table(path, columns=list(columns)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]}): write it again") from error
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", numbered(row)


def numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Return a typed row with 0 and 1 in place of truth values, which some data sets have as labels."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in row.items()}


FORMATS: dict[str, Callable[[Path, Sequence[str]], Iterator[Placed]]] = {
    ".jsonl": _json_lines, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet,
}  # fmt: skip
