"""Training runs as a table: one line per model, task, method and k, averaged over seeds, with the baseline without a model."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analyses.results.study_rows import rows_of
from analyses.results.table_files import write_table
from analyses.runs import DIGITS
from analyses.store import Store, Summary
from analyses.thresholds import Names, main_metric
from apet.errors import UsageError


@dataclass
class _Seeds:
    """Runs that differ only in their seeds: their numbers, one per run."""

    spec: dict
    metric: str
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
    metric = main_metric(run.common.get("metric", ""), run.common["task"])
    if (metric, split) not in run.scores:
        raise UsageError(f"some runs of {run.common['task']} were not evaluated on the {split} split: choose another split")
    return run.common | {"metric": metric} | ({"data": run.env["data_fingerprint"][:DIGITS]} if split == "test" else {})


def _add(run: Summary, groups: dict[tuple, dict[tuple, _Seeds]], split: str, columns: dict[str, Any]) -> None:
    """Add the numbers of a run to its group."""
    group = groups[columns["task"], columns["parameters"], columns["model"], run.spec["method"], columns["k"]]
    varied = [item for item in run.spec.items() if item[0] != "task" and not item[0].endswith("_seed")]
    settings = (*varied, ("data", columns["data"]))
    if settings not in group:
        k_head, _ = run.scores.get(("k_head", None), (0, None))
        group[settings] = _Seeds(dict(settings), columns["metric"], int(k_head), run.scores["chance", split])
    seeds, (value, stderr) = group[settings], run.scores[columns["metric"], split]
    seeds.values.append(value)
    seeds.errors.append(math.nan if stderr is None else stderr)
    seeds.seconds.append(run.env["seconds"])


def _line(key: tuple, settings: str, seeds: _Seeds) -> dict[str, Any]:
    task, parameters, model, method, k = key
    errors = [mean(seeds.errors)]  # over examples; all seeds share the evaluated examples
    errors += [stdev(seeds.values) / math.sqrt(len(seeds.values))] if len(seeds.values) > 1 else []
    return {
        "task": task, "model": model, "parameters": parameters, "method": method, "k": k, "k_head": seeds.k_head,
        "settings": settings, "metric": seeds.metric, "value": mean(seeds.values), "stderr": math.hypot(*errors),
        "stderr_seeds": errors[-1] if len(errors) > 1 else math.nan,
        "chance": seeds.chance[0], "chance_stderr": seeds.chance[1], "seeds": len(seeds.values), "minutes": mean(seeds.seconds) / 60,
    }  # fmt: skip


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
