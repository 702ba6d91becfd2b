"""Minimise the training loss over the tuned parameters by L-BFGS on all examples at once.

Predictions refer to the minimum, and AdamW's plateau need not be a minimum: with few tuned entries, which must move far, AdamW often
stalls above it. On a small fixed set of examples L-BFGS reaches lower losses in less time. A run is deterministic and takes minutes, so
it does not keep a checkpoint. A killed run starts again and ends with the same result.
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
from apet.scoring import Batch, Scorer, sorted_by_length
from apet.tasks import Example
from apet.training.options import REDUCTIONS, Progress

# L-BFGS keeps PAIRS pairs of steps and gradients in at most ROOM bytes, but never fewer than FEWEST. With few tuned entries the loss has
# long curved valleys, which a few pairs do not resolve.
PAIRS, FEWEST = 100, 20
ROOM = 2**30
EVALUATIONS, LINE = 3, 20  # most evaluations of the loss: per iteration on average, and per line search
# A run ends when LOOK iterations have lowered the loss by less than the share GAIN, or when the loss is below the share FLOOR of its
# initial value: if the model classifies all examples correctly, the loss may not have a minimum.
LOOK, GAIN = 100, 0.01
FLOOR = 0.01


def minimise(
    model: nn.Module, tunable: TunableModel, scorer: Scorer, examples: Sequence[Example], steps: int, batch: int, trajectory: bool = False,
    report: Callable[[Progress], None] = lambda progress: None, stopped: Callable[[], bool] = lambda: False,
) -> Progress:  # fmt: skip
    """Minimise the loss over `tunable.trainable` in at most `steps` iterations, and return the progress.

    The loss is the exact mean over all examples, computed in batches of `batch` examples. `Progress.history` has (iteration, loss) of
    every iteration. `Progress.step` counts gradients over all examples. With `trajectory`, `tunable.trajectory` receives z of every
    iteration. Raises Interrupted when `stopped()` returns True.
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
            raise Interrupted("interrupted: an L-BFGS run is not saved before its end; run the same command to start it again")
        losses = [loss for _, loss in progress.history]
        if losses[-1] < FLOOR * losses[0] or (len(losses) > LOOK and losses[-1] > (1 - GAIN) * losses[-1 - LOOK]):
            raise StopIteration

    x = np.concatenate([p.detach().double().cpu().numpy().ravel() for p in parameters])
    note(loss_at(x)[0])
    options = {"maxiter": steps, "maxfun": EVALUATIONS * steps, "maxls": LINE, "ftol": 0.0, "gtol": 0.0}
    options |= {"maxcor": max(FEWEST, min(PAIRS, ROOM // (16 * len(x))))}
    result = scipy.optimize.minimize(loss_at, x, jac=True, method="L-BFGS-B", callback=look, options=options)
    _put(result.x, parameters)
    tunable.write()
    # Status 1 means that the iterations ran out before the minimum. A line search that finds no lower loss in float32 is at the minimum.
    progress.reductions = 0 if result.status == 1 else REDUCTIONS + 1
    progress.seconds = progress.elapsed = time.perf_counter() - started
    return progress


def most_gradients(steps: int) -> int:
    """Return an upper bound on the number of gradients over all examples that `minimise` computes in `steps` iterations.

    scipy checks its limit only after an iteration. An iteration has up to two line searches, the second along the gradient if the first
    fails. One gradient is computed before the first iteration.
    """
    return EVALUATIONS * steps + 2 * LINE + 1


def mean_loss(model: nn.Module, scorer: Scorer, batches: Iterable[Batch], weight: float, parameters: Iterable[nn.Parameter]) -> float:
    """Return the mean loss: the sum over all batches divided by `weight`, the total weight of the examples.

    The gradient of the mean loss replaces the parameters' earlier gradients.
    """
    for parameter in parameters:
        parameter.grad = None
    losses = []
    for batch in batches:
        loss = scorer.loss(model, batch)[0] / weight
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
