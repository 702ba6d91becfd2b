"""Tables of thresholds, claims and methods, written as CSV, LaTeX and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.results import write_table
from analyses.store import QUANTITIES, quantities
from figures.interval import PREDICTED, Interval, thresholds
from figures.numbers import MISSING, ends, number, short_interval, with_error
from figures.rows import CannotDraw, chance, in_setting, means, metric_label, models, of_model, pick, runs, settings, tidy, where
from figures.words import method_name

SUFFIXES = (".csv", ".tex", ".md")
Line = dict[str, Any]


def write_tables(rows: pd.DataFrame, out: Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Write each table of TABLES that has lines to `out`/NAME.csv, NAME.tex and NAME.md.

    Return (name -> paths, name -> reason why a table was not written).
    """
    written, skipped = {}, {}
    for name, lines_of in TABLES.items():
        try:
            lines = lines_of(tidy(rows))
        except CannotDraw as reason:
            skipped[name] = str(reason)
            continue
        written[name] = [out / f"{name}{suffix}" for suffix in SUFFIXES]
        for path in written[name]:
            write_table(lines, path)
    return written, skipped


def threshold_lines(rows: pd.DataFrame) -> list[Line]:
    """Return one line per setting and model, with a column for each kind of threshold and target that the rows hold.

    Raises CannotDraw without thresholds, and for several rows of one threshold.
    """
    found: list[tuple[Line, dict[str, Interval]]] = []
    for setting in settings(rows):
        for model, size in models(rows).items():
            chosen = in_setting(of_model(rows, model), setting)
            columns = _thresholds(chosen)
            if columns:
                blocks = pick(chosen, "without_embeddings")["value"]
                without = {"N without embeddings": int(blocks.iloc[0])} if len(blocks) else {}
                found.append(({"task": setting.label, "model": model, "N": size} | without, columns))
    if not found:
        raise CannotDraw("no threshold in the rows")
    names = list(dict.fromkeys(name for line, _ in found for name in line))
    kinds = sorted({name for _, columns in found for name in columns}, key=_order)
    return [
        {name: line.get(name, MISSING) for name in names} | {kind: short_interval(columns.get(kind)) for kind in kinds}
        for line, columns in found
    ]


def _thresholds(rows: pd.DataFrame) -> dict[str, Interval]:
    """Return the thresholds of one model and setting by the head of their column."""
    found = {}
    for quantity in quantities.MEASURED:
        for target, measured in thresholds(rows, quantity).items():
            found[", ".join(filter(None, (QUANTITIES[quantity].label, target)))] = measured
    for target, predicted in next((known for name in PREDICTED if (known := thresholds(rows, name))), {}).items():
        found[", ".join(filter(None, ("predicted k*", target)))] = predicted
    return found


def _order(head: str) -> tuple[int, str]:
    labels = [QUANTITIES[quantity].label for quantity in quantities.MEASURED]
    kind = head.partition(",")[0]
    return (labels.index(kind) if kind in labels else len(labels), head)


def claim_lines(rows: pd.DataFrame) -> list[Line]:
    """Return one line per case of each claim: verdict, estimate with its interval, p, and the data that a verdict would need.

    Raises CannotDraw without claims.
    """
    claims = pick(rows, quantities.CLAIM)
    if claims.empty:
        raise CannotDraw("no claim in the rows: 'findings' writes them")
    needs = pick(rows, "claim_needs").set_index(["series", "group"])["value"].to_dict()
    lines = []
    for claim in claims.sort_values(["series", "group", "model", "task"], kind="stable").to_dict("records"):
        value, low, high, p = (float(claim[name]) for name in ("value", "low", "high", "p"))
        lines.append({
            "claim": claim["series"], "case": claim["group"], "verdict": claim["status"], "estimate [95 % CI]": _estimate(value, low, high),
            "p": number(p), "times as much data": number(needs.get((claim["series"], claim["group"]), math.nan)),
        })  # fmt: skip
    return lines


def _estimate(value: float, low: float, high: float) -> str:
    """Return an estimate with its interval as text, with true minus signs."""
    return re.sub(r"(?<![\w.])-", "−", f"{number(value)} {ends(low, high)}")


def method_lines(rows: pd.DataFrame) -> list[Line]:
    """Return one line per setting, model and method at its largest k: main metric, runs, and gap to APET with as many parameters.

    Raises CannotDraw without scores.
    """
    lines = []
    for setting in settings(rows):
        for model in models(rows):
            chosen = in_setting(of_model(rows, model), setting)
            table, gaps = runs(chosen).dropna(subset=["score"]), pick(chosen, "method_gap")
            for method, of_method in table.groupby("method"):
                best = means(of_method, "score").iloc[-1]
                gap = where(gaps, gaps["method"] == method)
                lines.append({
                    "task": setting.label, "model": model, "method": method_name(str(method)), "k": int(best["k"]),
                    "metric": metric_label(chosen), "score": with_error(float(best["mean"]), float(best["stderr"])),
                    "runs": int(best["n"]), "chance": number(chance(table)), "less APET [95 % CI]": _gap(gap),
                })  # fmt: skip
    if not lines:
        raise CannotDraw("no scores of training runs in the rows")
    return lines


def _gap(gaps: pd.DataFrame) -> str:
    if len(gaps) != 1:
        return MISSING
    value, low, high = (float(gaps[name].iloc[0]) for name in ("value", "low", "high"))
    return _estimate(value, low, high)


TABLES: dict[str, Callable[[pd.DataFrame], list[Line]]] = {
    "thresholds": threshold_lines, "claims": claim_lines, "methods": method_lines,
}  # fmt: skip
