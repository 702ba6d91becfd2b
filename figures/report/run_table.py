"""Tables of runs: every training run, and the cost of all runs by kind, model, task and method."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from figures.numbers import MISSING, counted, number, with_error
from figures.rows import IDENTITY, models, pick, records, runs, where
from figures.words import method_name

RUNS_HEAD = ("model", "task", "method", "k", "seeds (position, train)", "score ± s.e.", "training loss", "validation loss", "plateau",
             "example gradients", "seconds", "status")  # fmt: skip
COST_HEAD = ("kind of run", "model", "task", "method", "runs", "example gradients", "seconds", "peak memory (GB)")
GRADIENTS = ("example_gradients", "path_example_gradients", "linear_path_example_gradients")
OTHER_KINDS = {"predict": "prediction/predictions", "spectrum": "spectrum/spectra", "slice": "slice/slices"}
NOT_RECORDED = "not recorded"
Measured = dict[str, dict[str, float | None]]  # run id -> its seconds and peak memory


def training_runs(rows: pd.DataFrame, measured: Measured | None) -> list[list[str]]:
    """Return a line per training run, diverged and failed ones included, by model size, method and k. `rows` come from `tidy`.

    `measured` has the seconds of each run; None if they are not recorded.
    """
    trained = where(rows, rows["kind"] == "train")
    status = {row.run_id: f"diverged at step {row.value:.0f}" for row in records(pick(trained, "diverged"))}
    status |= {row.run_id: f"failed: {row.note}" for row in records(pick(trained, "failed"))}
    table = runs(rows)
    lost = where(trained, trained["run_id"].isin(list(status)) & ~trained["run_id"].isin(list(table.index)))
    lost = lost.drop_duplicates("run_id").set_index("run_id")[list(IDENTITY)]
    lines = records((pd.concat([table, lost]) if len(lost) else table).reset_index())
    named = ["protocol"] if len({line.protocol for line in lines}) > 1 else []
    named += [name for name in ("subspace", "placement") if len({getattr(line, name) for line in lines if line.method == "apet"}) > 1]
    return [_run_line(line, named, status.get(line.run_id, "finished"), measured) for line in lines]


def _run_line(line: Any, named: list[str], status: str, measured: Measured | None) -> list[str]:
    task = ", ".join(part for part in (line.task, *(getattr(line, name) for name in named)) if part)
    k, gradients = (MISSING if math.isnan(count) else f"{count:,.0f}" for count in (line.k, line.example_gradients))
    seeds = f"{number(line.position_seed)}, {number(line.train_seed)}"
    results = (with_error(line.score, line.score_stderr), number(line.train_loss), number(line.validation_loss))
    plateau = {1.0: "yes", 0.0: "no"}.get(line.plateau, MISSING)
    cost = (gradients, _seconds([line.run_id], measured))
    return [line.model, task, method_name(line.method), k, seeds, *results, plateau, *cost, status]


def costs(rows: pd.DataFrame, measured: Measured | None) -> list[list[str]]:
    """Return a line with the cost of all runs of one kind, model, task and method. `rows` come from `tidy`."""
    ran = where(rows, rows["kind"].isin(["train", *OTHER_KINDS]) & (rows["run_id"] != ""))
    counted_rows = where(ran, ran["quantity"].isin(list(GRADIENTS)))
    gradients: dict[str, float] = {}
    for row in records(counted_rows):
        gradients[row.run_id] = gradients.get(row.run_id, 0.0) + row.value
    sizes, groups = models(rows), dict[tuple[str, str, str, str], list[str]]()
    for row in records(ran.drop_duplicates("run_id")):
        groups.setdefault((row.kind, row.model, row.task, row.method), []).append(row.run_id)
    lines = []
    for (kind, model, task, method), ids in groups.items():
        known = [gradients[run] for run in ids if run in gradients]
        cost = f"{sum(known):,.0f}" if known else NOT_RECORDED
        words = [OTHER_KINDS.get(kind, "training").partition("/")[0], model, task, method_name(method) if kind == "train" else MISSING]
        lines.append([*words, f"{len(ids):,}", cost, _seconds(ids, measured), _peak(ids, measured)])
    return sorted(lines, key=lambda line: (line[0] != "training", line[0], line[2], sizes.get(line[1], 0), line[1], line[3]))


def _seconds(ids: list[str], measured: Measured | None) -> str:
    known = [seconds for run in ids if (seconds := (measured or {}).get(run, {}).get("seconds")) is not None]
    return f"{math.fsum(known):,.1f}" if known else NOT_RECORDED


def _peak(ids: list[str], measured: Measured | None) -> str:
    known = [peak for run in ids if (peak := (measured or {}).get(run, {}).get("peak_gb")) is not None]
    return f"{max(known):.2f}" if known else NOT_RECORDED


def ran(rows: pd.DataFrame) -> list[str]:
    """Return a few sentences on models, runs and cost. `rows` come from `tidy`."""
    table, sizes = runs(rows), models(where(rows, rows["kind"] != ""))
    names = ", ".join(f"{name} ({size:,} parameters)" if size else name for name, size in sizes.items())
    tasks = ", ".join(sorted(set(rows["task"]) - {""})) or "no task"
    sentences = [f"{counted(len(sizes), 'model')} on {tasks}{': ' if names else ''}{names}."]
    if len(table):
        counts = [f"{len(of_method)} {method_name(str(method))}" for method, of_method in table.groupby("method")]
        sentences.append(f"{counted(len(table), 'training run')}: {', '.join(counts)}.")
    others = {noun: len(set(where(rows, rows["kind"] == kind)["run_id"])) for kind, noun in OTHER_KINDS.items()}
    if any(others.values()):
        sentences.append(f"Other runs: {', '.join(counted(count, noun) for noun, count in others.items() if count)}.")
    apet = where(table, table["method"] == "apet")
    if len(apet):
        seeds = " and ".join(counted(len(set(apet[f"{kind}_seed"].dropna())), f"{kind} seed") for kind in ("position", "train"))
        k = sorted(apet["k"])
        sentences.append(f"APET tuned k = {number(k[0])} to {number(k[-1])} parameters, with {seeds}.")
    cost = table["example_gradients"].dropna().to_numpy().sum()
    if cost:
        sentences.append(f"All training runs together computed {cost:,.0f} gradients of single examples.")
    return sentences
