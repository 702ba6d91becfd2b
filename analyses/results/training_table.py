"""Training runs as a table: one line per model, task, method and k, averaged over seeds, with the baseline without a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analyses.results.study_rows import rows_of
from analyses.runs import DIGITS
from analyses.store import Store, Summary
from analyses.thresholds import Names
from apet.errors import UsageError, lookup
from apet.files import atomic_path
from apet.scoring import metric_names
from apet.tasks import task_named


@dataclass
class _Seeds:
    """Runs that differ only in their seeds: their numbers, one per run."""

    spec: dict
    k_head: int
    chance: tuple[float, float]  # value, standard error
    values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def table(store: Store, split: str = "validation") -> list[dict[str, Any]]:
    """Return the lines of the table, sorted by task, model size and method.

    settings: the fields that distinguish lines with equal task, model, method and k.
    value: the task's main metric on `split`, a fraction.
    stderr: its standard error over examples and seeds; with one seed, over examples only.
    stderr_seeds: its standard error over seeds; NaN with one seed.
    minutes: mean wall-clock time per run on its machine.

    Runs with different weights or data get distinct names (`analyses.thresholds.disambiguation`). Raises UsageError if a run was not
    evaluated on `split`.
    """
    runs = [run for _, run in store.summaries() if run.spec["kind"] == "train"]
    columns = [_columns(run, split) for run in runs]
    names = Names.of((run.spec, row) for run, row in zip(runs, columns, strict=True))
    groups: dict[tuple, dict[tuple, _Seeds]] = defaultdict(dict)
    for run, row in zip(runs, columns, strict=True):
        _add(run, groups, split, row | {"model": names.model(row), "data": names.data(row)})
    lines: list[dict[str, Any]] = []
    for key, by_spec in sorted(groups.items(), key=lambda item: item[0]):
        specs = [seeds.spec for seeds in by_spec.values()]
        differ = [name for name, value in specs[0].items() if any(spec.get(name) != value for spec in specs)]
        differ += ["data"] if specs[0]["data"] and "data" not in differ else []
        settings = {", ".join(f"{name} {seeds.spec.get(name)}" for name in differ): seeds for seeds in by_spec.values()}
        lines += [_line(key, text, seeds) for text, seeds in sorted(settings.items())]
    return lines


def _columns(run: Summary, split: str) -> dict[str, Any]:
    """Return the columns that the rows of a run share. For the test split `data` is the digest of the evaluated data.

    Raises UsageError for a run that was not evaluated on `split`.
    """
    metric = metric_names(task_named(run.common["task"]))[0]
    if (metric, split) not in run.scores:
        raise UsageError(f"some runs of {run.common['task']} were not evaluated on the {split} split: choose another split")
    return run.common | ({"data": run.env["data_fingerprint"][:DIGITS]} if split == "test" else {})


def _add(run: Summary, groups: dict[tuple, dict[tuple, _Seeds]], split: str, columns: dict[str, Any]) -> None:
    """Add the numbers of a run to its group."""
    metric = metric_names(task_named(columns["task"]))[0]
    group = groups[columns["task"], columns["parameters"], columns["model"], run.spec["method"], columns["k"]]
    settings = (*(item for item in run.spec.items() if not item[0].endswith("_seed")), ("data", columns["data"]))
    if settings not in group:
        k_head, _ = run.scores.get(("k_head", None), (0, None))
        group[settings] = _Seeds(dict(settings), int(k_head), run.scores["chance", split])
    seeds, (value, stderr) = group[settings], run.scores[metric, split]
    seeds.values.append(value)
    seeds.errors.append(math.nan if stderr is None else stderr)
    seeds.seconds.append(run.env["seconds"])


def _line(key: tuple, settings: str, seeds: _Seeds) -> dict[str, Any]:
    task, parameters, model, method, k = key
    errors = [mean(seeds.errors)]  # over examples; all seeds share the evaluated examples
    errors += [stdev(seeds.values) / math.sqrt(len(seeds.values))] if len(seeds.values) > 1 else []
    return {
        "task": task, "model": model, "parameters": parameters, "method": method, "k": k, "k_head": seeds.k_head,
        "settings": settings, "metric": metric_names(task_named(task))[0], "value": mean(seeds.values), "stderr": math.hypot(*errors),
        "stderr_seeds": errors[-1] if len(errors) > 1 else math.nan,
        "chance": seeds.chance[0], "chance_stderr": seeds.chance[1], "seeds": len(seeds.values), "minutes": mean(seeds.seconds) / 60,
    }  # fmt: skip


def write_table(lines: list[dict[str, Any]], path: Path) -> None:
    """Write the lines to `path` in the format of its suffix: .csv, .parquet, .tex (booktabs) or .md. Raises UsageError for any other."""
    import pandas as pd

    write = lookup(_WRITERS, path.suffix, "suffix of a table")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(pd.DataFrame(lines), temporary)


def write_rows(results: Path, out: Path | None, split: str | None, dry_run: bool) -> dict[str, Any]:
    """Write every row of every run in the folder `results` to `out`, unless `dry_run`, and return the command's JSON object.

    Raises UsageError without `out`, and for a split, because all splits are written.
    """
    if out is None:
        raise UsageError("--rows has too many rows to print", out=...)
    if split is not None:
        raise UsageError("--split has no effect with --rows, which writes all splits: leave out --split")
    records = rows_of(results, None, every=True).to_dict("records")
    if not dry_run:
        write_table(records, out)
    return {"rows": len(records), "out": str(out)}


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
    """Return the LaTeX source that prints `text`."""
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
