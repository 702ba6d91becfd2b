"""Compare the numbers that a page quotes with the committed files they come from: `python -m tests.docs.quoted_numbers [PAGE ...]`.

A comment directly before a paragraph, list, table or code block holds one line of YAML per number:

    <!-- numbers
    - {from: studies/rows/mnist.parquet, where: {quantity: k_star, subspace: fastfood}}
    - {where: {model: mnist-fc}, show: "503 [487, 522]"}
    - {where: {model: mnist-fc}, over: {model: mnist-lenet}, show: "2.5"}
    - {from: benchmarks/results/hvp.json, at: figures.hvp_over_grad_bert_k1000, show: "1.04"}
    -->

A line without `show` sets `from`, `where` and `column` for the lines below it in the same comment; `where` is extended, not replaced.
`show` must occur in the block and equal the value at the precision shown. The fields:

- `from`: a parquet file, a JSON file, or a Python file whose `derived()` returns nested dictionaries.
- `where`: column -> value (null for a missing one). It must pick one row. `take: min` (max, mean, median, count) reduces several rows.
- `column`: the column of the value, `value` by default.
- `over`: other conditions; the value is divided by the row that they pick. `minus`: likewise, subtracted.
- `at`: the path of a value in a JSON or Python file, joined by dots; `over` and `minus` are then paths as well.
- `show`: a number (thousands separated by commas, `%` for a share), alone or with ` +- stderr` or ` [low, high]`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMENT = re.compile(r"<!--\s*numbers\s*\n(.*?)-->[ \t]*\n?", re.DOTALL)
NUMBER = r"[+\-−]?(?:\d[\d,]*)?\.?\d+(?:[eE]-?\d+)?(?: ?%)?"
SHOWN = re.compile(rf"({NUMBER})(?: (?:\+-|±) ({NUMBER})| \[({NUMBER}), ({NUMBER})\])?")
FIELDS = {"from", "where", "at", "over", "minus", "column", "take", "show"}
REDUCED = {"min": min, "max": max, "mean": statistics.fmean, "median": statistics.median, "count": len}
Row = dict[str, Any]
Number = dict[str, float]  # value, and where the file has them stderr, low and high


class WrongNumber(ValueError):
    """A quoted number does not agree with its source, or its source cannot be found."""


@dataclass(frozen=True)
class Quote:
    """One line of a comment, with what the lines above it have set, and the block that follows the comment."""

    line: int
    block: str
    fields: dict[str, Any]

    @property
    def show(self) -> str:
        """The number as the page writes it."""
        return str(self.fields["show"])


def pages() -> list[Path]:
    """Return README.md and every Markdown page under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def quotes(text: str) -> Iterator[Quote]:
    """Yield the quoted numbers of a page. Raises WrongNumber for a comment that cannot be read."""
    for comment in COMMENT.finditer(text):
        first = text.count("\n", 0, comment.start()) + 1
        shared: dict[str, Any] = {}
        for entry in _entries(comment.group(1), first):
            fields = {**shared, **entry, "where": {**shared.get("where", {}), **entry.get("where", {})}}
            if "show" in fields:
                yield Quote(first, _block_after(text[comment.end() :]), fields)
            else:
                shared = fields


def _entries(text: str, line: int) -> list[dict[str, Any]]:
    try:
        entries: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongNumber(f"line {line}: not YAML: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in cast(list[Any], entries)):
        raise WrongNumber(f"line {line}: the comment must be a list of entries, each a mapping")
    known = cast(list[dict[str, Any]], entries)
    if unknown := set().union(*known) - FIELDS:
        raise WrongNumber(f"line {line}: unknown fields: {', '.join(sorted(unknown))}")
    return known


def _block_after(rest: str) -> str:
    """Return the paragraph, list, table or fenced block that `rest` begins with; "" before a heading or at the end."""
    rest = rest.lstrip("\n")
    if rest.startswith("```"):
        return rest.split("\n```\n")[0]
    block = re.split(r"\n\s*\n", rest, maxsplit=1)[0]
    return "" if block.startswith(("#", "<!--")) else block.strip()


def check(quote: Quote) -> None:
    """Raise WrongNumber unless the block holds the number and the source agrees with it."""
    if not quote.block:
        raise WrongNumber(f"{quote.show}: no block follows the comment")
    if not _occurs(quote.show, quote.block):
        raise WrongNumber(f"{quote.show}: does not occur in the block that follows")
    parts = SHOWN.fullmatch(quote.show)
    if parts is None:
        raise WrongNumber(f"{quote.show}: not a number, a number +- stderr, or a number [low, high]")
    found = number(quote.fields)
    for name, shown in zip(("value", "stderr", "low", "high"), parts.groups(), strict=True):
        if shown is not None and not agrees(shown, found.get(name, math.nan)):
            raise WrongNumber(f"{quote.show}: {name} is {found.get(name, math.nan):.6g} in {quote.fields['from']}")


def _occurs(show: str, block: str) -> bool:
    """Say whether `show` stands in the block, not as a part of a longer number. A line break counts as a space."""
    words = " ".join(re.sub(r"^[>\s]+", "", line) for line in block.splitlines())
    return re.search(rf"(?<![\d.−-])(?<!\d,){re.escape(show)}(?![\d%]|[.,]\d)", words) is not None


def agrees(shown: str, value: float) -> bool:
    """Say whether `shown` is `value`, rounded to the digits that it shows."""
    text = shown.replace(",", "").replace("−", "-")
    scale = 100.0 if text.endswith("%") else 1.0
    digits, _, exponent = text.rstrip("% ").lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(digits) * 10.0 ** int(exponent or 0) - scale * value) <= 0.5 * unit * (1 + 1e-6)


def number(fields: dict[str, Any]) -> Number:
    """Return the number that the fields name. Raises WrongNumber if the file does not hold exactly one."""
    if "from" not in fields:
        raise WrongNumber(f"{fields['show']}: the entry names no file ('from')")
    path = ROOT / str(fields["from"])
    if not path.is_file():
        raise WrongNumber(f"{fields['from']}: no such file")
    found = _one(path, fields, None)
    if "over" in fields:
        found = {"value": found["value"] / _one(path, fields, fields["over"])["value"]}
    if "minus" in fields:
        found = {"value": found["value"] - _one(path, fields, fields["minus"])["value"]}
    return found


def _one(path: Path, fields: dict[str, Any], other: Any) -> Number:
    """Return the number that the fields name, or the `other` one that it is compared with."""
    if path.suffix == ".parquet":
        return _row(path, fields, {**fields["where"], **(other or {})})
    return _at(path, str(other or fields.get("at", "")))


def _row(path: Path, fields: dict[str, Any], conditions: dict[str, Any]) -> Number:
    rows = _table(path)
    for name, wanted in conditions.items():
        if rows and name not in rows[0]:
            raise WrongNumber(f"{path.name}: no column {name}")
        rows = [row for row in rows if _matches(row[name], wanted)]
    column = str(fields.get("column", "value"))
    if "take" in fields:
        return {"value": _reduced([float(row[column]) for row in rows], str(fields["take"]))}
    if len(rows) != 1:
        raise WrongNumber(f"{path.name}: {len(rows)} rows instead of one where {conditions}")
    return {name: float(rows[0][name]) for name in ("stderr", "low", "high") if name in rows[0]} | {"value": float(rows[0][column])}


def _reduced(values: list[float], take: str) -> float:
    if take not in REDUCED or not values:
        raise WrongNumber(f"take: {take} of {len(values)} rows (known: {', '.join(REDUCED)})")
    return float(REDUCED[take](values))


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_matches(value, each) for each in cast(list[Any], wanted))
    if wanted is None:
        return value is None or value != value
    if isinstance(wanted, int | float) and isinstance(value, int | float):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return bool(value == wanted)


def _at(path: Path, at: str) -> Number:
    found = _follow(_python(path) if path.suffix == ".py" else json.loads(path.read_text()), at)
    if isinstance(found, int | float):
        return {"value": float(found)}
    if isinstance(found, dict) and "value" in found:
        return {name: math.nan if value is None else float(value) for name, value in cast(dict[str, Any], found).items()}
    raise WrongNumber(f"{path.name}: no number at {at}")


def _follow(tree: Any, at: str) -> Any:
    """Return the value at a path. Keys may hold dots themselves, so every split is tried."""
    if not at:
        return tree
    steps = at.split(".")
    for count in range(len(steps), 0, -1):
        key, rest = ".".join(steps[:count]), ".".join(steps[count:])
        if isinstance(tree, dict) and key in tree:
            return _follow(tree[key], rest)
        if isinstance(tree, list) and key.isdigit() and int(key) < len(cast(list[Any], tree)):
            return _follow(tree[int(key)], rest)
    return None


@functools.cache
def _table(path: Path) -> list[Row]:
    return cast(list[Row], pd.read_parquet(path).to_dict("records"))


@functools.cache
def _python(path: Path) -> dict[str, Any]:
    """Return what the file's `derived()` returns."""
    spec = importlib.util.spec_from_file_location(f"derived_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.derived()


def faults(path: Path) -> list[str]:
    """Return one line per quoted number of the page that is wrong."""
    found: list[str] = []
    try:
        for quote in quotes(path.read_text(encoding="utf-8")):
            try:
                check(quote)
            except WrongNumber as error:
                found.append(f"{path.name}:{quote.line}: {error}")
    except WrongNumber as error:
        found.append(f"{path.name}: {error}")
    return found


if __name__ == "__main__":
    wrong = [line for path in [Path(each) for each in sys.argv[1:]] or pages() for line in faults(path)]
    print(*wrong, sep="\n")
    print(f"{len(wrong)} faults")
    sys.exit(bool(wrong))
