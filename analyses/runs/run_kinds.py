"""Table of the kinds of run. A record holds everything that differs between kinds except the fields of their specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.runs.predict import predict_gradients, predict_run
from analyses.runs.run_inputs import Context, Inputs, Planned
from analyses.runs.slice import slice_gradients, slice_plan, slice_run
from analyses.runs.spectrum import spectrum_gradients, spectrum_plan, spectrum_run
from analyses.runs.train import train_gradients, train_plan, train_run
from analyses.specs import KINDS
from analyses.store import Row

Result = tuple[list[Row], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Kind:
    """Functions of one kind of run.

    run: (spec, inputs, context) -> rows and arrays.
    gradients: (spec, examples) -> upper bound on the number of example-gradients; a curvature product counts as two.
    plan: (spec, planned) -> additional output of --dry-run. It raises UsageError if the model or the data do not permit the run.
    alone: spec -> description of the part that several processes cannot share, or "" if they can share the run.
    """

    run: Callable[[Any, Inputs, Context], Result]
    gradients: Callable[[Any, int], int]
    plan: Callable[[Any, Planned], dict[str, Any]] = lambda spec, planned: {}
    alone: Callable[[Any], str] = lambda spec: ""


RUN_KINDS = {
    "train": Kind(train_run, train_gradients, train_plan, lambda spec: "optimizer lbfgs" if spec.optimizer == "lbfgs" else ""),
    "predict": Kind(predict_run, predict_gradients, alone=lambda spec: "" if spec.takes_products else "a prediction from the Gram matrix"),
    "spectrum": Kind(spectrum_run, spectrum_gradients, spectrum_plan),
    "slice": Kind(slice_run, slice_gradients, slice_plan),
}
assert set(RUN_KINDS) == set(KINDS)
