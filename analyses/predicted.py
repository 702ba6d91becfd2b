"""From the arrays of a predict run to the rows of k_pred and what it rests on. No training, and no model, is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.predicting import HALF
from analyses.store import Row, Store
from analyses.targets import Run

VERSION = 2  # of these rows: raised when the same arrays give others
BRACKET = "from Gordon's bound to m1, for uniformly random subspaces; for coordinates it is no bracket"
LOWEST = 0.02  # of the initial loss, down to which the path is drawn
Maker = Callable[..., Row]
Dual = tuple[np.ndarray, np.ndarray, np.ndarray]  # gram, logits, labels


def foresees(run: Run) -> bool:
    """Whether a run predicts a threshold, rather than the loss of one placement."""
    return run.spec["kind"] == "predict" and run.spec["k"] is None and run.spec["matched"] is None


def predicted_rows(store: Store, run: Run, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """Rows of what the predict run `run` foresees for the absolute training loss `target`; `row` fills in what identifies them."""
    arrays = store.arrays(run.id)
    if "gram" not in arrays:
        return _sampled_rows(arrays, target, definition, row)
    dual = (arrays["gram"], arrays["logits"], arrays["labels"])
    return [*_quadratic_rows(dual, target, seed, definition, row), *_path_rows(dual, target, seed, definition, row)]


def _quadratic_rows(dual: Dual, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """T3 at the pretrained point with its interval, Larsen's number beside it, T1's curve."""
    from landscape.dual import gradient_spectrum
    from landscape.predict import expected_loss, larsen_threshold, predict_with_interval

    found = predict_with_interval(*dual, target, seed=seed)
    note = _note(found.prediction, definition)
    k, low, high = (None, None, None) if found.prediction.censored else (found.prediction.k, found.low, found.high)
    spectrum = gradient_spectrum(*dual)
    curve = np.geomspace(1, spectrum.rank_ceiling, 40)
    return [
        row("k_pred", k, low=number(low), high=number(high), note=note),
        row("k_pred_half", found.k_half, note="from half of the examples"),
        row("rank_ceiling", spectrum.rank_ceiling),
        row("k_larsen", larsen_threshold(spectrum, target), note="N_eff(2 eps / R^2), for comparison"),
        *[row("predicted_loss", expected_loss(spectrum, float(x)), x=float(x)) for x in curve],
    ]


def _path_rows(dual: Dual, target: float, seed: int, definition: str, row: Maker) -> list[Row]:
    """k along the Moreau path of the linearised model, its bracket, and loss against k."""
    from landscape.dual import gradient_spectrum
    from landscape.gordon import gordon_threshold
    from landscape.moreau import moreau_path, predict_on_path_with_interval

    found, interval = predict_on_path_with_interval(*dual, target, seed=seed)
    note, point = _note(found, definition), found.point
    shown = None if found.censored or point is None else point
    low, high = (interval.low, interval.high) if shown else (None, None)
    rows = [
        row("k_gm", shown and shown.gm, low=number(low), high=number(high), note=note),
        row("k_m0", shown and shown.m0, note=note),
        row("k_m1", shown and shown.m1, note=note),
        row("k_gm_half", interval.k_half, note="from half of the examples"),
    ]
    if shown:
        bound = gordon_threshold(*dual, target, seed=seed)
        assert bound is not None
        rows += [
            row("k_gordon", bound.value, stderr=bound.stderr),
            row("k_bracket", shown.gm, low=min(bound.value, shown.m1), high=max(bound.value, shown.m1), note=BRACKET),
        ]
    for point in moreau_path(*dual, LOWEST * gradient_spectrum(*dual).loss):
        rows += [row("path_loss", point.envelope, x=getattr(point, name), note=name) for name in ("m0", "m1", "gm")]
    return rows


def _sampled_rows(arrays: dict[str, np.ndarray], target: float, definition: str, row: Maker) -> list[Row]:
    """T3 by Lanczos: the interval is over probes and what quadrature leaves open, not over examples."""
    found = sampled_prediction(arrays, "", target)
    k, low, high, stderr = None, math.nan, math.nan, math.nan
    if not found.prediction.censored and found.dimension is not None:
        k, stderr, (low, high) = found.prediction.k, found.dimension.stderr, found.dimension.interval()
    # The same share of the loss of the half's own.
    loss, half_loss = float(arrays["loss"][0]), float(arrays.get(HALF + "loss", arrays["loss"])[0])
    half = sampled_prediction(arrays, HALF, target / loss * half_loss).prediction if HALF + "loss" in arrays else None
    note = _note(found.prediction, f"{definition}; by Lanczos, the interval over probes")
    return [
        row("k_pred", k, stderr=stderr, low=low, high=high, note=note),
        row("k_pred_half", half.k if half else None, note="from half of the examples"),
        row("rank_ceiling", found.prediction.rank_ceiling),
    ]


def sampled_prediction(arrays: dict[str, np.ndarray], prefix: str, target: float) -> Any:
    """landscape.SampledPrediction from the arrays of a run by Lanczos; `prefix` names those of all or half of the examples."""
    from landscape.sampled import predict_from_measures

    along, counting, loss, ceiling = measures(arrays, prefix)
    return predict_from_measures(along, counting, loss, target, ceiling)


def measures(arrays: dict[str, np.ndarray], prefix: str = "") -> tuple[Any, Any, float, int]:
    """(the gradient's measure, that of the eigenvalues, initial loss, rank ceiling)."""
    from landscape.quadrature import SpectralMeasure

    ceiling, nodes, weights = int(arrays[prefix + "ceiling"][0]), arrays[prefix + "along"][:1], arrays[prefix + "along"][1:]
    size = round(float(arrays[prefix + "weights"][0].sum()))
    radau = SpectralMeasure(arrays[prefix + "radau_nodes"], arrays[prefix + "radau_weights"], size)
    counting = SpectralMeasure(arrays[prefix + "nodes"], arrays[prefix + "weights"], size, radau=radau)
    return SpectralMeasure(nodes, weights, size), counting, float(arrays[prefix + "loss"][0]), ceiling


def _note(found: Any, definition: str) -> str:
    return f"censored: {found.censored} ({found.reason})" if found.censored else definition


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)
