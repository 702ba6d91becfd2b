"""Estimate the time and memory of a training run in seconds by rehearsal: some steps and an evaluation. Nothing is saved.

The rehearsal takes whole steps of a small model. It takes one step of a few examples of a larger model and extrapolates by tokens. The
memory peak covers the whole process since its start (on a GPU: its tensors), so rehearse each run in a separate process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from analyses.runs.mounting import tuned
from analyses.runs.run_inputs import Inputs, heldout, model_of, plain_scorer, subsets
from analyses.runs.train import decodes, evaluated, examples_a_step, leaves_gradient, most_steps, train_options
from analyses.runs.untuned import CALIBRATION, MOST_CALIBRATION
from analyses.specs import Spec, TrainSpec
from apet.machine import free_memory, peak_bytes

WARM_UP, LEAST, MOST = 5, 10, 100  # untimed steps; minimum and maximum number of timed steps
ENOUGH = 3.0  # seconds of timed steps, of a single step of a large model, and of a timed evaluation
SAMPLE = 1000  # training examples whose lengths represent all
FEW = 8  # examples by which a rehearsal ranks entries: their positions do not change the time


def too_large(spec: Spec, device: str = "cpu") -> str:
    """Return why the model of a run cannot be loaded and rehearsed on this machine, or "" if it can."""
    shapes = model_of(spec, shapes_only=True)
    needed, free = 8 * shapes.parameters, free_memory(device)  # 4 bytes, and as much again for activations
    if needed > free:
        return f"not rehearsed: {shapes.parameters:,} parameters need about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"
    return ""


def rehearse(spec: TrainSpec, inputs: Inputs) -> dict[str, Any]:
    """Return {"step_seconds", "seconds" (upper bound for the whole run), "peak_gb"} of a training run at this machine's present load.

    If the step was extrapolated, the result has a "note" about it.
    """
    from apet.machine import accelerator_for, checkpointed
    from apet.scoring import evaluate
    from apet.training import Progress, Stepper

    scorer = plain_scorer(spec, inputs.loaded, inputs.device)  # a prior changes no time
    examples, watched = subsets(spec, inputs)
    sample = _longest(scorer, examples, spec.batch) + examples[:SAMPLE]
    validation = heldout(spec, inputs, "validation")
    with tuned(spec, inputs.loaded.model, scorer, examples[:FEW]) as (mounted, _):
        options = train_options(spec, mounted.k, len(examples))
        stepper = Stepper(accelerator_for(inputs.device, options.precision), mounted.model, mounted, scorer, sample, options)
        progress = Progress(lr=options.lr, accumulate=options.accumulate)
        with checkpointed(mounted.model, options.gradient_checkpointing):
            step, peak, note = _step(stepper, progress, inputs.device)
        count = max(2, min(64, int(ENOUGH / (step / stepper.batches.size))))
        timed = validation[:count]
        forward, decode = (
            _seconds(partial(evaluate, mounted.model, scorer, timed, decode=texts), 1, inputs.device) / len(timed)
            for texts in (False, decodes(spec))
        )
    parts = examples_a_step(spec, len(examples)) / min(spec.batch, len(examples))  # of a step, each as large as the rehearsed one
    reported = len(validation) + (len(heldout(spec, inputs, "test")) if spec.test and "test" in inputs.data.splits else 0)
    passes = _evaluated(spec, options, examples, watched) + len(validation) + reported
    return {
        "step_seconds": step,
        "seconds": step * most_steps(spec) * parts + forward * passes + (decode - forward) * decodes(spec) * reported,
        "peak_gb": peak / 1e9,
        **({"note": note} if note else {}),
    }


def _longest(scorer: Any, examples: Sequence, count: int) -> list:
    """Return the `count` examples with the longest texts: their batch determines the memory peak."""
    from apet.scoring import sorted_by_length

    return sorted_by_length(scorer.task, examples)[-count:]


def _step(stepper: Any, progress: Any, device: str) -> tuple[float, float, str]:
    """Return (seconds of a step, memory peak in bytes, note): measured for whole steps, or extrapolated from a step of few examples."""
    size, tokens = stepper.batches.size, np.maximum(stepper.lengths, 1)
    longest = np.argsort(tokens, kind="stable")[::-1][:size]
    middle = np.argsort(tokens, kind="stable")[len(tokens) // 2 :]  # examples of median length and more
    usual = tokens[size:].mean() * size if len(tokens) > size else tokens.sum()

    def work(chosen: np.ndarray) -> Callable[[], Any]:
        return lambda: stepper.gradient(chosen, progress)

    work(middle[:1])()  # the first pass allocates and compiles
    before = peak_bytes(device)
    single = _seconds(work(middle[:1]), 1, device)
    if single * size * (1 + WARM_UP + LEAST) <= 4 * ENOUGH:
        work(longest)()
        for _ in range(WARM_UP):
            stepper.step(progress)
        once = _seconds(lambda: stepper.step(progress), LEAST, device)
        seconds = _seconds(lambda: stepper.step(progress), min(MOST, max(LEAST, int(ENOUGH / once))), device)
        return seconds, peak_bytes(device), ""
    count = max(1, min(size, int(ENOUGH / single)))
    seconds = single if count == 1 else _seconds(work(middle[:count]), 1, device)
    seconds *= usual / tokens[middle[:count]].sum()
    work(longest[:count])()
    growth = (peak_bytes(device) - before) * (tokens[longest].sum() / tokens[longest[:count]].sum() - 1)
    note = f"extrapolated by tokens from a batch of {count}" if count < size else ""
    return float(seconds), peak_bytes(device) + float(growth), note


def _evaluated(spec: TrainSpec, options: Any, examples: list, watched: list) -> int:
    """Return the number of forward passes of an example for the prior, monitoring, and the training loss before and after the run."""
    from apet.training import FACTORS

    checks = 0 if spec.optimizer == "lbfgs" else 1 - (-spec.steps // options.check)  # L-BFGS steps compute the loss themselves
    pilots = len(FACTORS) if spec.find_lr else 0
    seen = evaluated(spec, examples, watched)
    passes = 5 if leaves_gradient(spec, examples, seen) else 2  # twice the loss, and maybe once its gradient
    prior = min(len(examples), CALIBRATION if spec.prior_stderr is None else MOST_CALIBRATION)
    return prior + (checks + pilots) * len(watched) + passes * len(seen)


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
