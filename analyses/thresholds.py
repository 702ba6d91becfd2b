"""From the rows of training runs and a Gram matrix to k*: measured with an interval, predicted without training.

Which scores have a threshold, and what each is called, is in `analyses.targets`. It is a minimum of the training loss that T3
speaks of, so for a target on that loss only runs without early stop count, and only there is a prediction.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from contextlib import suppress

import numpy as np

from analyses.claims import Held
from analyses.store import Row, Store
from analyses.targets import Run, Target
from apet.evaluation import metric_names
from apet.tasks import TASKS


def finished(store: Store) -> list[Run]:
    """All whole runs that came from a spec of their own (threshold summaries are left out)."""
    runs = [Run.of(store, name) for name in store.run_ids()]
    return [run for run in runs if run.spec["kind"] != "threshold"]


def known_targets(store: Store) -> list[Target]:
    """The targets for which thresholds have been computed here, sorted."""
    found = {Target(**run.spec["target"]) for _, run in store.summaries() if run.spec["kind"] == "threshold"}
    return sorted(found, key=lambda target: (target.kind, target.amount))


def thresholds(store: Store, runs: list[Run], target: Target, seed: int = 0) -> list[Row]:
    """k_star (or k_high, k_low), k_pred and what they rest on, for every model and fixed set of examples among `runs` that allows it.

    Groups without a full fine-tuning run have no target and are skipped. Results are committed to the store.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if target.counts(run):
            groups[target.group(run)].append(run)
    found: list[Row] = []
    for members in groups.values():
        enough = ("full", "apet") if target.kind == "above_chance" else ("full",)
        if any(run.tuned_by(method) for run in members for method in enough):
            found += [row for each in _by_subspace(members) for row in _group(store, each, target, seed)]
    return found


def _by_subspace(runs: list[Run]) -> list[list[Run]]:
    """The runs of apet in each subspace, with all that are not of apet: k in one says nothing of k in another."""
    apet = [run for run in runs if run.tuned_by("apet")]
    others = [run for run in runs if run not in apet]
    return [others + [run for run in apet if run.subspace == name] for name in sorted({run.subspace for run in apet})] or [others]


def _group(store: Store, runs: list[Run], target: Target, seed: int) -> list[Row]:
    name = hashlib.sha256(json.dumps([sorted(run.id for run in runs), target.as_dict(), seed]).encode()).hexdigest()[:16]
    if store.done(name):
        return store.rows(name)
    spec = {"kind": "threshold", "target": target.as_dict(), "seed": seed, "runs": sorted(run.id for run in runs)}
    rows = _rows(store, runs, target, seed, name)
    with suppress(Held), store.claim(name):  # whoever holds it commits the same
        store.commit(name, spec, rows, {}, {})
    return rows


def _rows(store: Store, runs: list[Run], target: Target, seed: int, name: str) -> list[Row]:
    full = [run for run in runs if run.tuned_by("full")] or runs
    subspaces = {run.subspace for run in runs if run.tuned_by("apet")} - {"coordinates"}
    sample = full[0].rows[0]
    metric = metric_names(TASKS[sample.task])[0] if sample.task in TASKS else "accuracy"
    value = target.value(full, metric)

    def row(quantity: str, number: float | None, **columns) -> Row:
        return Row(
            sample.model, sample.parameters, sample.task, quantity, _number(number), name,
            split="train" if target.on_loss else "validation", method="apet", subspace=next(iter(subspaces), None), target=value, **columns,
        )  # fmt: skip

    definition = target.definition(full[0].spec["examples"])
    rows = [row("target_loss" if target.on_loss else "target_metric", value, note=definition)]
    measured = [run for run in runs if run.tuned_by("apet")]
    if measured:
        rows += _measured(measured, target, value, metric, seed, definition, row)
    predicted = [run for run in runs if run.spec["kind"] == "predict"]
    if predicted:
        rows += _predicted(store, predicted[0], value, seed, definition, row)
    return rows


def _measured(runs: list[Run], target: Target, value: float, metric: str, seed: int, definition: str, row) -> list[Row]:
    from landscape.threshold import crossing

    gaps = [(run.k, target.gap(run, value, metric)) for run in sorted(runs, key=lambda run: (run.k, run.id))]
    known = [(k, gap) for k, gap in gaps if math.isfinite(gap)]
    try:
        found = crossing([k for k, _ in known], [gap for _, gap in known], seed=seed)
    except ValueError as reason:
        return [row(target.quantity, None, note=f"undecided: {reason}"), row("runs", len(known))]
    note = f"censored: {found.censored}" if found.censored else definition
    rows = [row(target.quantity, found.k_star, low=_number(found.low), high=_number(found.high), note=note), row("runs", len(known))]
    if found.slope is not None:
        rows.append(row("slope", found.slope, stderr=_number(found.slope_stderr)))
    return rows


def _predicted(store: Store, run: Run, target: float, seed: int, definition: str, row) -> list[Row]:
    from landscape.dual import gradient_spectrum
    from landscape.predict import expected_loss, predict_with_interval

    arrays = store.arrays(run.id)
    dual = (arrays["gram"], arrays["logits"], arrays["labels"])
    found = predict_with_interval(*dual, target, seed=seed)
    censored = found.prediction.censored
    note = f"censored: {censored} ({found.prediction.reason})" if censored else definition
    k, low, high = (None, None, None) if censored else (found.prediction.k, found.low, found.high)
    spectrum = gradient_spectrum(*dual)
    curve = np.geomspace(1, spectrum.rank_ceiling, 40)
    return [
        row("k_pred", k, low=_number(low), high=_number(high), note=note),
        row("k_pred_half", found.k_half, note="from half of the examples"),
        row("rank_ceiling", spectrum.rank_ceiling),
        *[row("predicted_loss", expected_loss(spectrum, float(x)), x=float(x)) for x in curve],
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
