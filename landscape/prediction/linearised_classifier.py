"""The linearised classifier: the loss of logits f0 + Jd as a convex function, minimised with a ridge (theory.md, T2 and the dual form).

Only K = JJ' is needed: d = J'u moves the logit differences by Ku and has length u'Ku. With K = BB' and w = B'u the problem is one
in at most m = n (C - 1) unknowns, |d| = |w|, and as well conditioned as the ridge makes it.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray
from landscape.spectra import checked

DECREMENT = 1e-13  # half the squared Newton decrement, relative to the loss, at which a minimum is reached
MOST_NEWTON = 200
SHORTEST = 2.0**-40  # of a Newton step


@dataclass(frozen=True)
class Value:
    """The mean cross-entropy at w with its derivatives."""

    loss: float
    gradient: FloatArray  # (r,)
    hessian: FloatArray  # (r, r)


class Linearised:
    """The mean cross-entropy of logits f0 + Bw, with BB' the Gram matrix; arguments as for `landscape.gradient_spectrum`."""

    def __init__(self, gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        self.gram, self.logits, self.labels = checked(gram, logits, labels)
        values, vectors = np.linalg.eigh((self.gram + self.gram.T) / 2)
        there = values > max(float(values[-1]), 0.0) * len(values) * np.finfo(float).eps
        self.factor: FloatArray = vectors[:, there] * np.sqrt(values[there])  # B (m, r)
        self.n, self.classes = self.logits.shape
        self.size = int(self.factor.shape[1])  # r
        self._onehot = np.eye(self.classes)[self.labels]

    def moved(self, w: FloatArray) -> FloatArray:
        """The logits (n, C) at w (r,)."""
        step = (self.factor @ w).reshape(self.n, self.classes - 1)
        return self.logits + np.pad(step, ((0, 0), (1, 0)))

    def loss(self, w: FloatArray) -> float:
        """The mean cross-entropy at w (r,)."""
        logits = self.moved(w)
        return float((np.logaddexp.reduce(logits, axis=1) - (logits * self._onehot).sum(1)).mean())

    def at(self, w: FloatArray) -> Value:
        """Loss, gradient and Hessian at w (r,)."""
        logits = self.moved(w)
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        gradient = self.factor.T @ (p - self._onehot)[:, 1:].reshape(-1) / self.n
        blocks = self.factor.reshape(self.n, self.classes - 1, -1)
        q = p[:, 1:, None]
        weighted = q * (blocks - (q * blocks).sum(1, keepdims=True))
        hessian = self.factor.T @ weighted.reshape(self.factor.shape) / self.n
        return Value(self.loss(w), gradient, (hessian + hessian.T) / 2)

    def proximal(self, kappa: float, centre: FloatArray | None = None, start: FloatArray | None = None) -> FloatArray:
        """argmin of loss(w) + kappa |w - centre|^2 / 2, kappa > 0, by Newton's method with backtracking from `start`.

        centre and start are (r,), zero unless given. Where rounding ends the descent, so does the search.
        """
        centre = np.zeros(self.size) if centre is None else centre
        w: FloatArray = centre if start is None else start
        for _ in range(MOST_NEWTON):
            here, away = self.at(w), w - centre
            total = here.loss + kappa / 2 * float(away @ away)
            slope = here.gradient + kappa * away
            step: FloatArray = -_solved(here.hessian + kappa * np.eye(self.size), slope)
            decrease = -float(slope @ step)
            if decrease / 2 <= DECREMENT * total:
                return w + step if decrease > 0 else w
            length = 1.0
            while self._with_ridge(w + length * step, kappa, centre) > total - 0.25 * length * decrease:
                length /= 2
                if length < SHORTEST:
                    return w
            w = w + length * step
        return w

    def _with_ridge(self, w: FloatArray, kappa: float, centre: FloatArray) -> float:
        return self.loss(w) + kappa / 2 * float((w - centre) @ (w - centre))


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    return cast(Any, scipy.linalg).solve(matrix, right, assume_a="pos")
