"""The minimum of the training loss over what is tuned: L-BFGS on all examples at once.

Predictions speak of the minimum, and AdamW's plateau need not be one: with few entries, which must move far, it often stalls above
it. On a small fixed set of examples L-BFGS goes further in less time. It is deterministic and takes minutes, so it keeps no
checkpoint: a run that was killed begins again and ends the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import nn

from apet.errors import Interrupted
from apet.methods import TunableModel
from apet.scoring import Batch, Scorer, cross_entropy, sorted_by_length
from apet.tasks import Example
from apet.training.options import REDUCTIONS, Progress

PAIRS, FEWEST = 100, 20  # of steps and gradients that L-BFGS keeps: few entries lie in long curved valleys, which few pairs do not see;
ROOM = 2**30  # bytes for them, where that leaves more than the fewest
LOOK, GAIN = 100, 0.01  # it is over where so many iterations gained less than this part of the loss,
EVALUATIONS, LINE = 3, 20  # at most: of an iteration, on average; of a line search
FLOOR = 0.01  # and where this part of the first loss is left: of label words that are told apart there is no minimum


def minimise(
    model: nn.Module, tunable: TunableModel, scorer: Scorer, examples: Sequence[Example], steps: int, batch: int, trajectory: bool = False,
    report: Callable[[Progress], None] = lambda progress: None, stopped: Callable[[], bool] = lambda: False,
) -> Progress:  # fmt: skip
    """Take at most `steps` iterations in `tunable.trainable`, `batch` examples at a time in memory; the loss is their exact mean.

    `Progress.history` has (iteration, loss) of each, `Progress.step` counts gradients of all examples. Raises Interrupted where
    `stopped()` turns true.
    """
    started, parameters = time.perf_counter(), list(tunable.trainable.values())
    batches = list(scorer.batches(sorted_by_length(scorer.task, examples), batch))
    weight = scorer.total_weight(examples)
    progress = Progress()

    def loss_at(x: np.ndarray) -> tuple[float, np.ndarray]:
        _put(x, parameters)
        tunable.write()
        progress.step += 1
        loss = mean_loss(model, scorer, batches, weight, parameters)
        return loss, np.concatenate([_gradient(parameter) for parameter in parameters])

    def note(loss: float) -> None:
        progress.history.append((len(progress.history), loss))
        progress.best = min(progress.best, loss)
        if trajectory and tunable.attached is not None:
            tunable.trajectory.append(tunable.attached.z.detach().cpu().clone())

    def look(intermediate_result: Any) -> None:
        note(float(intermediate_result.fun))
        report(progress)
        if stopped():
            raise Interrupted("interrupted: a run of L-BFGS is not saved half-way; the same command begins it again")
        losses = [loss for _, loss in progress.history]
        if losses[-1] < FLOOR * losses[0] or (len(losses) > LOOK and losses[-1] > (1 - GAIN) * losses[-1 - LOOK]):
            raise StopIteration

    x = np.concatenate([p.detach().double().cpu().numpy().ravel() for p in parameters])
    note(loss_at(x)[0])
    options = {"maxiter": steps, "maxfun": EVALUATIONS * steps, "maxls": LINE, "ftol": 0.0, "gtol": 0.0}
    options |= {"maxcor": max(FEWEST, min(PAIRS, ROOM // (16 * len(x))))}
    found = scipy.optimize.minimize(loss_at, x, jac=True, method="L-BFGS-B", callback=look, options=options)
    _put(found.x, parameters)
    tunable.write()
    # Out of iterations is no minimum; a line search that finds nothing lower in float32 is one.
    progress.reductions = 0 if found.status == 1 else REDUCTIONS + 1
    progress.seconds = time.perf_counter() - started
    return progress


def most_gradients(steps: int) -> int:
    """Return an upper bound on the gradients over all examples that `minimise` takes in `steps` iterations.

    scipy looks at its limit only after an iteration, which may hold two line searches (the second along the gradient, where the first
    finds nothing); the first gradient is taken before.
    """
    return EVALUATIONS * steps + 2 * LINE + 1


def mean_loss(model: nn.Module, scorer: Scorer, batches: Iterable[Batch], weight: float, parameters: Iterable[nn.Parameter]) -> float:
    """Return the sum of all batches' losses over `weight`, the examples' total weight; the parameters keep its gradient alone."""
    for parameter in parameters:
        parameter.grad = None
    losses = []
    for batch in batches:
        loss = cross_entropy(scorer.logits(model, batch), batch)[0] / weight
        loss.backward()
        losses.append(loss.detach())
    return float(torch.stack(losses).double().sum())


def _gradient(parameter: nn.Parameter) -> np.ndarray:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.double().cpu().numpy().ravel()


@torch.no_grad()
def _put(x: np.ndarray, parameters: Sequence[nn.Parameter]) -> None:
    for parameter, values in zip(parameters, torch.as_tensor(x).split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(values.view_as(parameter))
