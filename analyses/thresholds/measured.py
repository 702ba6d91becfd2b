"""From the rows of training runs and a Gram matrix to k*: measured with an interval, predicted without training.

Which scores have a threshold, and what each is called, is in `analyses.thresholds.targets`. It is a minimum of the training loss that T3
speaks of, so for a target on that loss only runs without early stop count, and only there is a prediction.
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

LEVEL = 0.95  # of intervals, the predicted ones' as well
METHOD = 5  # raised when the same runs give other thresholds


def finished(store: Store) -> list[Run]:
    """All whole runs that came from a spec of their own (threshold summaries are left out), those of other weights or data told apart."""
    runs = [Run.of(store, name) for name in store.run_ids()]
    return told_apart([run for run in runs if run.spec["kind"] != "threshold"])


def whole(runs: list[Run]) -> list[Run]:
    """The runs without full fine-tuning that was stopped earlier than another of the same spec: it serves the map of a metric alone."""
    most: dict[str, int] = defaultdict(int)
    for run in runs:
        most[run.but("steps")] = max(most[run.but("steps")], run.spec.get("steps", 0))
    return [run for run in runs if not run.tuned_by("full") or run.spec.get("steps", 0) == most[run.but("steps")]]


def known_targets(store: Store) -> list[Target]:
    """The targets for which thresholds have been computed here, sorted."""
    found = {Target(**run.spec["target"]) for _, run in store.summaries() if run.spec["kind"] == "threshold"}
    return sorted(found, key=lambda target: (target.kind, target.amount))


def commit_thresholds(store: Store, targets: Iterable[Target], report: Callable[[str, int, int], None] = lambda *_: None) -> int:
    """Compute and keep the thresholds of all finished runs for `targets`; the number of measured and predicted ones."""
    targets = list(targets)
    runs = finished(store) if targets else []
    rows = [row for target in targets for row in thresholds(store, runs, target, report=report)]
    return sum(row.quantity in {*quantities.MEASURED, quantities.K_PRED} for row in rows)


def thresholds(
    store: Store, runs: list[Run], target: Target, seed: int = 0, report: Callable[[str, int, int], None] = lambda *_: None
) -> list[Row]:
    """k_star (or k_loss, k_part, k_high, k_low), k_pred and what they rest on, for every model and fixed set of examples among `runs` that
    allows it.

    Groups without the full fine-tuning that the target is taken from are skipped. Results are committed to the store.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if target.counts(run):
            groups[run.setting].append(run)
    diverged = Counter((run.setting, run.tuned) for run in runs if run.tuned_by("apet") and run.has("diverged"))
    found: list[Row] = []
    for number, (group, members) in enumerate(groups.items()):
        report(f"thresholds {target} of {members[0].rows[0].model}", number, len(groups))
        enough = ("full",) if target.needs_full else ("full", "apet")
        if any(run.tuned_by(method) for run in members for method in enough):
            lost = {tuned: count for (where, tuned), count in diverged.items() if where == group}
            for tuned, each in _by_tuned(members, lost).items():
                found += _group(store, each, target, seed, tuned, lost.get(tuned, 0))
    return found


def _by_tuned(runs: list[Run], diverged: Collection[Tuned]) -> dict[Tuned, list[Run]]:
    """(subspace, placement) -> the runs of apet there, with full fine-tuning and the predictions in the same scope.

    k in one subspace or placement says nothing of k in another. Where apet tuned nothing, there is an entry for each scope predicted.
    """
    apet = [run for run in runs if run.tuned_by("apet")]
    others = [run for run in runs if run not in apet]
    keys = sorted({run.tuned for run in apet} | set(diverged), key=lambda key: tuple(map(str, key)))
    if not keys:
        scopes = sorted({run.spec["scope"] for run in others if foresees(run)}) or [""]
        return {(None, scope or None): [run for run in others if not foresees(run) or run.spec["scope"] == scope] for scope in scopes}
    found: dict[Tuned, list[Run]] = {}
    for key in keys:
        own = [run for run in apet if run.tuned == key]
        found[key] = own + [run for run in others if not foresees(run) or _speaks_of(run, own)]
    return found


def _speaks_of(prediction: Run, apet: list[Run]) -> bool:
    """Whether a prediction is of the space in which these runs tuned: the same scope, and no parameters that the model lacks."""
    return all(run.spec.get("scope", "") == prediction.spec["scope"] and run.spec.get("operations", "add") == "add" for run in apet)


def _order(run: Run) -> tuple[float, int, int, str]:
    """By k and seeds, so that a bootstrap draws the same whatever the runs are called."""
    return run.k, run.spec.get("position_seed") or 0, run.spec.get("train_seed") or 0, run.id


def measure(runs: list[Run], target: Target, value: float, metric: str, seed: int = 0, level: float = LEVEL) -> tuple[Crossing, list[Run]]:
    """The threshold that APET runs measure, and those of them with a finite gap, in the order of the answer's positions. ValueError, with
    the reason, where they say nothing."""
    from landscape.measurement import fit_crossing

    known = [run for run in sorted(runs, key=_order) if math.isfinite(target.gap(run, value, metric))]
    if not known:
        raise ValueError("no run has a gap to the target")
    return fit_crossing([run.k for run in known], [target.gap(run, value, metric) for run in known], seed=seed, level=level), known


def _group(store: Store, runs: list[Run], target: Target, seed: int, tuned: Tuned, diverged: int) -> list[Row]:
    what = [sorted(run.id for run in runs), runs[0].setting, target.as_dict(), seed, tuned, diverged, METHOD, VERSION]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    if store.done(name):
        return store.rows(name)
    spec = {"kind": "threshold", "target": target.as_dict(), "seed": seed, "runs": sorted(run.id for run in runs)}
    rows = _rows(store, runs, target, seed, tuned, diverged, name)
    with suppress(Held), store.claim(name):  # whoever holds it commits the same
        store.commit(name, spec, rows, {}, {})
    return rows


def _rows(store: Store, runs: list[Run], target: Target, seed: int, tuned: Tuned, diverged: int, name: str) -> list[Row]:
    full = [run for run in runs if run.tuned_by("full")] or runs
    subspace, placement = tuned
    sample = full[0].rows[0]
    metric = metric_names(TASKS[sample.task])[0] if sample.task in TASKS else "accuracy"
    value = target.value(full, metric)

    def row(quantity: str, number: float | None, **columns) -> Row:
        return Row(
            sample.model, sample.parameters, sample.task, quantity, _number(number), name, "threshold", sample.protocol,
            **{
                "split": "train" if target.on_loss else "validation", "method": "apet", "subspace": subspace, "placement": placement,
                "target": value, "weights": sample.weights, "data": sample.data, **columns,
            },
        )  # fmt: skip

    definition, share = target.definition(full[0].spec["examples"]), target.share(full, metric)
    if share is not None and target.kind != "fraction":
        definition += f" ({100 * share:.3g} % of the improvement over the untuned model)"
    rows = [row("target_loss" if target.on_loss else "target_metric", value, note=definition)]
    if share is not None:
        rows.append(row("target_share", share, note="of full fine-tuning's improvement over the untuned model"))
    measured = [run for run in runs if run.tuned_by("apet")]
    settled = target.settled(full, metric)
    if settled:
        rows += [row(target.quantity, None, **settled.columns), row("runs", len(measured))]
    elif measured or diverged:
        rows += _measured(measured, target, value, metric, seed, definition, row)
    if diverged:
        rows.append(row("runs_diverged", diverged, note="training runs that diverged, left out"))
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
    how = "bootstrap interval over runs" if crossing.method == "line" else "interval from which runs reached it alone (probit)"
    told = {"status": crossing.censored} if crossing.censored else {"note": f"{definition}; {100 * crossing.level:g} % {how}"}
    rows += [
        row(target.quantity, crossing.k_star, low=_number(crossing.low), high=_number(crossing.high), **told),
        row("runs", len(counted)),
    ]
    if crossing.slope is not None:
        rows.append(row("slope", crossing.slope, stderr=_number(crossing.slope_stderr), series=crossing.method))
    state = {**dict.fromkeys(crossing.used, statuses.USED), **dict.fromkeys(crossing.lapses, statuses.FAILED_TRAINING)}
    gaps = [(run, target.gap(run, value, metric), state.get(i, statuses.FAR)) for i, run in enumerate(counted)]
    return rows + [
        row("gap", gap, x=run.k, position_seed=run.spec.get("position_seed"), train_seed=run.spec.get("train_seed"), status=status)
        for run, gap, status in gaps
    ]


def _open_end(found: Crossing, ks: list[int], target: Target, row) -> list[Row]:
    """Say why an end of the interval is not known, and how many more runs (value) at which k (low to high) would close it."""
    from landscape.measurement import runs_needed

    needed = runs_needed(found, ks)
    if needed is None:
        return []
    ends = " or ".join(name for name, end in (("lower", found.low), ("upper", found.high)) if end is None)
    why = "it lies beyond the runs" if found.method == "probit" else (
        f"the slope of the line, {found.slope:.2g} ± {found.slope_stderr:.2g}, is not told from zero"
    )  # fmt: skip
    note = f"no {ends} end: {why}; about {needed.runs} more runs at k from {needed.low:.3g} to {needed.high:.3g} would close it"
    return [row(target.quantity + quantities.OPEN, needed.runs, low=needed.low, high=needed.high, note=note)]


def _mapped(full: list[Run], apet: list[Run], target: Target, value: float, metric: str, seed: int, row) -> list[Row]:
    """The training loss at which full fine-tuning crosses the metric target, and whether APET runs cross it there."""
    from landscape.measurement import fit_crossing

    of_full = points(full, target, value, metric, untuned=True)
    if len(of_full) < FEWEST:
        return []
    try:
        found = fit_crossing(np.exp(of_full[:, 0]), of_full[:, 1], seed=seed)  # in 1 / loss, which rises with the metric
    except ValueError as reason:
        return [row("mapped_loss", None, split="train", **NoValue(statuses.UNDECIDED, str(reason)).columns)]
    loss, low, high = (None if each is None else 1 / each for each in (found.k_star, found.high, found.low))
    told = {"note": f"training loss at which full fine-tuning crosses the target, from {len(of_full)} of its states"}
    if found.censored:
        told = {"status": statuses.BELOW if found.censored == statuses.ABOVE else statuses.ABOVE}
    rows = [row("mapped_loss", loss, split="train", low=_number(low), high=_number(high), **told)]
    test = shared(of_full, points(apet, target, value, metric))
    if test is None:
        few = NoValue(statuses.UNDECIDED, "too few APET runs at the training losses of full fine-tuning")
        return rows + [row("map_offset", None, **few.columns)]
    note = f"APET's {metric} over full fine-tuning's at equal training loss, in logits: t = {test.t:.3g}, {test.freedom} degrees of freedom"
    offset = row("map_offset", test.offset, stderr=test.stderr, dof=test.freedom, p=test.p, note=note)
    return rows + [offset, row("map_p", test.p, dof=test.freedom, note="two-sided")]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
