"""The threshold of one model and task: measured by a search in fixed rounds (analyses.studies.stages), predicted from one Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.runs import Report, run
from analyses.specs import Spec, field_names
from analyses.store import Row, Store
from analyses.studies import Search, searching
from analyses.thresholds.measured import LEVEL, thresholds
from analyses.thresholds.predicted import OPEN
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError
from apet.machine import world_size

HALVINGS = 6  # of full fine-tuning's steps, for the map from a metric to the training loss


GIVEN = {"method": "apet", "k": None, "matched": None, "early_stop": False}  # fields that the search sets itself


def references(spec: Spec, search: Search, predict: bool) -> list[Spec]:
    """What is run before the search: full fine-tuning, for a metric also stopped earlier and earlier, and the Gram matrix."""
    full = replace(spec, kind="train", method="full", subspace="coordinates", optimizer="adamw")
    steps = [spec.steps] if search.target.on_loss else sorted({max(1, spec.steps >> i) for i in range(HALVINGS + 1)}, reverse=True)
    specs = [replace(full, steps=each) for each in steps]
    if predict and search.target.on_loss:
        specs.append(replace(spec, kind="predict"))
    return [each.trimmed(field_names()).resolved() for each in specs]


def check_fields(spec: Spec, search: Search, predict: bool, measure: bool) -> None:
    """Raise UsageError for a field of `spec` that the search sets itself, or that none of its runs uses."""
    for name, value in GIVEN.items():
        if getattr(spec, name) != value:
            raise UsageError(f"{name} = {getattr(spec, name)} has no effect on intrinsic-dim, which sets it itself")
    runs = references(spec, search, predict) + ([_base(spec)] if measure else [])
    unused = set(field_names()).difference(*(run.used for run in runs))
    for name in field_names():
        if name in unused - set(GIVEN) and getattr(spec, name) != getattr(Spec, name):
            raise UsageError(f"{name} = {getattr(spec, name)} has no effect on any of the runs of this intrinsic-dim")


def plan(spec: Spec, search: Search, predict: bool, measure: bool, data: Path | None = None) -> list[Spec]:
    """The specs known beforehand: the references and, with `measure`, the first round of the search."""
    check_fields(spec, search, predict, measure)
    known = references(spec, search, predict)
    return known + (next(_searching(spec, search, known, data, lambda _: None)) if measure else [])


def _base(spec: Spec) -> Spec:
    """A training run of the search, whose k does not count."""
    return replace(spec, k=1).trimmed(field_names())


def _searching(spec: Spec, search: Search, known: list[Spec], data: Path | None, find: Callable[[Spec], Run | None]):
    return searching([_base(spec)], search, {spec.task: data} if data else {}, [each for each in known if each.method == "full"], find)


def intrinsic_dim(
    spec: Spec, store: Store, search: Search, predict: bool = True, measure: bool = True, data: Path | None = None, device: str = "cpu",
    report: Report = lambda *_: None, force: bool = False, stage: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[Row]]:  # fmt: skip
    """Measure and predict k* of `spec`'s model, task and subspace; returns the command's JSON object and all rows.

    Raises UsageError where several processes were started for it.
    """
    if world_size() > 1:
        raise UsageError(
            f"intrinsic-dim takes one process, and {world_size()} were started: run it without accelerate launch or torchrun, "
            "or its runs side by side by 'study --jobs N'"
        )
    check_fields(spec, search, predict, measure)
    known = references(spec, search, predict)
    total = len(known) + (search.runs if measure else 0)
    members: dict[Spec, Run] = {}

    def do(each: Spec) -> None:
        members[each] = Run.of(store, run(each, store, data, device, report, force))
        stage(len(members), total)

    for each in known:
        do(each)
    for batch in _searching(spec, search, known, data, members.get) if measure else ():
        for each in batch:
            do(each)
    runs = list(members.values())
    rows = thresholds(store, runs, search.target)
    return _summary(runs, rows, search.target), [row for each in runs for row in each.rows] + rows


def _summary(members: list[Run], rows: list[Row], target: Target) -> dict[str, Any]:
    """The contract's object: intervals, target with its definition, null where censored; `answer` says so in words."""
    by = {row.quantity: row for row in rows if row.quantity not in ("predicted_loss", "path_loss", "gap")}
    out: dict[str, Any] = {"model": rows[0].model, "parameters": rows[0].parameters, "task": rows[0].task}
    out["subspace"] = next((m.subspace for m in members if m.tuned_by("apet")), None)
    for name, quantity, flag in (("k_star", target.quantity, "censored"), ("k_pred", "k_pred", "censored_pred")):
        row = by.get(quantity)
        for suffix, value in (("", "value"), ("_low", "low"), ("_high", "high")):
            out[name + suffix] = _null(getattr(row, value)) if row else None
        out[flag] = row.note.split()[1] if row and row.note.startswith("censored:") else None
    for name in ("k_gm", "k_m0", "k_m1", "k_larsen", "k_gordon", "k_path_gm", "k_path_m0", "k_path_m1", "k_path_t5"):
        if name in by:
            out[name] = _null(by[name].value)
    if "k_gm" in by:
        out |= {"k_gm_low": _null(by["k_gm"].low), "k_gm_high": _null(by["k_gm"].high)}
    stated = by["target_loss" if target.on_loss else "target_metric"]
    out |= {"target": stated.value, "target_definition": stated.note, "target_kind": str(target), "level": LEVEL}
    out["answer"] = _answer(by[target.quantity], by.get(target.quantity + OPEN)) if target.quantity in by else None
    for name in ("mapped_loss", "map_offset", "map_p"):
        if name in by:
            out |= {name: _null(by[name].value), f"{name}_note": by[name].note}
    out["rank_ceiling"] = int(by["rank_ceiling"].value) if "rank_ceiling" in by else None
    out["slope"] = _null(by["slope"].value) if "slope" in by else None
    out["chance"] = members[0].value("chance", "validation")
    out["runs"] = int(by["runs"].value) if "runs" in by else 0
    out["runs_diverged"] = int(by["runs_diverged"].value) if "runs_diverged" in by else 0
    out["run_ids"] = [m.id for m in members]
    return out


def _answer(row: Row, why_open: Row | None) -> str:
    """What the measurement says, in one line; where the interval has no end, why, and what would close it."""
    if math.isfinite(row.value):
        low, high = (f"{end:.4g}" if math.isfinite(end) else "?" for end in (row.low, row.high))
        reason = f"; {why_open.note}" if why_open else ""
        return f"{row.quantity} = {row.value:.4g} [{low}, {high}], {100 * LEVEL:g} %{reason}"
    if row.note == "censored: above":
        return f"{row.quantity} is above {row.low:.4g}: the runs up to the largest k tried do not reach the target"
    if row.note == "censored: below":
        return f"{row.quantity} is below {row.high:.4g}: the runs from the smallest k tried on reach the target"
    return f"{row.quantity}: {row.note}"


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
