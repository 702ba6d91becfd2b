"""The Moreau path of any loss: proximal points of falling kappa, each found from the one before (theory.md, T2).

What `landscape.prediction.moreau` has in closed form of a linearised model, this follows on the loss itself, by L-BFGS in all coordinates.
It
takes gradients alone, as many as a short training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import scipy.optimize  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.curvature import Objective

DOWN = 4.0  # by which kappa falls from one point to the next
FIRST_GAIN = 0.02  # of the initial loss: a quadratic's first point gains at most this
CLOSE = 0.1  # of kappa |d|, within which the gradient of loss and penalty must vanish: the envelope errs by its square
LOOSE = 0.5  # within which a convex path's last point counts
MOST_STEPS = 150  # of L-BFGS a point, unless told
PAIRS, FEWEST = 100, 20  # of steps and gradients that L-BFGS keeps: with few the far points take 3 times as long
ROOM = 2**30  # bytes for them, where that leaves more than the fewest
MOST_POINTS = 16


@dataclass(frozen=True)
class ProximalPoint:
    """min over d of loss(d) + kappa |d|^2 / 2, as far as L-BFGS came."""

    kappa: float
    d: Tensor  # (D,) where it is, from where the path began
    loss: float  # there, without the penalty
    residual: float  # |gradient + kappa d| / (kappa |d|)
    gradients: int  # of the whole loss that it took

    @property
    def envelope(self) -> float:
        """The loss with the penalty: the best that a random subspace of dimension k(kappa) is expected to reach."""
        return self.loss + self.kappa / 2 * float(self.d.double().square().sum())


def proximal_path(
    objective: Objective[Any], lowest: float, origin: Tensor | None = None, steps: int = MOST_STEPS, convex: bool = False
) -> list[ProximalPoint]:
    """Points of the path from `origin` (D,), by default 0, until the envelope is below the absolute loss `lowest`, at most MOST_POINTS.

    kappa begins where a quadratic would gain FIRST_GAIN of the loss, |g|^2 / (2 FIRST_GAIN L0), and falls by DOWN a point, each of which
    takes at most `steps` of L-BFGS. Where the loss is not `convex` a falling ridge finds a valley late that a rising one keeps: so the
    way is gone back from the last point as far as that gives lower envelopes; `gradients` count both ways. Where it is, the path ends
    where L-BFGS comes no further: such a point's envelope is too high by residual^2 of its penalty at most, and is left out where that
    is over LOOSE^2. No points where the gradient at the origin is zero. Raises ValueError where loss or
    gradient there is no finite number.
    """
    origin = torch.zeros(objective.size, dtype=objective.dtype, device=objective.device) if origin is None else origin
    initial, gradient = objective.loss_and_gradient(origin)
    steepness = float(gradient.double().square().sum())
    if not (math.isfinite(initial) and math.isfinite(steepness)):
        raise ValueError(f"loss {initial} and gradient^2 {steepness} where the path begins are not both finite")
    kappa, d, points = steepness / (2 * FIRST_GAIN * abs(initial)), torch.zeros_like(origin), list[ProximalPoint]()
    while steepness > 0 and len(points) < MOST_POINTS and (not points or points[-1].envelope >= lowest):
        points.append(proximal_point(objective, kappa, origin, d, steps))
        kappa, d = kappa / DOWN, points[-1].d
        if convex and points[-1].residual > CLOSE:
            return points if points[-1].residual <= LOOSE else points[:-1]
    return points if convex else _back(objective, points, origin, steps)


def _back(objective: Objective[Any], points: list[ProximalPoint], origin: Tensor, steps: int) -> list[ProximalPoint]:
    points = list(points)
    for i in reversed(range(len(points) - 1)):
        back = proximal_point(objective, points[i].kappa, origin, points[i + 1].d, steps)
        spent = points[i].gradients + back.gradients
        better = back.envelope < points[i].envelope
        points[i] = replace(back if better else points[i], gradients=spent)
        if not better:
            break
    return points


def proximal_point(objective: Objective[Any], kappa: float, origin: Tensor, start: Tensor, steps: int = MOST_STEPS) -> ProximalPoint:
    """The point at `kappa` > 0, looked for from d = `start` (D,); of a loss that is not convex, one near it."""
    made, slope = 0, np.zeros(0)

    def penalised(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal made, slope
        loss, gradient = objective.loss_and_gradient(origin + torch.as_tensor(x).to(origin))
        made, slope = made + 1, gradient.double().cpu().numpy() + kappa * x
        return loss + kappa / 2 * float(x @ x), slope

    def residual(x: np.ndarray) -> float:
        return float(np.linalg.norm(slope)) / max(kappa * float(np.linalg.norm(x)), np.finfo(float).tiny)

    def enough(intermediate_result: Any) -> None:
        if residual(intermediate_result.x) < CLOSE:
            raise StopIteration

    options = {"maxiter": steps, "maxcor": max(FEWEST, min(PAIRS, ROOM // (16 * objective.size))), "ftol": 0.0, "gtol": 0.0}
    x = start.double().cpu().numpy()
    x = cast(Any, scipy.optimize).minimize(penalised, x, jac=True, method="L-BFGS-B", callback=enough, options=options).x
    value, _ = penalised(x)  # whatever the line search looked at last
    return ProximalPoint(kappa, torch.as_tensor(x).to(origin), value - kappa / 2 * float(x @ x), residual(x), made)
