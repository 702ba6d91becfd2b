"""What a training run will take, by rehearsal: its own first steps, its longest batch and a look, then nothing is kept.

The memory peak is that of this process since it began (on a GPU: of its tensors), so rehearse in a process of its own.
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

WARM_UP, LEAST, MOST, ENOUGH, LOOKED_AT = 5, 10, 100, 3.0, 128  # steps, steps, steps, seconds, examples


def too_large(spec: TrainSpec) -> bool:
    """Whether the spec's model, an alias, would take more than half of the memory that is free here: then its shapes must do."""
    import psutil

    alias = ALIASES.get(spec.model)
    return alias is not None and 8 * count_parameters(alias.config).total > psutil.virtual_memory().available  # 4 bytes each, and a copy


def rehearse(spec: TrainSpec, found: Inputs) -> dict[str, float]:
    """{"step_seconds", "seconds" of the whole run at most, "peak_gb"} of a spec of kind train on this machine as busy as it is."""
    from apet.machine import accelerator_for, checkpointed
    from apet.scoring import evaluate, sorted_by_length
    from apet.training import FACTORS, Progress, Stepper

    scorer = scorer_for(spec, found)
    examples, watched = subsets(spec, found)
    with tuned(spec, found.loaded.model, scorer, examples[:SEEN]) as mounted:
        options = train_options(spec, mounted.k, len(examples))
        stepper = Stepper(accelerator_for(found.device, options.precision), mounted.model, mounted, scorer, examples, options)
        progress = Progress(lr=options.lr, accumulate=options.accumulate)
        with checkpointed(mounted.model, options.gradient_checkpointing):
            stepper.gradient(np.argsort(stepper.lengths, kind="stable")[-options.batch :], progress)  # the longest: what memory must hold
            for _ in range(WARM_UP):
                stepper.step(progress)
            once = _seconds(lambda: stepper.step(progress), LEAST, found.device)
            step_seconds = _seconds(lambda: stepper.step(progress), min(MOST, max(LEAST, int(ENOUGH / once))), found.device)
        heldout = sorted_by_length(scorer.task, found.data.splits["validation"])
        decode = _seconds(lambda: evaluate(mounted.model, scorer, heldout[-64:], decode=True), 1, found.device) / len(heldout[-64:])
        look = watched[:LOOKED_AT]
        glance = _seconds(lambda: evaluate(mounted.model, scorer, look), 1, found.device) / len(look)  # an example
    looks = 0 if spec.optimizer == "lbfgs" else 1 - (-spec.steps // options.check)  # whose steps have the loss
    pilots = len(FACTORS) if spec.find_lr else 0
    parts = examples_a_step(spec, len(examples)) / min(spec.batch, len(examples))  # of a step, as large as the one that was rehearsed
    seen = min(SEEN, len(examples)) if spec.early_stop else len(examples)
    reported = len(heldout) + len(found.data.splits.get("test", ()))
    return {
        "step_seconds": step_seconds,
        "seconds": step_seconds * most_steps(spec) * parts
        + glance * ((looks + pilots) * len(watched) + 3 * seen + len(heldout))
        + decode * reported,
        "peak_gb": peak_bytes(found.device) / 1e9,
    }


def _seconds(work: Callable[[], Any], times: int, device: str) -> float:
    """Mean wall-clock seconds of `work`."""
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
