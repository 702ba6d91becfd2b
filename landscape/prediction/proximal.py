"""The Moreau path of any loss: proximal points argmin loss(d) + kappa |d|^2 / 2 of falling kappa. Each search starts from the last point.

`landscape.prediction.moreau` follows the path of a linearised classifier from its Gram matrix. This module follows the path on the loss
itself, by L-BFGS in all D coordinates. It needs only gradients, as many as a short training run, and 16 D bytes per pair of L-BFGS's
history.

The algorithm differs from a textbook continuation in:

1. The ridge falls, so each search starts from the solution of a more penalised problem.
2. If the loss is not convex, the path is then retraced from its end. A rising ridge stays in valleys that a falling ridge finds late.
3. A search ends at a relative gradient of 0.1, because the error of the envelope is of second order in it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import Objective
from landscape.numerics import FloatArray, lbfgs, lbfgs_history

RIDGE_FACTOR = 4.0  # factor by which kappa falls from one point to the next
FIRST_GAIN = 0.02  # largest share of the initial loss that the first point gains on a quadratic
TOLERANCE = 0.1  # |gradient + kappa d| / (kappa |d|) at which a point has converged; the envelope's error is its square
LOOSE_TOLERANCE = 0.5  # largest residual at which the last point of a convex path is accepted
MAX_ITER = 150  # default number of L-BFGS iterations per point
MAX_POINTS = 16


@dataclass(frozen=True)
class ProximalPoint:
    """An approximate minimiser d of loss(origin + d) + kappa |d|^2 / 2."""

    kappa: float
    d: Tensor  # (D,), from the path's origin
    loss: float  # at the point, without the penalty
    residual: float  # |gradient + kappa d| / (kappa |d|)
    gradients: int  # number of gradients of the whole loss computed for this point

    @property
    def envelope(self) -> float:
        """The loss with the penalty: the expected best loss in a random subspace of dimension k(kappa)."""
        return self.loss + self.kappa / 2 * float(self.d.double().square().sum())


def proximal_path(
    objective: Objective[Any], lowest: float, origin: Tensor | None = None, max_iter: int = MAX_ITER, convex: bool = False
) -> list[ProximalPoint]:
    """Return at most 16 points of the path from `origin` (D,), 0 by default, until the envelope is below the absolute loss `lowest`.

    kappa begins at |g|^2 / (2 * 0.02 L0), where a quadratic gains 2 % of the loss, and falls by a factor 4 per point. A point takes at most
    `max_iter` L-BFGS iterations. The list is empty if the gradient at the origin is zero.

    Unless the loss is `convex`, the path is retraced from its last point as long as retracing lowers envelopes. `gradients` then counts
    both directions. A convex path ends at the first point that does not converge. The envelope of that point is too high by at most
    residual^2 of its penalty; the point is dropped if its residual exceeds 0.5. Raises ValueError if the loss or gradient at the origin is
    not finite.
    """
    origin = torch.zeros(objective.size, dtype=objective.dtype, device=objective.device) if origin is None else origin
    initial, gradient = objective.loss_and_gradient(origin)
    squared_gradient = float(gradient.double().square().sum())
    if not (math.isfinite(initial) and math.isfinite(squared_gradient)):
        raise ValueError(f"loss and gradient must be finite at the path's origin, got {initial} and |g|^2 = {squared_gradient}")
    kappa, d, points = squared_gradient / (2 * FIRST_GAIN * abs(initial)), torch.zeros_like(origin), list[ProximalPoint]()
    while squared_gradient > 0 and len(points) < MAX_POINTS and (not points or points[-1].envelope >= lowest):
        points.append(proximal_point(objective, kappa, origin, d, max_iter))
        kappa, d = kappa / RIDGE_FACTOR, points[-1].d
        if convex and points[-1].residual > TOLERANCE:
            return points if points[-1].residual <= LOOSE_TOLERANCE else points[:-1]
    return points if convex else _retraced(objective, points, origin, max_iter)


def _retraced(objective: Objective[Any], points: list[ProximalPoint], origin: Tensor, max_iter: int) -> list[ProximalPoint]:
    """Return the path, retraced from its end: points are replaced while searches from the next point find lower envelopes."""
    points = list(points)
    for i in reversed(range(len(points) - 1)):
        retraced = proximal_point(objective, points[i].kappa, origin, points[i + 1].d, max_iter)
        gradients = points[i].gradients + retraced.gradients
        better = retraced.envelope < points[i].envelope
        points[i] = replace(retraced if better else points[i], gradients=gradients)
        if not better:
            break
    return points


def proximal_point(objective: Objective[Any], kappa: float, origin: Tensor, start: Tensor, max_iter: int = MAX_ITER) -> ProximalPoint:
    """Return the point at `kappa` > 0 that at most `max_iter` L-BFGS iterations find from d = `start` (D,).

    If the loss is not convex, the point is a local minimiser.
    """
    evaluations, slope = 0, np.zeros(0)

    def penalised(x: FloatArray) -> tuple[float, FloatArray]:
        nonlocal evaluations, slope
        loss, gradient = objective.loss_and_gradient(origin + torch.as_tensor(x).to(origin))
        evaluations, slope = evaluations + 1, gradient.double().cpu().numpy() + kappa * x
        return loss + kappa / 2 * float(x @ x), slope

    def residual(x: FloatArray) -> float:
        return float(np.linalg.norm(slope)) / max(kappa * float(np.linalg.norm(x)), np.finfo(float).tiny)

    def converged(x: FloatArray) -> bool:
        return residual(x) < TOLERANCE

    history = lbfgs_history(objective.size)
    x = lbfgs(penalised, start.double().cpu().numpy(), history=history, stop=converged, maxiter=max_iter, ftol=0.0, gtol=0.0)
    value, _ = penalised(x)  # sets `slope` at x: the line search may have evaluated another point last
    return ProximalPoint(kappa, torch.as_tensor(x).to(origin), value - kappa / 2 * float(x @ x), residual(x), evaluations)
