"""Rows of the predicted thresholds, from the arrays of a predict run. No training and no model is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.runs import HALF, LINEAR
from analyses.store import NoValue, Row, Store, quantities, statuses
from analyses.thresholds.proximal_record import Followed
from analyses.thresholds.targets import Run

VERSION = 7  # version of these rows; increased if the same arrays give other rows
BRACKET = "bounds: Gordon's and m1, for uniformly random subspaces; not a bracket for single entries"
LOWEST = 0.02  # share of the initial loss at which the drawn path ends
Maker = Callable[..., Row]
Dual = tuple[np.ndarray, np.ndarray, np.ndarray]  # gram, logits, labels


def foresees(run: Run) -> bool:
    """Return whether a run predicts a threshold, and not the loss of one placement."""
    return run.spec["kind"] == "predict" and run.spec["k"] is None and run.spec["matched"] is None


def fullest(runs: list[Run]) -> Run:
    """Return a predict run with the model's own path if there is one, because it holds everything that the other runs hold."""
    return max(runs, key=lambda run: run.spec.get("path", False))


def predicted_rows(store: Store, run: Run, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """Return the rows that the predict run `run` gives for the absolute training loss `target`. `row` makes a row of this threshold."""
    from threadpoolctl import threadpool_limits

    arrays = store.arrays(run.id)
    if "gram" in arrays:
        dual = (arrays["gram"], arrays["logits"], arrays["labels"])
        with threadpool_limits(1):  # there are thousands of small systems, which several threads slow down
            rows = [*_quadratic_rows(dual, target, seed, definition, row), *_path_rows(dual, target, seed, definition, row)]
    else:
        rows = _sampled_rows(arrays, target, definition, row)
    ceiling = next(line.value for line in rows if line.quantity == "rank_ceiling")
    for prefix, names in ((LINEAR, "k_"), ("", "k_path_")):
        path = Followed.of(arrays, prefix)
        if path is not None:
            rows += _followed_rows(path, names, target, ceiling, definition, row)
    return rows + _between(rows, row)


def _quadratic_rows(dual: Dual, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """Return T3 at the initial point with its interval, Larsen's threshold, and T1's curve."""
    from landscape.prediction import expected_loss, larsen_threshold, predict_with_interval
    from landscape.spectra import gradient_spectrum

    predicted = predict_with_interval(*dual, target, seed=seed)
    columns = _reason_or_note(predicted.prediction, definition)
    k, low, high = (None, None, None) if predicted.prediction.censored else (predicted.prediction.k, predicted.low, predicted.high)
    spectrum = gradient_spectrum(*dual)
    curve = np.geomspace(1, spectrum.rank_ceiling, 40)
    return [
        row(quantities.K_PRED, k, low=number(low), high=number(high), **columns),
        *_open_end(quantities.K_PRED, k, low, high, row),
        *([] if k is not None else _over_rank(quantities.K_PRED, predicted.prediction.k, row)),
        row(quantities.K_PRED + quantities.OF_HALF, predicted.k_half, note="from half of the examples"),
        row("rank_ceiling", spectrum.rank_ceiling),
        row(quantities.K_LARSEN, larsen_threshold(spectrum, target), note="N_eff(2 eps / R^2), for comparison"),
        *[row("predicted_loss", expected_loss(spectrum, float(x)), x=float(x)) for x in curve],
    ]


def _path_rows(dual: Dual, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """Return k on the Moreau path of the linearised model with its bracket, and the curve of the envelope against k."""
    from landscape.prediction import gordon_threshold, moreau_path, predict_on_path_with_interval
    from landscape.spectra import gradient_spectrum

    predicted, interval = predict_on_path_with_interval(*dual, target, seed=seed)
    columns, point = _reason_or_note(predicted, definition), predicted.point
    shown = None if predicted.censored else point
    low, high = (interval.low, interval.high) if shown else (None, None)
    rows = [row(quantities.K_GM, shown and shown.gm, low=number(low), high=number(high), **columns)]
    rows += _open_end(quantities.K_GM, shown and shown.gm, low, high, row)
    rows += [row(f"k_{name}", shown and getattr(shown, name), **columns) for name in ("m0", "m1")]
    rows.append(row(quantities.K_GM + quantities.OF_HALF, interval.k_half, note="from half of the examples"))
    if point is not None:
        bound = gordon_threshold(*dual, target, seed=seed)
        assert bound is not None
        over = "" if shown else quantities.OVER_RANK
        if not shown:
            rows += [line for name in ("gm", "m0", "m1") for line in _over_rank(f"k_{name}", getattr(point, name), row)]
        rows += [
            row(quantities.K_GORDON + over, bound.value, stderr=bound.stderr),
            row(quantities.K_BRACKET + over, point.gm, low=min(bound.value, point.m1), high=max(bound.value, point.m1), note=BRACKET),
        ]
    for point in moreau_path(*dual, LOWEST * gradient_spectrum(*dual).loss):
        rows += [row("path_envelope", point.envelope, x=getattr(point, name), series=name) for name in ("m0", "m1", "gm")]
    return rows


def _followed_rows(path: Followed, names: str, target: float, ceiling: float, definition: str, row: Maker) -> list[Row]:
    """Return k on a recorded path, interpolated between the two points whose envelopes enclose the target."""
    from landscape.prediction import CEILING_SHARE

    kinds, curve = ("gm", "m0", "m1", *(["t5"] if path.t5 is not None else [])), list[Row]()
    if names == "k_":
        curve = _curve(path, row)
    place = path.where(target)
    if isinstance(place, NoValue):
        return [*(row(names + kind, None, **place.columns) for kind in kinds), *curve]

    def interpolated(one: float, other: float) -> float:
        return (1 - place.share) * math.log(one) + place.share * math.log(other)

    by_probe = np.stack([path.n_eff(point, place.kappa) for point in (0, place.before, place.after)])  # (3, probes)

    def logs(of_probes: np.ndarray) -> np.ndarray:
        m0, one, other = of_probes.mean(axis=1)
        m0, m1 = math.log(m0), interpolated(one, other)
        return np.array([(m0 + m1) / 2, m0, m1])

    errors = _log_errors(logs, by_probe, path.probes)
    predictions = {kind: (math.exp(log), error) for kind, log, error in zip(("gm", "m0", "m1"), logs(by_probe), errors, strict=True)}
    if path.t5 is not None:
        predictions["t5"] = (place.part * math.exp(interpolated(*path.t5[[place.before, place.after]])), 0.0)
    residuals = (f"{path.residual[point]:.2g}" for point in (place.before, place.after))
    note = f"{definition}; kappa {place.kappa:.3g}, residuals of the enclosing points {' and '.join(residuals)}"
    rows: list[Row] = []
    for kind, (k, error) in predictions.items():
        if k > CEILING_SHARE * ceiling:
            reason = f"k = {k:.4g} > {CEILING_SHARE} x rank ceiling {ceiling:.0f}: more examples are needed"
            rows += [row(names + kind, None, **NoValue(statuses.ABOVE, reason).columns), *_over_rank(names + kind, k, row)]
        else:
            low, high = _ends(k, error, path.probes)
            rows.append(row(names + kind, k, stderr=k * error, low=low, high=high, note=note))
    return rows + curve


def _log_errors(logs: Callable[[np.ndarray], np.ndarray], by_probe: np.ndarray, probes: int) -> list[float]:
    """Return the jackknife standard errors of the three numbers logs(by_probe), leaving out each probe from all three at once."""
    from landscape.numerics import leave_one_out_stderr

    if probes < 2:
        return [math.nan if probes else 0.0] * 3
    without_one = np.array([logs(np.delete(by_probe, i, axis=1)) for i in range(probes)])
    return [leave_one_out_stderr(estimates) for estimates in without_one.T]


def _ends(k: float, error: float, probes: int) -> tuple[float, float]:
    """Return the 95 % t-interval of k from the standard error of log k over `probes` probes; NaN for fewer than 2 probes."""
    from landscape.numerics import t_quantile

    if probes < 2:
        return math.nan, math.nan
    factor = math.exp(min(t_quantile(probes - 1) * error, 700.0))
    return k / factor, k * factor


def _open_end(name: str, k: float | None, low: float | None, high: float | None, row: Maker) -> list[Row]:
    """Return a row with the reason if the interval over examples of a prediction is open, else an empty list."""
    if k is None or (low is not None and high is not None):
        return []
    reason = "without some of the examples the linearised model does not reach the target"
    missing = "no interval" if low is None else "no upper end"
    return [row(name + quantities.OPEN, None, note=f"{missing}: {reason}; more examples would close it")]


def _curve(path: Followed, row: Maker) -> list[Row]:
    """Return the envelope at every point of the path against the point's k, for m0, m1 and gm."""
    rows: list[Row] = []
    for point in range(1, len(path.kappa)):
        m0, m1 = (float(path.n_eff(at, path.kappa[point]).mean()) for at in (0, point))
        ks = {"m0": m0, "m1": m1, "gm": math.sqrt(m0 * m1)}
        rows += [row("path_envelope", path.envelope[point], x=k, series=kind) for kind, k in ks.items()]
    return rows


def _between(rows: list[Row], row: Maker) -> list[Row]:
    """Return the bracket from both paths, from gm on the model's own path to m0 on the linearised model's path.

    The model itself needs fewer parameters than its linearisation, and in its whole space fewer than in a random subspace.
    """
    values = {line.quantity.removesuffix(quantities.OVER_RANK): line.value for line in rows if math.isfinite(line.value)}
    if not {quantities.K_PATH_GM, quantities.K_M0} <= values.keys():
        return []
    low, high = sorted((values[quantities.K_PATH_GM], values[quantities.K_M0]))
    note = "bounds: gm on the model's own path and m0 on the linearised model's path"
    return [row(quantities.K_BRACKET_PATH, values.get(quantities.K_M1), low=low, high=high, note=note)]


def _over_rank(name: str, value: float | None, row: Maker) -> list[Row]:
    """Return the row of a censored prediction that depends on the number of examples more than on the model, under a separate quantity."""
    if value is None or not math.isfinite(value):
        return []
    return [row(name + quantities.OVER_RANK, value, note="above the share of the rank up to which a prediction depends on the model")]


def _sampled_rows(arrays: dict[str, np.ndarray], target: float, definition: str, row: Maker) -> list[Row]:
    """Return T3 by Lanczos. The interval covers the spread over probes and the quadrature error, not the choice of examples."""
    predicted = sampled_prediction(arrays, "", target)
    k, low, high, stderr = None, math.nan, math.nan, math.nan
    if not predicted.prediction.censored and predicted.dimension is not None:
        k, stderr, (low, high) = predicted.prediction.k, predicted.dimension.stderr, predicted.dimension.interval()
    # The half's target is the same share of the half's initial loss.
    loss, half_loss = float(arrays["loss"][0]), float(arrays.get(HALF + "loss", arrays["loss"])[0])
    half = sampled_prediction(arrays, HALF, target / loss * half_loss).prediction if HALF + "loss" in arrays else None
    columns = _reason_or_note(predicted.prediction, f"{definition}; by Lanczos, with an interval over probes")
    return [
        row(quantities.K_PRED, k, stderr=stderr, low=low, high=high, **columns),
        row(quantities.K_PRED + quantities.OF_HALF, half.k if half else None, note="from half of the examples"),
        row("rank_ceiling", predicted.prediction.rank_ceiling),
    ]


def sampled_prediction(arrays: dict[str, np.ndarray], prefix: str, target: float) -> Any:
    """Return the `landscape.SampledPrediction` of a run by Lanczos; `prefix` selects the arrays of all or half of the examples."""
    from landscape.prediction import predict_from_measures

    along, counting, loss, ceiling = measures(arrays, prefix)
    return predict_from_measures(along, counting, loss, target, ceiling)


def measures(arrays: dict[str, np.ndarray], prefix: str = "") -> tuple[Any, Any, float, int]:
    """Return (spectral measure of the gradient, spectral measure of the eigenvalues, initial loss, rank ceiling) of a run by Lanczos."""
    from landscape.spectra import SpectralMeasure

    ceiling, nodes, weights = int(arrays[prefix + "ceiling"][0]), arrays[prefix + "along"][:1], arrays[prefix + "along"][1:]
    size = round(float(arrays[prefix + "weights"][0].sum()))
    radau = SpectralMeasure(arrays[prefix + "radau_nodes"], arrays[prefix + "radau_weights"], size)
    counting = SpectralMeasure(arrays[prefix + "nodes"], arrays[prefix + "weights"], size, radau=radau)
    return SpectralMeasure(nodes, weights, size), counting, float(arrays[prefix + "loss"][0]), ceiling


def _reason_or_note(prediction: Any, definition: str) -> dict[str, str]:
    """Return status and reason of a censored prediction as columns of a row; otherwise the definition of the target as its note."""
    return NoValue(prediction.censored, prediction.reason).columns if prediction.censored else {"note": definition}


def number(value: float | None) -> float:
    """Return `value` as a float, NaN for None."""
    return math.nan if value is None else float(value)
