"""Estimate the time and memory of a training run by rehearsal: some first steps, the longest batch and an evaluation. Nothing is saved.

The memory peak covers the whole process since its start (on a GPU: its tensors), so rehearse each run in a separate process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.runs.run_inputs import Inputs, scorer_for, subsets, tuned
from analyses.runs.train import SEEN, examples_a_step, most_steps, train_options
from analyses.specs import TrainSpec
from apet.machine import peak_bytes
from apet.models import ALIASES, count_parameters

WARM_UP, LEAST, MOST = 5, 10, 100  # untimed steps; minimum and maximum number of timed steps
ENOUGH, EVALUATED = 3.0, 128  # seconds of timed steps; monitored examples that are timed


def too_large(spec: TrainSpec) -> bool:
    """Return whether the spec's model is an alias that needs more than half of the free memory, so that only its shapes can be loaded."""
    import psutil

    alias = ALIASES.get(spec.model)
    return alias is not None and 8 * count_parameters(alias.config).total > psutil.virtual_memory().available  # 4 bytes, twice


def rehearse(spec: TrainSpec, inputs: Inputs) -> dict[str, float]:
    """Return {"step_seconds", "seconds" (upper bound for the whole run), "peak_gb"} of a training run at this machine's present load."""
    from apet.machine import accelerator_for, checkpointed
    from apet.scoring import evaluate, sorted_by_length
    from apet.training import FACTORS, Progress, Stepper

    scorer = scorer_for(spec, inputs)
    examples, watched = subsets(spec, inputs)
    with tuned(spec, inputs.loaded.model, scorer, examples[:SEEN]) as mounted:
        options = train_options(spec, mounted.k, len(examples))
        stepper = Stepper(accelerator_for(inputs.device, options.precision), mounted.model, mounted, scorer, examples, options)
        progress = Progress(lr=options.lr, accumulate=options.accumulate)
        with checkpointed(mounted.model, options.gradient_checkpointing):
            stepper.gradient(
                np.argsort(stepper.lengths, kind="stable")[-options.batch :], progress
            )  # the longest batch: it determines the memory peak
            for _ in range(WARM_UP):
                stepper.step(progress)
            once = _seconds(lambda: stepper.step(progress), LEAST, inputs.device)
            step_seconds = _seconds(lambda: stepper.step(progress), min(MOST, max(LEAST, int(ENOUGH / once))), inputs.device)
        heldout = sorted_by_length(scorer.task, inputs.data.splits["validation"])
        decode = _seconds(lambda: evaluate(mounted.model, scorer, heldout[-64:], decode=True), 1, inputs.device) / len(heldout[-64:])
        monitored = watched[:EVALUATED]
        example_seconds = _seconds(lambda: evaluate(mounted.model, scorer, monitored), 1, inputs.device) / len(monitored)
    checks = 0 if spec.optimizer == "lbfgs" else 1 - (-spec.steps // options.check)  # L-BFGS steps compute the loss themselves
    pilots = len(FACTORS) if spec.find_lr else 0
    parts = examples_a_step(spec, len(examples)) / min(spec.batch, len(examples))  # of a step, each as large as the rehearsed one
    seen = min(SEEN, len(examples)) if spec.early_stop else len(examples)
    reported = len(heldout) + len(inputs.data.splits.get("test", ()))
    return {
        "step_seconds": step_seconds,
        "seconds": step_seconds * most_steps(spec) * parts
        + example_seconds * ((checks + pilots) * len(watched) + 3 * seen + len(heldout))
        + decode * reported,
        "peak_gb": peak_bytes(inputs.device) / 1e9,
    }


def _seconds(work: Callable[[], Any], times: int, device: str) -> float:
    """Return the mean wall-clock seconds of `times` calls of `work`."""
    import torch

    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - started) / times
