"""Compute k* from the rows of training runs and a Gram matrix: measured with an interval, and predicted without training.

`analyses.thresholds.target_kinds` lists the scores that have a threshold and their names. T3 predicts the minimum of the training loss. So
only a target on the training loss has a prediction, and only runs without early stopping count for it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from analyses.store import Held, NoValue, Row, Store, quantities, statuses
from analyses.thresholds.disambiguation import told_apart
from analyses.thresholds.metric_map import FEWEST, points, shared
from analyses.thresholds.predicted import VERSION, foresees, fullest, predicted_rows
from analyses.thresholds.targets import Run, Target, Tuned
from apet.scoring import metric_names
from apet.tasks import TASKS

if TYPE_CHECKING:
    from landscape.measurement import Crossing

LEVEL = 0.95  # confidence level of measured and predicted intervals
METHOD = 8  # version of the method; increased if the same runs give other thresholds


def finished(store: Store) -> list[Run]:
    """Return all complete runs without threshold summaries. Their rows distinguish runs with different weights or data."""
    runs = [Run.of(store, name) for name in store.run_ids()]
    return told_apart([run for run in runs if run.spec["kind"] != "threshold"])


def whole(runs: list[Run]) -> list[Run]:
    """Return the runs without shortened full fine-tuning, which only serves the map from a metric to the loss.

    A run of full fine-tuning is left out if another run has the same spec with more steps.
    """
    most_steps: dict[str, int] = defaultdict(int)
    for run in runs:
        most_steps[run.but("steps")] = max(most_steps[run.but("steps")], run.spec.get("steps", 0))
    return [run for run in runs if not run.tuned_by("full") or run.spec.get("steps", 0) == most_steps[run.but("steps")]]


def known_targets(store: Store) -> list[Target]:
    """Return the targets of the thresholds in the store, sorted."""
    targets = {Target(**run.spec["target"]) for _, run in store.summaries() if run.spec["kind"] == "threshold"}
    return sorted(targets, key=lambda target: (target.kind, target.amount))


def commit_thresholds(store: Store, targets: Iterable[Target], report: Callable[[str, int, int], None] = lambda *_: None) -> int:
    """Compute and store the thresholds of all finished runs for `targets`. Return the number of measured and predicted thresholds."""
    targets = list(targets)
    runs = finished(store) if targets else []
    rows = [row for target in targets for row in thresholds(store, runs, target, report=report)]
    return sum(row.quantity in {*quantities.MEASURED, quantities.K_PRED} for row in rows)


def thresholds(
    store: Store, runs: list[Run], target: Target, seed: int = 0, report: Callable[[str, int, int], None] = lambda *_: None
) -> list[Row]:
    """Return the rows of the measured and predicted thresholds for every model, task and protocol among `runs`.

    The rows hold k_star (or k_loss, k_part, k_high, k_low), k_pred and the numbers behind them, and are committed to the store. Groups
    without the full fine-tuning that determines the target are skipped.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if target.counts(run):
            groups[run.setting].append(run)
    diverged = Counter((run.setting, run.tuned) for run in runs if run.tuned_by("apet") and run.has("diverged"))
    rows: list[Row] = []
    for number, (group, members) in enumerate(groups.items()):
        report(f"thresholds {target} of {members[0].rows[0].model}", number, len(groups))
        sufficient = ("full",) if target.needs_full else ("full", "apet")
        if any(run.tuned_by(method) for run in members for method in sufficient):
            lost = {tuned: count for (setting, tuned), count in diverged.items() if setting == group}
            for tuned, part in _by_tuned(members, lost).items():
                rows += _group(store, part, target, seed, tuned, lost.get(tuned, 0))
    return rows


def _by_tuned(runs: list[Run], diverged: Collection[Tuned]) -> dict[Tuned, list[Run]]:
    """Return (subspace, placement) -> its apet runs, with full fine-tuning and the predictions in the same scope.

    k in one subspace or placement is not comparable with k in another. Without apet runs there is one entry per predicted scope.
    """
    apet = [run for run in runs if run.tuned_by("apet")]
    others = [run for run in runs if run not in apet]
    keys = sorted({run.tuned for run in apet} | set(diverged), key=lambda key: tuple(map(str, key)))
    if not keys:
        scopes = sorted({run.spec["scope"] for run in others if foresees(run)}) or [""]
        return {(None, scope or None): [run for run in others if not foresees(run) or run.spec["scope"] == scope] for scope in scopes}
    groups: dict[Tuned, list[Run]] = {}
    for key in keys:
        members = [run for run in apet if run.tuned == key]
        groups[key] = members + [run for run in others if not foresees(run) or _applies_to(run, members)]
    return groups


def _applies_to(prediction: Run, apet: list[Run]) -> bool:
    """Return whether a prediction applies to the space that the runs tuned: equal scopes, and no new parameters."""
    return all(run.spec.get("scope", "") == prediction.spec["scope"] and run.spec.get("operations", "add") == "add" for run in apet)


def _order(run: Run) -> tuple[float, int, int, str]:
    """Return a sort key by k and seeds, so that bootstrap draws do not depend on run ids."""
    return run.k, run.spec.get("position_seed") or 0, run.spec.get("train_seed") or 0, run.id


def measure(runs: list[Run], target: Target, value: float, metric: str, seed: int = 0, level: float = LEVEL) -> tuple[Crossing, list[Run]]:
    """Return the threshold measured by APET runs, and the runs with a finite gap in the order to which the threshold's positions refer.

    Raises ValueError, with the reason, if the runs do not determine a threshold.
    """
    from landscape.measurement import fit_crossing

    counted = [run for run in sorted(runs, key=_order) if math.isfinite(target.gap(run, value, metric))]
    if not counted:
        raise ValueError("no run has a gap to the target")
    return fit_crossing([run.k for run in counted], [target.gap(run, value, metric) for run in counted], seed=seed, level=level), counted


def _group(store: Store, runs: list[Run], target: Target, seed: int, tuned: Tuned, diverged: int) -> list[Row]:
    identity = [sorted(run.id for run in runs), runs[0].setting, target.as_dict(), seed, tuned, diverged, METHOD, VERSION]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    if store.done(name):
        return store.rows(name)
    spec = {"kind": "threshold", "target": target.as_dict(), "seed": seed, "runs": sorted(run.id for run in runs)}
    rows = _rows(store, runs, target, seed, tuned, diverged, name)
    with suppress(Held), store.claim(name):  # a process that holds the claim commits the same rows
        store.commit(name, spec, rows, {}, {})
    return rows


def _rows(store: Store, runs: list[Run], target: Target, seed: int, tuned: Tuned, diverged: int, name: str) -> list[Row]:
    full = [run for run in runs if run.tuned_by("full")] or runs
    subspace, placement = tuned
    sample = full[0].rows[0]
    metric = main_metric(sample.metric, sample.task)
    value = target.value(full, metric)

    def row(quantity: str, number: float | None, **columns) -> Row:
        return Row(
            sample.model, sample.parameters, sample.task, quantity, _number(number), name, "threshold", sample.protocol,
            **{
                "split": "train" if target.on_loss else "validation", "method": "apet", "subspace": subspace, "placement": placement,
                "target": value, "group": str(target), "weights": sample.weights, "data": sample.data, "metric": sample.metric, **columns,
            },
        )  # fmt: skip

    definition, share = target.definition(full[0].spec["examples"]), target.share(full, metric)
    if share is not None and target.kind != "fraction":
        definition += f" ({100 * share:.3g} % of the improvement over the untuned model)"
    rows = [row("target_loss" if target.on_loss else "target_metric", value, note=definition)]
    if share is not None:
        rows.append(row("target_share", share, note="share of full fine-tuning's improvement over the untuned model"))
    measured = [run for run in runs if run.tuned_by("apet")]
    settled = target.settled(full, metric)
    if settled:
        rows += [row(target.quantity, None, **settled.columns), row("runs", len(measured))]
    elif measured or diverged:
        rows += _measured(measured, target, value, metric, seed, definition, row)
    if diverged:
        rows.append(row("runs_diverged", diverged, note="training runs that diverged and are left out"))
    if not target.on_loss:
        rows += _mapped([run for run in runs if run.tuned_by("full")], measured, target, value, metric, seed, row)
    predicted = [run for run in runs if foresees(run)]
    if predicted:
        rows += predicted_rows(store, fullest(predicted), value, seed, definition, row)
    return rows


def _measured(runs: list[Run], target: Target, value: float, metric: str, seed: int, definition: str, row) -> list[Row]:
    try:
        crossing, counted = measure(runs, target, value, metric, seed)
    except ValueError as reason:
        return [row(target.quantity, None, **NoValue(statuses.UNDECIDED, str(reason)).columns), row("runs", len(runs))]
    rows = [*_open_end(crossing, [run.k for run in counted], target, row)]
    by = "bootstrap interval over runs" if crossing.method == "line" else "interval of a probit on which runs reach the target"
    columns = {"status": crossing.censored} if crossing.censored else {"note": f"{definition}; {100 * crossing.level:g} % {by}"}
    rows += [
        row(target.quantity, crossing.k_star, low=_at_least_one(crossing.low), high=_number(crossing.high), **columns),
        row("runs", len(counted)),
    ]
    if crossing.slope is not None:
        rows.append(row("slope", crossing.slope, stderr=_number(crossing.slope_stderr), series=crossing.method))
    roles = {**dict.fromkeys(crossing.used, statuses.USED), **dict.fromkeys(crossing.lapses, statuses.FAILED_TRAINING)}
    gaps = [(run, target.gap(run, value, metric), roles.get(i, statuses.FAR)) for i, run in enumerate(counted)]
    return rows + [
        row("gap", gap, x=run.k, position_seed=run.spec.get("position_seed"), train_seed=run.spec.get("train_seed"), status=status)
        for run, gap, status in gaps
    ]


def _at_least_one(low: float | None) -> float:
    """Return the lower end of an interval. Without a tuned parameter the target is missed: `Target.settled` has tried the untuned model."""
    return math.nan if low is None else max(low, 1.0)


def _open_end(crossing: Crossing, ks: list[int], target: Target, row) -> list[Row]:
    """Return a row for an open interval: the runs that would close it (value), their k (low to high), and the reason in the note."""
    from landscape.measurement import runs_needed

    needed = runs_needed(crossing, ks)
    if needed is None:
        return []
    ends = " or ".join(name for name, end in (("lower", crossing.low), ("upper", crossing.high)) if end is None)
    reason = "it lies beyond the k of the runs" if crossing.method == "probit" else (
        f"the slope of the line, {crossing.slope:.2g} ± {crossing.slope_stderr:.2g}, does not differ significantly from zero"
    )  # fmt: skip
    note = f"no {ends} end: {reason}; about {needed.runs} more runs at k from {needed.low:.3g} to {needed.high:.3g} would close it"
    return [row(target.quantity + quantities.OPEN, needed.runs, low=needed.low, high=needed.high, note=note)]


def _mapped(full: list[Run], apet: list[Run], target: Target, value: float, metric: str, seed: int, row) -> list[Row]:
    """Return rows of the training loss at which full fine-tuning crosses the metric target, and of a test whether APET runs do so, too."""
    from landscape.measurement import fit_crossing

    full_points = points(full, target, value, metric, untuned=True)
    if len(full_points) < FEWEST:
        return []
    try:
        crossing = fit_crossing(np.exp(full_points[:, 0]), full_points[:, 1], seed=seed)  # in 1 / loss, which rises with the metric
    except ValueError as reason:
        return [row("mapped_loss", None, split="train", **NoValue(statuses.UNDECIDED, str(reason)).columns)]
    loss, low, high = (None if inverse is None else 1 / inverse for inverse in (crossing.k_star, crossing.high, crossing.low))
    columns = {"note": f"training loss at which full fine-tuning crosses the target, from {len(full_points)} of its states"}
    if crossing.censored:
        columns = {"status": statuses.BELOW if crossing.censored == statuses.ABOVE else statuses.ABOVE}
    rows = [row("mapped_loss", loss, split="train", low=_number(low), high=_number(high), **columns)]
    test = shared(full_points, points(apet, target, value, metric))
    if test is None:
        few = NoValue(statuses.UNDECIDED, "too few APET runs have a training loss in the range of full fine-tuning")
        return rows + [row("map_offset", None, **few.columns)]
    note = f"APET's {metric} less full fine-tuning's at equal training loss, in logits: t = {test.t:.3g}, {test.freedom} degrees of freedom"
    offset = row("map_offset", test.offset, stderr=test.stderr, dof=test.freedom, p=test.p, note=note)
    return rows + [offset, row("map_p", test.p, dof=test.freedom, note="two-sided")]


def main_metric(metric: str, task: str) -> str:
    """Return the main metric of a run from the columns `metric` and `task` of its rows. Rows of older versions have the metric ""."""
    return metric or (metric_names(TASKS[task])[0] if task in TASKS else "accuracy")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
