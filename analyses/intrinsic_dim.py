"""The threshold of one model and task: measured by a design in fixed rounds (analyses.search), predicted from one Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.inputs import Report, inputs
from analyses.run import check, run
from analyses.search import FIRST_ROUND, first_round, second_round
from analyses.spec import Spec
from analyses.store import Row, Store
from analyses.targets import Run, Target
from analyses.thresholds import thresholds


def plan(spec: Spec, runs: int, predict: bool, measure: bool, size: int) -> list[Spec]:
    """The specs known beforehand: full fine-tuning (the target), the Gram matrix, and round 1's grid of k."""
    base = replace(spec, early_stop=False)
    specs = [replace(base, kind="train", method="full", k=None, subspace="coordinates")]
    if predict:
        specs.append(replace(base, kind="predict", method="apet", k=None))
    if measure:
        specs += [replace(base, kind="train", method="apet", k=k) for k in first_round(size, min(runs, FIRST_ROUND))]
    return [s.resolved() for s in specs]


def intrinsic_dim(
    spec: Spec, store: Store, runs: int, fraction: float, predict: bool = True, measure: bool = True,
    data: Path | None = None, device: str = "cpu", report: Report = lambda *_: None, force: bool = False,
    stage: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[Row]]:  # fmt: skip
    """Measure and predict k* of `spec`'s model, task and subspace; returns the command's JSON object and all rows."""
    found = inputs(spec, data, device)
    size = check(replace(spec, kind="predict"), found)["in_scope"]
    known = plan(spec, runs, predict, measure, size)
    total = len(known) + (max(0, runs - FIRST_ROUND) if measure else 0)
    ids: list[str] = []

    def do(each: Spec) -> Run:
        ids.append(run(each, store, data, device, report, force))
        stage(len(ids), total)
        return Run.of(store, ids[-1])

    members = [do(each) for each in known]
    target = Target("fraction", fraction)
    if measure:
        value = target.value(members[:1], "")
        first = {m.k: target.gap(m, value, "") for m in members if m.tuned_by("apet")}
        pairs = second_round(first, max(0, runs - len(first)))
        members += [
            do(replace(spec, kind="train", early_stop=False, method="apet", k=k, position_seed=seed).resolved()) for k, seed in pairs
        ]
    rows = thresholds(store, members, target)
    return _summary(members, rows), [row for m in members for row in m.rows] + rows


def _summary(members: list[Run], rows: list[Row]) -> dict[str, Any]:
    """The contract's object: intervals, target with its definition, null where censored."""
    by = {row.quantity: row for row in rows if row.quantity != "predicted_loss"}
    out: dict[str, Any] = {"model": rows[0].model, "parameters": rows[0].parameters, "task": rows[0].task}
    out["subspace"] = next((m.subspace for m in members if m.tuned_by("apet")), None)
    for name, flag in (("k_star", "censored"), ("k_pred", "censored_pred")):
        row = by.get(name)
        for suffix, value in (("", "value"), ("_low", "low"), ("_high", "high")):
            out[name + suffix] = _null(getattr(row, value)) if row else None
        out[flag] = row.note.split()[1] if row and row.note.startswith("censored:") else None
    out["target"] = by["target_loss"].value
    out["target_definition"] = by["target_loss"].note
    out["rank_ceiling"] = int(by["rank_ceiling"].value) if "rank_ceiling" in by else None
    out["slope"] = _null(by["slope"].value) if "slope" in by else None
    out["chance"] = members[0].value("chance", "validation")
    out["runs"] = int(by["runs"].value) if "runs" in by else 0
    out["run_ids"] = [m.id for m in members]
    return out


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
