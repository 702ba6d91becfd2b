"""Convert rows of an older version, whose notes held facts that are now columns: python studies/rows/convert.py FILE.parquet ...

Each file is rewritten in place. The columns `matrix`, `samples`, `directions`, `at_run`, `at_step`, `series`, `group`, `further`, `status`,
`dof`, `p` and `other_model` are filled from the old notes. Files that already have the columns, and tables without rows, are left
unchanged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analyses.store import QUANTITIES, completed, quantities, statuses

AT = r"(?: at (?P<at_run>\w+))?(?: step (?P<at_step>\d+))?"
SPECTRUM = re.compile(rf"(?P<matrix>hessian|ggn|fisher)(?: of (?P<samples>\d+) sampled labels)?{AT}(?:; (?P<rest>.*))?")
SLICE = re.compile(rf"(?P<directions>\w+){AT}(?:; to [\w, ]+?)?(?:; (?P<rest>.*))?")
AXIS = re.compile(r"axis \d+ at ([^,]+)")
THRESHOLDS = {q.name for q in quantities.THRESHOLDS}
Columns = dict[str, Any]


def _block(rest: str) -> Columns:
    series, _, group = rest.partition(": ")
    return {"series": series, "group": group} if group else {"series": series}


def _parsed(row: Any, pattern: re.Pattern[str], what: str) -> tuple[Columns, str]:
    """Return (columns named by the note, rest of the note). Raises ValueError for a note that does not begin with `what`."""
    match = pattern.fullmatch(row.note)
    if match is None:
        raise ValueError(f"no {what} in the note of {row.quantity}: {row.note!r}")
    columns: Columns = {name: value for name, value in match.groupdict().items() if value is not None}
    return columns, columns.pop("rest", "")


def _spectrum(row: Any) -> Columns:
    columns, rest = _parsed(row, SPECTRUM, "matrix")
    return columns | (_block(rest) if row.quantity.startswith("block_") or row.quantity == "products" else {})


def _slice(row: Any) -> Columns:
    columns, rest = _parsed(row, SLICE, "directions")
    if row.quantity in ("path_loss", "path_accuracy", "barrier"):
        columns["series"] = rest
    elif row.quantity == "basin_width" and "censored: above" in rest:
        columns["status"] = statuses.ABOVE
    elif "at least:" in rest:
        columns["status"] = statuses.AT_LEAST
    return columns | ({"further": tuple(map(float, AXIS.findall(rest)))} if AXIS.search(rest) else {})


def _threshold(row: Any) -> Columns:
    """Return the status of a threshold, with only the reason left in the note."""
    if row.quantity == "gap":
        return {"status": row.note, "note": ""}
    if row.quantity == "path_loss":
        return {"quantity": "path_envelope", "series": row.note, "note": ""}
    if row.quantity == "slope":
        return {"series": "probit" if row.note else "line", "note": ""}
    if match := re.fullmatch(r"censored: (above|below)(?: \((.*)\))?", row.note):
        return {"status": match[1], "note": match[2] or ""}
    if row.note.startswith("undecided: "):
        return {"status": statuses.UNDECIDED, "note": row.note.removeprefix("undecided: ")}
    match = re.search(r"(\d+) degrees of freedom", row.note)
    return {"dof": int(match[1])} if match else {}


def _change(row: Any) -> Columns:
    """Return the smaller model of a pair, and the series by which the change was split."""
    smaller, _, rest = row.note.removeprefix("from ").partition("; ")
    columns: Columns = {"other_model": smaller, "note": ""}
    if row.quantity == "explain_verdict":
        status, _, why = rest.partition(": ")
        return columns | {"status": status, "note": why}
    return columns | ({"series": rest.removeprefix("by ")} if rest.startswith("by ") else {})


def _placement(row: Any) -> Columns:
    if row.quantity == "placement_correlation":
        return {"p": float(row.note.removeprefix("p ")), "note": ""}
    return {"series": row.note, "note": ""}


def _quadratic(row: Any) -> Columns:
    _, _, method = row.quantity.partition(" ")
    return {"quantity": "quadratic_k", "series": method} if method else {}


def _other(row: Any) -> Columns:
    return _block(row.note) if row.quantity == "entries" else {}


def rule(row: Any) -> Callable[[Any], Columns]:
    """Return the function that reads the note of a row, by its kind and quantity."""
    if row.kind in ("spectrum", "slice", "threshold"):
        return {"spectrum": _spectrum, "slice": _slice, "threshold": _threshold}[row.kind]
    for prefix, read in {"explain": _change, "measured_change": _change, "placement_": _placement, "quadratic_k": _quadratic}.items():
        if row.quantity.startswith(prefix):
            return read
    return _other


def converted(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the old form with all columns of a row. Raises ValueError for an unknown form of note or an unregistered quantity."""
    table = table.reset_index(drop=True)
    lines = table.assign(note=table["note"].fillna(""), kind=table["kind"].fillna(""))
    new = pd.DataFrame([{"quantity": row.quantity, "note": row.note, **rule(row)(row)} for row in lines.itertuples()], index=table.index)
    unknown = set(new["quantity"]) - set(QUANTITIES)
    if unknown:
        raise ValueError(f"unregistered quantities: {', '.join(sorted(unknown))}")
    result = completed(table.drop(columns=list(new.columns), errors="ignore").join(new))
    old = [name for name in table.columns if name not in new.columns]
    result[old] = table[old]  # unchanged, including None
    return result


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        table = pd.read_parquet(path)
        if "quantity" not in table or "series" in table:
            print(f"{path}: unchanged")
            continue
        converted(table).to_parquet(path)
        print(f"{path}: {len(table):,} rows converted")


if __name__ == "__main__":
    main(sys.argv[1:])
