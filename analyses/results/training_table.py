"""Training runs as a table: one line for each model, task, method and k, averaged over seeds, with what needs no model beside it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analyses.runs import DIGITS
from analyses.store import Store, Summary
from analyses.thresholds import Names
from apet.errors import UsageError, lookup
from apet.files import atomic_path
from apet.scoring import metric_names
from apet.tasks import TASKS


@dataclass
class _Same:
    """Runs that differ in their seeds alone: a number of each."""

    spec: dict
    k_head: int
    chance: tuple[float, float]
    values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def table(store: Store, split: str = "validation") -> list[dict[str, Any]]:
    """Lines by task, model size and method; `settings` tells apart those whose runs differ in more than their seeds.

    `value` is the task's main metric on `split`, a fraction; `stderr` its standard error over examples and seeds together, and
    `stderr_seeds` over seeds alone: NaN with one seed, where `stderr` is over examples alone. `minutes` of wall clock a run, on the machine
    it ran on. Runs of other weights or other data are named apart (`analyses.thresholds.disambiguation`).
    """
    runs = [run for _, run in store.summaries() if run.spec["kind"] == "train"]
    columns = [_columns(run, split) for run in runs]
    names = Names.of((run.spec, each) for run, each in zip(runs, columns, strict=True))
    groups: dict[tuple, dict[tuple, _Same]] = defaultdict(dict)
    for run, each in zip(runs, columns, strict=True):
        _take(run, groups, split, each | {"model": names.model(each), "data": names.data(each)})
    lines: list[dict[str, Any]] = []
    for key, same in sorted(groups.items(), key=lambda item: item[0]):
        specs = [each.spec for each in same.values()]
        differ = [name for name, value in specs[0].items() if any(spec.get(name) != value for spec in specs)]
        differ += ["data"] if specs[0]["data"] and "data" not in differ else []
        settings = {", ".join(f"{name} {each.spec.get(name)}" for name in differ): each for each in same.values()}
        lines += [_line(key, text, each) for text, each in sorted(settings.items())]
    return lines


def _columns(run: Summary, split: str) -> dict[str, Any]:
    """What the rows of a run share. UsageError for a run without this split, with whose examples its `data` are compared."""
    metric = metric_names(TASKS[run.common["task"]])[0]
    if (metric, split) not in run.scores:
        raise UsageError(f"not every run of {run.common['task']} was evaluated on the {split} split")
    return run.common | ({"data": run.env["data_fingerprint"][:DIGITS]} if split == "test" else {})


def _take(run: Summary, groups: dict[tuple, dict[tuple, _Same]], split: str, columns: dict[str, Any]) -> None:
    metric = metric_names(TASKS[columns["task"]])[0]
    group = groups[columns["task"], columns["parameters"], columns["model"], run.spec["method"], columns["k"]]
    settings = (*(item for item in run.spec.items() if not item[0].endswith("_seed")), ("data", columns["data"]))
    if settings not in group:
        k_head, _ = run.scores.get(("k_head", None), (0, None))
        group[settings] = _Same(dict(settings), int(k_head), run.scores["chance", split])
    same, (value, stderr) = group[settings], run.scores[metric, split]
    same.values.append(value)
    same.errors.append(math.nan if stderr is None else stderr)
    same.seconds.append(run.env["seconds"])


def _line(key: tuple, settings: str, same: _Same) -> dict[str, Any]:
    task, parameters, model, method, k = key
    errors = [mean(same.errors)]  # over examples: all seeds are evaluated on the same ones
    errors += [stdev(same.values) / math.sqrt(len(same.values))] if len(same.values) > 1 else []
    return {
        "task": task, "model": model, "parameters": parameters, "method": method, "k": k, "k_head": same.k_head,
        "settings": settings, "metric": metric_names(TASKS[task])[0], "value": mean(same.values), "stderr": math.hypot(*errors),
        "stderr_seeds": errors[-1] if len(errors) > 1 else math.nan,
        "chance": same.chance[0], "chance_stderr": same.chance[1], "seeds": len(same.values), "minutes": mean(same.seconds) / 60,
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
        *([_short(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)),
    ]
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in cells), encoding="utf-8")


def _latex(frame: Any, path: Path) -> None:
    shown = frame.map(_short).map(_escaped)
    columns = " & ".join(map(_escaped, frame.columns))
    rows = "".join(" & ".join(line) + " \\\\\n" for line in shown.itertuples(index=False))
    head = f"\\begin{{tabular}}{{{'l' * len(frame.columns)}}}\n\\toprule\n{columns} \\\\\n\\midrule\n"
    path.write_text(f"{head}{rows}\\bottomrule\n\\end{{tabular}}\n", encoding="utf-8")


def _escaped(text: str) -> str:
    """What LaTeX prints as `text`."""
    return "".join(LATEX.get(character, character) for character in text)


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)


LATEX = {character: f"\\{character}" for character in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip
_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".tex": _latex,
    ".md": _markdown,
}
