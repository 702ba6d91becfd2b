"""From the arrays of a predict run to the rows of k_pred and what it rests on. No training, and no model, is needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from analyses.store import Row, Store
from analyses.targets import Run


def predicted_rows(store: Store, run: Run, target: float, seed: int, definition: str, row: Callable[..., Row]) -> list[Row]:
    """Rows of what the predict run `run` foresees for the absolute training loss `target`; `row` fills in what identifies them."""
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
        row("k_pred", k, low=number(low), high=number(high), note=note),
        row("k_pred_half", found.k_half, note="from half of the examples"),
        row("rank_ceiling", spectrum.rank_ceiling),
        *[row("predicted_loss", expected_loss(spectrum, float(x)), x=float(x)) for x in curve],
    ]


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)
