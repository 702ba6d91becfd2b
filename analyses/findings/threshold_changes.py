"""Why k* changes between two models of a family: the split of the predicted change, beside the measured one, and a verdict in words.

The prediction is m1: T3 on the quadratic that touches the linearised model's loss at its proximal point (by Lanczos between the two
nearest points of the path that was followed). Intervals are Student's, from the jackknife (landscape.numerics.standard_errors) over the
examples that both models share, or over the probes where predictions are by Lanczos. Each subspace in which k* was measured is compared
apart; the prediction is of random ones, and of single entries knows only how many are live.
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

EXPLAINED_ROWS = "explain.parquet"  # in the folder of results
RESAMPLES = 40


@dataclass(frozen=True)
class Side:
    """One model of a comparison."""

    run: Run
    arrays: dict[str, np.ndarray]
    target: float  # absolute loss
    subspace: str | None  # that k* was measured in
    placement: str | None
    measured: Row | None

    @property
    def row(self) -> Row:
        return self.run.rows[0]

    def factors(self, chosen: np.ndarray | None) -> Any:
        """landscape.ThresholdFactors from the examples (or probes) `chosen` (None: all), of random directions; None without a threshold."""
        return self._by_gram(chosen) if "gram" in self.arrays else self._sampled(chosen)

    def tuned(self, found: Any) -> Any:
        """These factors where the side's subspace is tuned; None where they are, or how many entries are live is not known."""
        return None if found is None or math.isnan(self.live) else replace(found, live=self.live)

    @property
    def live(self) -> float:
        """The share of entries that count where single ones are tuned, NaN of a run that did not look; random directions have all."""
        if self.subspace not in (None, "coordinates"):
            return 1.0
        return next((row.value for row in self.run.rows if row.quantity == "live_fraction"), math.nan)

    def _by_gram(self, chosen: np.ndarray | None) -> Any:
        from landscape.prediction import predict_on_path, threshold_factors
        from landscape.spectra import gradient_spectrum, subset_of_examples

        dual = (self.arrays["gram"], self.arrays["logits"], self.arrays["labels"])
        target = self.target
        if chosen is not None:  # the same share of the loss of these
            part = subset_of_examples(*dual, chosen)
            target, dual = target / gradient_spectrum(*dual).loss * gradient_spectrum(*part).loss, part
        point = predict_on_path(*dual, target).point
        return point and threshold_factors(point.quadratic, target)

    def _sampled(self, chosen: np.ndarray | None) -> Any:
        """Of both points that the target lies between, as much as its place says: their mixture has m1's k at the target's ridge."""
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
                there = touching.eigenvalues > 0
                a = touching.projections[there] / touching.eigenvalues[there]
                lam.append(touching.eigenvalues[there])
                squares.append(share * a / a.sum())
        counting = _descending(np.concatenate(nodes), np.concatenate(counts))
        return threshold_factors_at(place.kappa, _descending(np.concatenate(lam), np.concatenate(squares)), counting)

    @property
    def units(self) -> tuple[str, int]:
        """What intervals come from resampling, and how many there are."""
        if "gram" in self.arrays:
            return "examples", len(self.arrays["labels"])
        return "probes", len(self.arrays["nodes"])


def _descending(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by value, largest first, without what has none or no weight."""
    order = np.argsort(-values, kind="stable")
    order = order[(values[order] > 0) & (weights[order] > 0)]
    return values[order], weights[order]


def explain(store: Store, runs: list[Run], target: Target, found: list[Row], seed: int = 0) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows and a summary for every neighbouring pair of sizes within a family, and the smallest against the largest.

    `found` are the rows of `thresholds` for this target. Only models with a predict run and a full fine-tuning run take part.
    """
    from threadpoolctl import threadpool_limits

    groups: dict[tuple, list[Side]] = defaultdict(list)
    for side in _sides(store, runs, target, found):
        row = side.row
        key = (family(row.model), row.task, row.protocol, side.run.spec["scope"], side.subspace, side.placement, side.units[0])
        groups[key].append(side)
    rows: list[Row] = []
    summaries: list[dict[str, Any]] = []
    resampled: dict[str, list[Any]] = {}  # by run, for every subspace
    with threadpool_limits(1):  # thousands of small systems
        for sides in groups.values():
            ordered = sorted(sides, key=lambda side: (side.row.parameters, side.row.model))
            pairs = list(pairwise(ordered)) + ([(ordered[0], ordered[-1])] if len(ordered) > 2 else [])
            resampled |= {side.run.id: _resamples(side, seed) for side in ordered if pairs and side.run.id not in resampled}
            for small, large in pairs:
                own, summary = _compare(small, large, resampled)
                rows += own
                summaries.append(summary)
    return rows, summaries


def _sides(store: Store, runs: list[Run], target: Target, found: list[Row]) -> list[Side]:
    """For each model with a predict run and full fine-tuning one a scope and subspace that k* was measured in, of any model."""
    if not target.on_loss:
        return []
    measured = {_where(row): row for row in found if row.quantity == target.quantity and math.isnan(row.x)}
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
            sides += [Side(run, arrays, value, *each, measured.get((row.model, row.task, row.protocol, *each))) for each in tuned]
    return sides


def _where(row: Row) -> tuple:
    """The model and setting that a threshold is of."""
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
    verdict, why = _verdict(predicted, change)
    value = {statuses.EXPLAINED: 1.0, statuses.NOT_EXPLAINED: 0.0}.get(verdict, math.nan)
    rows.append(row("explain_verdict", value, status=verdict, note=why))
    return rows, summary | {"verdict": verdict, "why": why}


def _resamples(side: Side, seed: int) -> list[Any]:
    """The run's factors without an eighth of the examples (or without one probe), None where that leaves no threshold.

    Draws are named by the seed, so that sides of as many examples leave out the same ones.
    """
    from landscape.numerics import Stream

    what, count = side.units
    if count < 3:
        return []
    drawn = [Stream(seed, f"explain/{i}").permutation(count) if what == "examples" else np.roll(np.arange(count), i)
             for i in range(RESAMPLES if what == "examples" else count)]  # fmt: skip
    return [side.factors(each[: count - _left_out(what, count)]) for each in drawn]


def _left_out(what: str, count: int) -> int:
    return max(count // 8, 1) if what == "examples" else 1


def _errors(small: Side, large: Side, by: Any, resampled: dict[str, list[Any]]) -> tuple[dict[str, float], float]:
    """(standard errors by the jackknife over what both models share, how many of them an interval reaches); {} where they share nothing
    or a resample has no threshold."""
    from landscape.numerics import degrees_of_freedom, leave_out_stderr, t_quantile
    from landscape.prediction import attribute_change

    what, count = small.units
    shared = what == "probes" or np.array_equal(small.arrays["labels"], large.arrays["labels"])
    sides = [(small.tuned(one), large.tuned(other)) for one, other in zip(resampled[small.run.id], resampled[large.run.id], strict=False)]
    splits = [attribute_change(one, other, by) for one, other in sides if one is not None and other is not None]
    known = [{"total": split.total, **split.parts} for split in splits if split is not None]
    if large.units != small.units or not shared or not known or len(known) < len(sides):
        return {}, math.nan
    reach = t_quantile(degrees_of_freedom(count, len(known) if what == "examples" else None))
    return {name: leave_out_stderr([each[name] for each in known], count, _left_out(what, count)) for name in known[0]}, reach


def _measured_change(small: Side, large: Side) -> tuple[float, float, float] | None:
    """log k*(small) - log k*(large) with its interval (NaN where not known); None where either is not measured."""
    one, other = small.measured, large.measured
    if one is None or other is None or not (math.isfinite(one.value) and math.isfinite(other.value)):
        return None
    value = math.log(one.value / other.value)
    below = math.hypot(math.log(one.value / one.low), math.log(other.high / other.value)) if one.low > 0 and other.high > 0 else math.nan
    above = math.hypot(math.log(one.high / one.value), math.log(other.value / other.low)) if one.high > 0 and other.low > 0 else math.nan
    return value, value - below, value + above


def _verdict(predicted: tuple[float, float, float] | None, change: tuple[float, float, float] | None) -> tuple[str, str]:
    """Explained only where signs agree and both intervals are known and meet; undecided where something is missing."""
    if predicted is None:
        return statuses.UNDECIDED, "there is no predicted threshold at this target for one of the models, or a mixture of them"
    if change is None:
        return statuses.UNDECIDED, "one of the thresholds is not measured, or censored"
    if predicted[0] * change[0] < 0:
        open_ = "" if predicted[1] > 0 or predicted[2] < 0 else " (the predicted one is not told from none)"
        return statuses.NOT_EXPLAINED, f"predicted {predicted[0]:+.2f} and measured {change[0]:+.2f} of log k* have different signs{open_}"
    if any(math.isnan(end) for end in (*predicted, *change)):
        return statuses.UNDECIDED, "an interval is not known"
    if predicted[1] > change[2] or change[1] > predicted[2]:
        return (
            statuses.NOT_EXPLAINED,
            f"the intervals of the predicted change {predicted[0]:+.2f} and the measured {change[0]:+.2f} are disjoint",
        )
    return statuses.EXPLAINED, f"predicted {predicted[0]:+.2f} and measured {change[0]:+.2f} of log k* agree within their intervals"
