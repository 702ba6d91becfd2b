"""The kinds of run, a record each: everything that differs between them beside the fields of their specs."""

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
    """How runs of a kind are computed.

    run: (spec, inputs, context) -> rows and arrays. gradients: (spec, examples) -> at most how many example-gradients that takes, where a
    curvature product counts two. plan: what --dry-run says beside the sizes; UsageError for what the model or the data do not allow.
    alone: what of a spec cannot be shared among processes, in words, "" where all can.
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
