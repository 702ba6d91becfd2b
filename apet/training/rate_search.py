"""Choose a learning rate by short pilot runs from the same initial state: the rate with the lowest monitored loss wins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from apet.training.options import Progress
from apet.training.step import Stepper

FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)  # multiples of the options' rate that are tried
PILOT_STEPS = 40


def find_lr(stepper: Stepper, watch: Callable[[], float], progress: Progress) -> tuple[float, list[tuple[float, float]]]:
    """Return the best rate and [(rate, monitored loss after its pilot)] of all pilots.

    A pilot takes the run's first PILOT_STEPS steps, with a warm-up over at most a quarter of them. `watch` returns the monitored loss; a
    loss that is not finite counts as infinite. If losses are equal, the lowest rate wins. Afterwards the trainable tensors, the model and
    the random generators are bitwise unchanged, and the optimizer is new. `progress.accumulate` grows if memory ran out.
    """
    options, trainable = stepper.options, stepper.tunable.trainable
    start = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    stepper.options = replace(options, steps=PILOT_STEPS, warmup=min(options.warmup, PILOT_STEPS // 4))
    pilots = []
    try:
        for factor in FACTORS:
            with torch.random.fork_rng():
                pilots.append((options.lr * factor, _pilot(stepper, watch, progress, options.lr * factor)))
            with torch.no_grad():
                for name, value in start.items():
                    trainable[name].copy_(value)
            stepper.tunable.write()
            stepper.forget()
    finally:
        stepper.options = options
    return min(pilots, key=lambda pilot: pilot[1])[0], pilots


def _pilot(stepper: Stepper, watch: Callable[[], float], progress: Progress, rate: float) -> float:
    pilot = Progress(lr=rate, accumulate=progress.accumulate)
    finite = all(stepper.step(pilot) for _ in range(PILOT_STEPS))
    progress.accumulate = pilot.accumulate
    loss = watch() if finite else math.inf
    return loss if math.isfinite(loss) else math.inf
