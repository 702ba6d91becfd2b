"""A learning rate by trial: short pilots from the same start, of which the lowest watched loss wins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from apet.training.options import Progress
from apet.training.step import Stepper

FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)  # of the rate in the options
PILOT_STEPS = 40


def find_lr(stepper: Stepper, watch: Callable[[], float], progress: Progress) -> tuple[float, list[tuple[float, float]]]:
    """Return (the best rate, [(rate, watched loss after its pilot)]) for a run that stands at `progress`, with its first batches.

    A pilot is the run's first PILOT_STEPS steps, warmed up over a quarter of them; `watch` gives the watched loss. One
    that is not finite counts as infinite, of equals the lowest rate wins. Trainable tensors, model and random numbers
    are afterwards bitwise what they were, the optimizer is new, `progress.accumulate` grows if memory ran out.
    """
    options, trainable = stepper.options, stepper.tunable.trainable
    start = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    stepper.options = replace(options, steps=PILOT_STEPS, warmup=min(options.warmup, PILOT_STEPS // 4))
    found = []
    try:
        for factor in FACTORS:
            with torch.random.fork_rng():
                found.append((options.lr * factor, _pilot(stepper, watch, progress, options.lr * factor)))
            with torch.no_grad():
                for name, value in start.items():
                    trainable[name].copy_(value)
            stepper.tunable.write()
            stepper.forget()
    finally:
        stepper.options = options
    return min(found, key=lambda trial: trial[1])[0], found


def _pilot(stepper: Stepper, watch: Callable[[], float], progress: Progress, rate: float) -> float:
    pilot = Progress(lr=rate, accumulate=progress.accumulate)
    fine = all(stepper.step(pilot) for _ in range(PILOT_STEPS))
    progress.accumulate = pilot.accumulate
    loss = watch() if fine else math.inf
    return loss if math.isfinite(loss) else math.inf
