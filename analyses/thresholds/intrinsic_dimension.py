"""The threshold of one model and task: measured by a search in rounds (`analyses.studies.stages`) and predicted from one Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.runs import Report, run
from analyses.specs import Spec, TrainSpec, defaults_of, field_names, spec_from
from analyses.store import Row, Store, quantities, statuses
from analyses.studies import Search, searching
from analyses.thresholds.measured import LEVEL, thresholds
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError
from apet.machine import world_size
from apet.tasks import task_named

Fields = dict[str, Any]  # names and values of spec fields

HALVINGS = 6  # full fine-tuning's steps are halved this often, for the map from a metric to the training loss


OWN = ("kind", "method", "k", "matched", "early_stop")  # fields that the search sets itself


def references(fields: Fields, search: Search, predict: bool) -> list[Spec]:
    """Return the specs of the runs before the search: full fine-tuning and, with `predict` and a loss target, the prediction.

    For a metric target full fine-tuning is repeated with fewer steps, halved up to HALVINGS times.
    """
    full = _training(fields | {"method": "full", "subspace": "coordinates", "optimizer": "adamw"})
    steps = [full.steps] if search.target.on_loss else sorted({max(1, full.steps >> i) for i in range(HALVINGS + 1)}, reverse=True)
    specs: list[Spec] = [replace(full, steps=count) for count in steps]
    if predict and search.target.on_loss:
        specs.append(spec_from(fields | {"kind": "predict"}, shared=field_names()))
    return [spec.resolved() for spec in specs]


def _training(fields: Fields) -> TrainSpec:
    """Return a training run's spec, which answers in words unless the task asks for a number."""
    readout = {} if _regresses(fields) else {"readout": "words"}
    spec = spec_from(readout | fields | {"kind": "train", "early_stop": False}, shared=field_names())
    assert isinstance(spec, TrainSpec)
    return spec


def _base(fields: Fields) -> TrainSpec:
    """Return the spec of a training run of the search. Its k is a placeholder."""
    return _training(fields | {"method": "apet", "k": 1})


def _regresses(fields: Fields) -> bool:
    return task_named(fields.get("task", defaults_of(TrainSpec)["task"])).regresses


def check_fields(fields: Fields, search: Search, predict: bool, measure: bool) -> None:
    """Raise UsageError for a field that the search sets itself or that no run uses, and for a target that the task does not permit."""
    if search.target.on_loss and _regresses(fields):
        raise UsageError(
            f"{fields['task']} asks for a number, so its runs also train a head, but a target on the training loss is for other runs",
            target="metric:.8",
        )
    for name in OWN:
        if name in fields:
            raise UsageError(f"{name} = {fields[name]} has no effect on intrinsic-dim, which sets {name} itself")
    runs = references(fields, search, predict) + ([_base(fields)] if measure else [])
    for name, value in fields.items():
        if not any(name in defaults_of(type(run)) and (run.reads(name) or value == defaults_of(type(run))[name]) for run in runs):
            raise UsageError(f"{name} = {value} has no effect on any of the runs of this intrinsic-dim")


def plan(fields: Fields, search: Search, predict: bool, measure: bool, data: Path | None = None) -> list[Spec]:
    """Return the specs that are known before the start: the references and, with `measure`, the first round of the search."""
    check_fields(fields, search, predict, measure)
    known = references(fields, search, predict)
    return known + (next(_searching(fields, search, known, data, lambda _: None)) if measure else [])


def planned_cost(known: list[dict[str, Any]], search: Search, measure: bool) -> dict[str, Any]:
    """Return the JSON object of a dry run, from the checks of the planned runs (`known`, by `analyses.runs.check`)."""
    spec = known[0]["spec"]
    later = search.runs - sum(run["spec"]["kind"] == "train" and run["spec"]["method"] == "apet" for run in known) if measure else 0
    gradients = sum(run["gradient_equivalents"] for run in known) + max(0, later) * spec["steps"] * spec["batch"]
    return {"runs": known, "later_runs": max(0, later), "gradient_equivalents": gradients}


def _searching(fields: Fields, search: Search, known: list[Spec], data: Path | None, find: Callable[[Spec], Run | None]):
    base, full = _base(fields), [spec for spec in known if spec.method == "full"]
    return searching([base], search, {base.task_name: data} if data else {}, full, find)


def intrinsic_dim(
    fields: Fields, store: Store, search: Search, predict: bool = True, measure: bool = True, data: Path | None = None, device: str = "cpu",
    report: Report = lambda *_: None, force: bool = False,
) -> tuple[dict[str, Any], list[Row]]:  # fmt: skip
    """Measure and predict k* of a model, task and subspace. Return the command's JSON object and all rows.

    `fields` are the fields of the runs that differ from the defaults. Reports begin with the number of the run.

    Raises UsageError if several processes were started.
    """
    if world_size() > 1:
        raise UsageError(
            f"intrinsic-dim needs a single process, but {world_size()} were started: start it without accelerate launch or torchrun, "
            "or put its runs into a study with several jobs"
        )
    check_fields(fields, search, predict, measure)
    known = references(fields, search, predict)
    total = len(known) + (search.runs if measure else 0)
    members: dict[Spec, Run] = {}

    def numbered(what: str, done: float, of: float) -> None:
        report(f"run {len(members) + 1} of {total}: {what}", done, of)

    def do(spec: Spec) -> None:
        members[spec] = Run.of(store, run(spec, store, data, device, numbered, force))

    for spec in known:
        do(spec)
    for batch in _searching(fields, search, known, data, members.get) if measure else ():
        for spec in batch:
            do(spec)
    runs = list(members.values())
    rows = thresholds(store, runs, search.target)
    return _summary(runs, rows, search.target), [row for member in runs for row in member.rows] + rows


def _summary(members: list[Run], rows: list[Row], target: Target) -> dict[str, Any]:
    """Return the JSON object of the command: thresholds with intervals (null if censored), the target, and `answer` in words."""
    by = {row.quantity: row for row in rows if row.quantity not in ("predicted_loss", "path_envelope", "gap")}
    out: dict[str, Any] = {"model": rows[0].model, "parameters": rows[0].parameters, "task": rows[0].task}
    out["subspace"] = next((m.subspace for m in members if m.tuned_by("apet")), None)
    for name, quantity, flag in (("k_star", target.quantity, "censored"), ("k_pred", quantities.K_PRED, "censored_pred")):
        row = by.get(quantity)
        for suffix, value in (("", "value"), ("_low", "low"), ("_high", "high")):
            out[name + suffix] = _null(getattr(row, value)) if row else None
        out[flag] = row.status if row and row.status in statuses.CENSORED else None
    for name in ("k_gm", "k_m0", "k_m1", "k_larsen", "k_gordon", "k_path_gm", "k_path_m0", "k_path_m1", "k_path_t5"):
        if name in by:
            out[name] = _null(by[name].value)
    if "k_gm" in by:
        out |= {"k_gm_low": _null(by["k_gm"].low), "k_gm_high": _null(by["k_gm"].high)}
    target_row = by["target_loss" if target.on_loss else "target_metric"]
    out |= {"target": target_row.value, "target_definition": target_row.note, "target_kind": str(target), "level": LEVEL}
    out["answer"] = _answer(by[target.quantity], by.get(target.quantity + quantities.OPEN)) if target.quantity in by else None
    for name in ("mapped_loss", "map_offset", "map_p"):
        if name in by:
            out |= {name: _null(by[name].value), f"{name}_note": told(by[name])}
    out["rank_ceiling"] = int(by["rank_ceiling"].value) if "rank_ceiling" in by else None
    out["slope"] = _null(by["slope"].value) if "slope" in by else None
    out["chance"] = members[0].value("chance", "validation")
    out["runs"] = int(by["runs"].value) if "runs" in by else 0
    out["runs_diverged"] = int(by["runs_diverged"].value) if "runs_diverged" in by else 0
    out["run_ids"] = [m.id for m in members]
    return out


def _answer(row: Row, why_open: Row | None) -> str:
    """Return the result of the measurement in one line; for an open interval also the reason and the runs that would close it."""
    if math.isfinite(row.value):
        low, high = (f"{end:.4g}" if math.isfinite(end) else "?" for end in (row.low, row.high))
        reason = f"; {why_open.note}" if why_open else ""
        return f"{row.quantity} = {row.value:.4g} [{low}, {high}], {100 * LEVEL:g} %{reason}"
    if row.status == statuses.ABOVE and math.isfinite(row.low):
        return f"{row.quantity} is above {row.low:.4g}: the runs up to the largest k tried do not reach the target"
    if row.status == statuses.BELOW and math.isfinite(row.high):
        return f"{row.quantity} is below {row.high:.4g}: runs at the smallest k tried already reach the target"
    return f"{row.quantity}: {told(row)}"


def told(row: Row) -> str:
    """Return the row's status and note in words, for instance "censored: below (reason)" or "undecided: reason"."""
    if row.status in statuses.CENSORED:
        return f"censored: {row.status}" + (f" ({row.note})" if row.note else "")
    return ": ".join(filter(None, (row.status, row.note)))


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
