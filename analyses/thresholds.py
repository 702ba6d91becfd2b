"""From the rows of training runs and a Gram matrix to k*: measured with an interval, predicted without training.

The target is a fraction of the improvement of the training loss that full fine-tuning makes over the untuned model,
on the same fixed examples: L_target = L0 - fraction (L0 - L_full). It is a minimum that T3 speaks of, so only runs
without early stop count.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

import numpy as np

from analyses.store import Row, Store

DEFINITION = (
    "training loss that makes {percent:g} % of the improvement of full fine-tuning over the untuned model, "
    "on the same {examples} fixed examples"
)


@dataclass(frozen=True)
class Run:
    """A finished run: its id, spec and rows by (quantity, split)."""

    id: str
    spec: dict
    rows: list[Row]

    def value(self, quantity: str, split: str | None = None) -> float:
        return next(row.value for row in self.rows if row.quantity == quantity and row.split == split)


def finished(store: Store) -> list[Run]:
    """All whole runs that came from a spec of their own (threshold summaries are left out)."""
    runs = [Run(name, store.spec(name), store.rows(name)) for name in store.run_ids()]
    return [run for run in runs if run.spec["kind"] != "threshold"]


def fractions(store: Store) -> list[float]:
    """The targets for which thresholds have been computed here, sorted."""
    specs = (store.spec(name) for name in store.run_ids())
    return sorted({spec["fraction"] for spec in specs if spec["kind"] == "threshold"})


def thresholds(store: Store, runs: list[Run], fraction: float, seed: int = 0) -> list[Row]:
    """k_star, k_pred and what they rest on, for every model and fixed set of examples among `runs` that allows it.

    Groups without a full fine-tuning run have no target and are skipped. Results are committed to the store.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if run.spec["kind"] == "predict" or (run.spec["kind"] == "train" and _predictable(run)):
            groups[tuple(run.spec[name] for name in ("model", "random_init", "task", "examples", "max_length"))].append(run)
    found: list[Row] = []
    for members in groups.values():
        if any(_is(run, "full") for run in members):
            found += _group(store, members, fraction, seed)
    return found


def _predictable(run: Run) -> bool:
    """Whether a training run is of the function that a prediction speaks of: its minimum, in words, by the weights as they are."""
    plain = run.spec.get("weights", "float32") == "float32" and run.spec.get("attention", "eager") == "eager"
    return plain and not run.spec["early_stop"] and not any(row.quantity == "k_head" for row in run.rows)


def _is(run: Run, method: str) -> bool:
    return run.spec["kind"] == "train" and run.spec["method"] == method


def _group(store: Store, runs: list[Run], fraction: float, seed: int) -> list[Row]:
    name = hashlib.sha256(json.dumps([sorted(run.id for run in runs), fraction, seed]).encode()).hexdigest()[:16]
    if not store.done(name):
        spec = {"kind": "threshold", "fraction": fraction, "seed": seed, "runs": sorted(run.id for run in runs)}
        store.commit(name, spec, _rows(store, runs, fraction, seed, name), {}, {})
    return store.rows(name)


def _rows(store: Store, runs: list[Run], fraction: float, seed: int, name: str) -> list[Row]:
    full = [run for run in runs if _is(run, "full")]
    initial = mean(run.value("initial_loss", "train") for run in full)
    target = initial - fraction * (initial - mean(run.value("loss", "train") for run in full))
    sample = full[0].rows[0]

    def row(quantity: str, value: float | None, **columns) -> Row:
        number = math.nan if value is None else float(value)
        return Row(
            sample.model, sample.parameters, sample.task, quantity, number, name, split="train", method="apet", target=target, **columns
        )

    definition = DEFINITION.format(percent=100 * fraction, examples=full[0].spec["examples"] or "all")
    rows = [row("target_loss", target, note=definition)]
    measured = [run for run in runs if _is(run, "apet")]
    if measured:
        rows += _measured(measured, target, seed, definition, row)
    predicted = [run for run in runs if run.spec["kind"] == "predict"]
    if predicted:
        rows += _predicted(store, predicted[0], target, seed, definition, row)
    return rows


def _measured(runs: list[Run], target: float, seed: int, definition: str, row) -> list[Row]:
    from landscape.threshold import crossing, gap_of_loss

    runs = sorted(runs, key=lambda run: (run.spec["k"], run.id))
    gaps = [gap_of_loss(run.value("loss", "train"), target) for run in runs]
    found = crossing([run.spec["k"] for run in runs], gaps, seed=seed)
    note = f"censored: {found.censored}" if found.censored else definition
    rows = [row("k_star", found.k_star, low=_number(found.low), high=_number(found.high), note=note), row("runs", len(runs))]
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
