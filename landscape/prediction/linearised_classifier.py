"""The linearised classifier: the mean cross-entropy of logits f0 + J d as a convex function of d, minimised with a ridge.

Only the Gram matrix K = J J' is needed: d = J'u moves the logit differences by K u and has squared length u'K u. With K = B B' and w = B'u,
the problem has r <= n (C - 1) unknowns w with |d| = |w|, and the ridge determines its conditioning. A Newton step costs r^3, so use this
module for up to some thousands of logit differences.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray
from landscape.spectra import validated

TOLERANCE = 1e-13  # half the squared Newton decrement, relative to the loss, at which the search has converged
MAX_ITER = 200
SHORTEST_STEP = 2.0**-40  # smallest share of a Newton step that backtracking tries


@dataclass(frozen=True)
class Value:
    """The mean cross-entropy at w with its derivatives."""

    loss: float
    gradient: FloatArray  # (r,)
    hessian: FloatArray  # (r, r)


class LinearisedClassifier:
    """The mean cross-entropy L(w) of logits f0 + B w, where B B' is the Gram matrix.

    gram (m, m), logits (n, C) and labels (n,) are as for `gradient_spectrum`. w has `size` = r entries, where r is the rank of the Gram
    matrix.
    """

    def __init__(self, gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        self.gram, self.logits, self.labels = validated(gram, logits, labels)
        values, vectors = np.linalg.eigh((self.gram + self.gram.T) / 2)
        positive = values > max(float(values[-1]), 0.0) * len(values) * np.finfo(float).eps
        self.factor: FloatArray = vectors[:, positive] * np.sqrt(values[positive])  # B (m, r)
        self.n, self.classes = self.logits.shape
        self.size = int(self.factor.shape[1])  # r
        self._onehot = np.eye(self.classes)[self.labels]

    def logits_at(self, w: FloatArray) -> FloatArray:
        """Return the logits (n, C) at w (r,)."""
        step = (self.factor @ w).reshape(self.n, self.classes - 1)
        return self.logits + np.pad(step, ((0, 0), (1, 0)))

    def loss(self, w: FloatArray) -> float:
        """Return the mean cross-entropy at w (r,)."""
        logits = self.logits_at(w)
        return float((np.logaddexp.reduce(logits, axis=1) - (logits * self._onehot).sum(1)).mean())

    def at(self, w: FloatArray) -> Value:
        """Return loss, gradient and Hessian at w (r,)."""
        logits = self.logits_at(w)
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        gradient = self.factor.T @ (p - self._onehot)[:, 1:].reshape(-1) / self.n
        blocks = self.factor.reshape(self.n, self.classes - 1, -1)
        q = p[:, 1:, None]
        weighted = q * (blocks - (q * blocks).sum(1, keepdims=True))
        hessian = self.factor.T @ weighted.reshape(self.factor.shape) / self.n
        return Value(self.loss(w), gradient, (hessian + hessian.T) / 2)

    def proximal(self, kappa: float, centre: FloatArray | None = None, start: FloatArray | None = None) -> FloatArray:
        """Return the argmin of L(w) + kappa |w - centre|^2 / 2, kappa > 0, by Newton's method with backtracking from `start`.

        `centre` and `start` are (r,), zero by default (`start`: `centre`). The search ends where rounding error prevents further descent.
        """
        centre = np.zeros(self.size) if centre is None else centre
        w: FloatArray = centre if start is None else start
        for _ in range(MAX_ITER):
            value, offset = self.at(w), w - centre
            total = value.loss + kappa / 2 * float(offset @ offset)
            gradient = value.gradient + kappa * offset
            step: FloatArray = -_solve(value.hessian + kappa * np.eye(self.size), gradient)
            decrease = -float(gradient @ step)
            if decrease / 2 <= TOLERANCE * total:
                return w + step if decrease > 0 else w
            length = 1.0
            while self._with_ridge(w + length * step, kappa, centre) > total - 0.25 * length * decrease:
                length /= 2
                if length < SHORTEST_STEP:
                    return w
            w = w + length * step
        return w

    def _with_ridge(self, w: FloatArray, kappa: float, centre: FloatArray) -> float:
        return self.loss(w) + kappa / 2 * float((w - centre) @ (w - centre))


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    return cast(Any, scipy.linalg).solve(matrix, right, assume_a="pos")
