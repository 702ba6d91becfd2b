"""Training runs as a table: one line for each model, task, method and k, averaged over seeds, with what needs no model beside it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analyses.store import Store
from analyses.thresholds import Run, finished
from apet.errors import UsageError, lookup
from apet.evaluation import metric_names
from apet.files import atomic_path
from apet.tasks import TASKS


def table(store: Store, split: str = "validation") -> list[dict[str, Any]]:
    """Lines by task, model size and method; `settings` tells apart those whose runs differ in more than their seeds.

    `value` is the task's main metric on `split`, a fraction; `stderr` that over examples, together with the spread over seeds
    where there are several; `minutes` of wall clock a run, on the machine it ran on.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in finished(store):
        if run.spec["kind"] == "train":
            first = run.rows[0]
            groups[first.task, first.parameters, first.model, run.spec["method"], first.k].append(run)
    ordered = sorted(groups.items(), key=lambda item: item[0])
    return [_line(store, key, settings, same, split) for key, members in ordered for settings, same in _by_settings(members)]


def _by_settings(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    """The runs that differ in their seeds alone, after what the others of `runs` have otherwise."""
    names = [name for name in runs[0].spec if not name.endswith("_seed") and len({run.spec.get(name) for run in runs}) > 1]
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[", ".join(f"{name} {run.spec.get(name)}" for name in names)].append(run)
    return sorted(found.items())


def _line(store: Store, key: tuple, settings: str, members: list[Run], split: str) -> dict[str, Any]:
    task, parameters, model, method, k = key
    metric = metric_names(TASKS[task])[0]
    found = [{(row.quantity, row.split): row for row in run.rows} for run in members]
    if any((metric, split) not in rows for rows in found):
        raise UsageError(f"not every run of {task} was evaluated on the {split} split")
    values = [rows[metric, split].value for rows in found]
    examples = mean(rows[metric, split].stderr for rows in found)  # all seeds are evaluated on the same ones
    seeds = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    chance, head = found[0]["chance", split], found[0].get(("k_head", None))
    return {
        "task": task, "model": model, "parameters": parameters, "method": method, "k": k, "k_head": int(head.value) if head else 0,
        "settings": settings, "metric": metric, "value": mean(values), "stderr": math.hypot(examples, seeds), "chance": chance.value,
        "chance_stderr": chance.stderr, "seeds": len(members),
        "minutes": mean(json.loads((store.folder(run.id) / "env.json").read_text())["seconds"] for run in members) / 60,
    }  # fmt: skip


def write_table(lines: list[dict[str, Any]], path: Path) -> None:
    """Write to `path` in the format of its suffix: .csv, .parquet, .tex (booktabs) or .md. UsageError for another one."""
    import pandas as pd

    write = lookup(_WRITERS, path.suffix, "suffix of a table")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(pd.DataFrame(lines), temporary)


def _markdown(frame: Any, path: Path) -> None:
    cells = [
        list(frame.columns),
        ["---"] * len(frame.columns),
        *([_short(value) for value in row] for row in frame.itertuples(index=False)),
    ]
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in cells), encoding="utf-8")


def _latex(frame: Any, path: Path) -> None:
    shown = frame.map(_short).map(lambda text: text.replace("_", r"\_"))
    columns = " & ".join(name.replace("_", r"\_") for name in frame.columns)
    rows = "".join(" & ".join(line) + " \\\\\n" for line in shown.itertuples(index=False))
    head = f"\\begin{{tabular}}{{{'l' * len(frame.columns)}}}\n\\toprule\n{columns} \\\\\n\\midrule\n"
    path.write_text(f"{head}{rows}\\bottomrule\n\\end{{tabular}}\n", encoding="utf-8")


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".tex": _latex,
    ".md": _markdown,
}
