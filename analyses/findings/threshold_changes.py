"""The causes of a change of k* between two models of a family: a split of the predicted change, the measured change, and a verdict.

The prediction is m1: T3 on the quadratic tangent to the linearised model's loss at its proximal point. For predictions by Lanczos it is
interpolated between the two nearest points of the recorded path. Intervals are Student's t, with jackknife standard errors
(`landscape.numerics.standard_errors`) over the examples that both models share, or over probes for predictions by Lanczos. Each subspace in
which k* was measured is compared separately. The prediction applies to random subspaces; for single entries it accounts only for the share
of active entries.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from analyses.findings.families import family
from analyses.runs import LINEAR
from analyses.store import Row, Store, statuses
from analyses.thresholds import Followed, Place, Run, Target, foresees, fullest

EXPLAINED_ROWS = "explain.parquet"  # file in the folder of results
RESAMPLES = 40


@dataclass(frozen=True)
class Side:
    """One model of a comparison."""

    run: Run
    arrays: dict[str, np.ndarray]
    target: float  # absolute loss
    subspace: str | None  # the subspace in which k* was measured
    placement: str | None
    measured: Row | None

    @property
    def row(self) -> Row:
        """The first row of the run, which identifies the model and its setting."""
        return self.run.rows[0]

    def factors(self, chosen: np.ndarray | None) -> Any:
        """Return the `landscape.ThresholdFactors` for random directions, or None without a predicted threshold.

        `chosen` are the examples (or probes) to compute the factors from; None stands for all.
        """
        return self._by_gram(chosen) if "gram" in self.arrays else self._sampled(chosen)

    def tuned(self, factors: Any) -> Any:
        """Return `factors` with the share of active entries in the side's subspace; None if the factors or the share are unknown."""
        return None if factors is None or math.isnan(self.live) else replace(factors, live=self.live)

    @property
    def live(self) -> float:
        """Share of active entries: 1 for random directions, NaN for single entries if the run did not record it."""
        if self.subspace not in (None, "coordinates"):
            return 1.0
        return next((row.value for row in self.run.rows if row.quantity == "live_fraction"), math.nan)

    def _by_gram(self, chosen: np.ndarray | None) -> Any:
        from landscape.prediction import predict_on_path, threshold_factors
        from landscape.spectra import gradient_spectrum, subset_of_examples

        dual = (self.arrays["gram"], self.arrays["logits"], self.arrays["labels"])
        target = self.target
        if chosen is not None:  # the target is the same share of the initial loss on the chosen examples
            part = subset_of_examples(*dual, chosen)
            target, dual = target / gradient_spectrum(*dual).loss * gradient_spectrum(*part).loss, part
        point = predict_on_path(*dual, target).point
        return point and threshold_factors(point.quadratic, target)

    def _sampled(self, chosen: np.ndarray | None) -> Any:
        """Return the factors of a mixture of the two points that enclose the target, weighted by its position between them.

        At the target's ridge the mixture has the k of m1.
        """
        from landscape.prediction import threshold_factors_at

        path = Followed.of(self.arrays, LINEAR)
        place = path and path.where(self.target)
        if path is None or not isinstance(place, Place):
            return None
        probes = slice(None) if chosen is None else chosen
        nodes, counts, lam, squares = (list[np.ndarray]() for _ in range(4))
        for point, share in ((place.before, 1 - place.share), (place.after, place.share)):
            if share > 0:
                weights, touching = path.weights[point][probes], path.touching(point, 1)
                nodes.append(path.nodes[point][probes].ravel())
                counts.append((share * weights / len(weights)).ravel())
                positive = touching.eigenvalues > 0
                a = touching.projections[positive] / touching.eigenvalues[positive]
                lam.append(touching.eigenvalues[positive])
                squares.append(share * a / a.sum())
        counting = _descending(np.concatenate(nodes), np.concatenate(counts))
        return threshold_factors_at(place.kappa, _descending(np.concatenate(lam), np.concatenate(squares)), counting)

    @property
    def units(self) -> tuple[str, int]:
        """The resampled units ("examples" or "probes") and their number."""
        if "gram" in self.arrays:
            return "examples", len(self.arrays["labels"])
        return "probes", len(self.arrays["nodes"])


def _descending(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values and weights sorted by value, largest first, without values or weights that are not positive."""
    order = np.argsort(-values, kind="stable")
    order = order[(values[order] > 0) & (weights[order] > 0)]
    return values[order], weights[order]


def explain(
    store: Store, runs: list[Run], target: Target, threshold_rows: list[Row], seed: int = 0
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return rows and a summary for every neighbouring pair of sizes within a family, and for the smallest against the largest size.

    `threshold_rows` are the rows of `analyses.thresholds.thresholds` for this target. Only models with a predict run and a full fine-tuning
    run are compared.
    """
    from threadpoolctl import threadpool_limits

    groups: dict[tuple, list[Side]] = defaultdict(list)
    for side in _sides(store, runs, target, threshold_rows):
        row = side.row
        key = (family(row.model), row.task, row.protocol, side.run.spec["scope"], side.subspace, side.placement, side.units[0])
        groups[key].append(side)
    rows: list[Row] = []
    summaries: list[dict[str, Any]] = []
    resampled: dict[str, list[Any]] = {}  # by run id, shared by all subspaces
    with threadpool_limits(1):  # there are thousands of small systems, which several threads slow down
        for sides in groups.values():
            ordered = sorted(sides, key=lambda side: (side.row.parameters, side.row.model))
            pairs = list(pairwise(ordered)) + ([(ordered[0], ordered[-1])] if len(ordered) > 2 else [])
            resampled |= {side.run.id: _resamples(side, seed) for side in ordered if pairs and side.run.id not in resampled}
            for small, large in pairs:
                pair_rows, summary = _compare(small, large, resampled)
                rows += pair_rows
                summaries.append(summary)
    return rows, summaries


def _sides(store: Store, runs: list[Run], target: Target, threshold_rows: list[Row]) -> list[Side]:
    """Return the sides of all models with a predict run and full fine-tuning.

    A model has one side per predicted scope and per subspace and placement in which k* was measured for any model.
    """
    if not target.on_loss:
        return []
    measured = {_threshold_key(row): row for row in threshold_rows if row.quantity == target.quantity and math.isnan(row.x)}
    tuned = sorted({(row.subspace, row.placement) for row in measured.values()}, key=lambda key: tuple(map(str, key))) or [(None, None)]
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if foresees(run) or target.measures(run):
            groups[run.setting].append(run)
    sides = []
    for members in groups.values():
        full, by_scope = [run for run in members if not foresees(run)], defaultdict[str, list[Run]](list)
        for run in filter(foresees, members):
            by_scope[run.spec["scope"]].append(run)
        for run in map(fullest, by_scope.values()) if full else ():
            row, arrays, value = run.rows[0], store.arrays(run.id), target.value(full, "")
            sides += [Side(run, arrays, value, *space, measured.get((row.model, row.task, row.protocol, *space))) for space in tuned]
    return sides


def _threshold_key(row: Row) -> tuple:
    """Return the model and setting of a threshold's row."""
    return row.model, row.task, row.protocol, row.subspace, row.placement


def _compare(small: Side, large: Side, resampled: dict[str, list[Any]]) -> tuple[list[Row], dict[str, Any]]:
    from landscape.prediction import attribute_change

    one, other = small.tuned(small.factors(None)), large.tuned(large.factors(None))
    change = _measured_change(small, large)
    common: dict[str, Any] = {
        "run_id": f"{small.run.id}-{large.run.id}", "split": "train", "x": float(small.row.parameters), "subspace": small.subspace,
        "placement": small.placement, "protocol": large.row.protocol, "other_model": small.row.model,
    }  # fmt: skip

    def row(quantity: str, value: float, **columns: Any) -> Row:
        return Row(large.row.model, large.row.parameters, large.row.task, quantity, value, **common, **columns)

    rows: list[Row] = []
    summary: dict[str, Any] = {
        "task": large.row.task, "subspace": small.subspace or "coordinates", "small": small.row.model, "large": large.row.model,
    }  # fmt: skip
    predicted: tuple[float, float, float] | None = None
    bys: tuple[Any, ...] = ("rank", "eigenvalue")
    for by in bys:
        split = None if one is None or other is None else attribute_change(one, other, by)
        if split is None:
            continue
        errors, reach = _errors(small, large, by, resampled)
        values = {"total": split.total, **split.parts}
        for name, value in values.items():
            error = errors.get(name, math.nan)
            low, high = value - reach * error, value + reach * error
            rows.append(row(f"explained_{name}", value, series=by, stderr=error, low=low, high=high))
            summary[f"{name}_by_{by}"] = [value, *(None if math.isnan(end) else end for end in (low, high))]
            if name == "total" and by == "rank":
                predicted = (value, low, high)
    if change is not None:
        rows.append(row("measured_change", change[0], low=change[1], high=change[2]))
        summary["measured"] = [None if math.isnan(end) else end for end in change]
    verdict, reason = _verdict(predicted, change)
    value = {statuses.EXPLAINED: 1.0, statuses.NOT_EXPLAINED: 0.0}.get(verdict, math.nan)
    rows.append(row("explain_verdict", value, status=verdict, note=reason))
    return rows, summary | {"verdict": verdict, "why": reason}


def _resamples(side: Side, seed: int) -> list[Any]:
    """Return the run's factors for resamples without an eighth of the examples (or without one probe); None for one without a threshold.

    The seed names the draws, so sides with equal numbers of examples leave out the same examples.
    """
    from landscape.numerics import Stream

    unit, count = side.units
    if count < 3:
        return []
    orders = [Stream(seed, f"explain/{i}").permutation(count) if unit == "examples" else np.roll(np.arange(count), i)
              for i in range(RESAMPLES if unit == "examples" else count)]  # fmt: skip
    return [side.factors(order[: count - _left_out(unit, count)]) for order in orders]


def _left_out(unit: str, count: int) -> int:
    """Return the number of units that a resample leaves out."""
    return max(count // 8, 1) if unit == "examples" else 1


def _errors(small: Side, large: Side, by: Any, resampled: dict[str, list[Any]]) -> tuple[dict[str, float], float]:
    """Return (jackknife standard errors by part, half-width of a 95 % interval in standard errors).

    The jackknife is over the examples or probes that both models share. The errors are {} if the models share no units, or if a resample
    has no threshold.
    """
    from landscape.numerics import degrees_of_freedom, leave_out_stderr, t_quantile
    from landscape.prediction import attribute_change

    unit, count = small.units
    shared = unit == "probes" or np.array_equal(small.arrays["labels"], large.arrays["labels"])
    sides = [(small.tuned(one), large.tuned(other)) for one, other in zip(resampled[small.run.id], resampled[large.run.id], strict=False)]
    splits = [attribute_change(one, other, by) for one, other in sides if one is not None and other is not None]
    parts = [{"total": split.total, **split.parts} for split in splits if split is not None]
    if large.units != small.units or not shared or not parts or len(parts) < len(sides):
        return {}, math.nan
    reach = t_quantile(degrees_of_freedom(count, len(parts) if unit == "examples" else None))
    return {name: leave_out_stderr([part[name] for part in parts], count, _left_out(unit, count)) for name in parts[0]}, reach


def _measured_change(small: Side, large: Side) -> tuple[float, float, float] | None:
    """Return log k*(small) - log k*(large) and its interval (NaN for an unknown end); None unless both are measured."""
    one, other = small.measured, large.measured
    if one is None or other is None or not (math.isfinite(one.value) and math.isfinite(other.value)):
        return None
    value = math.log(one.value / other.value)
    below = math.hypot(math.log(one.value / one.low), math.log(other.high / other.value)) if one.low > 0 and other.high > 0 else math.nan
    above = math.hypot(math.log(one.high / one.value), math.log(other.value / other.low)) if one.high > 0 and other.low > 0 else math.nan
    return value, value - below, value + above


def _verdict(predicted: tuple[float, float, float] | None, change: tuple[float, float, float] | None) -> tuple[str, str]:
    """Return (verdict, reason) for the predicted and the measured change, each (value, low, high).

    A change is explained if the signs agree and both intervals are known and overlap. A change with a missing number is undecided.
    """
    if predicted is None:
        return statuses.UNDECIDED, "no threshold is predicted at this target for one of the models, or for a mixture of their factors"
    if change is None:
        return statuses.UNDECIDED, "one of the thresholds is censored or not measured"
    changes = f"the predicted fall {predicted[0]:+.2f} and the measured fall {change[0]:+.2f} of log k*"
    if predicted[0] * change[0] < 0:
        unsure = "" if _excludes_zero(predicted) else " (the predicted fall does not differ significantly from zero)"
        return statuses.NOT_EXPLAINED, f"{changes} have different signs{unsure}"
    if any(math.isnan(end) for end in (*predicted, *change)):
        return statuses.UNDECIDED, "an interval is unknown"
    if predicted[1] > change[2] or change[1] > predicted[2]:
        return statuses.NOT_EXPLAINED, f"{changes} have disjoint intervals"
    unsure = "" if _excludes_zero(change) else "; the measured fall does not differ significantly from zero"
    return statuses.EXPLAINED, f"{changes} agree within their intervals{unsure}"


def _excludes_zero(estimate: tuple[float, float, float]) -> bool:
    """Return whether the interval of (value, low, high) lies on one side of zero."""
    return estimate[1] > 0 or estimate[2] < 0
