"""Linear classifiers of a power-law spectrum, and the exact k at which explicit random subspaces reach a loss."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

Dual = tuple[np.ndarray, np.ndarray, np.ndarray]  # gram (m, m), logits (n, C), labels (n,)


def classifier(n: int, classes: int, size: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(J (n (C - 1), D), logits (n, C) at d = 0, labels (n,) of a teacher with noise)."""
    random = np.random.default_rng(seed)
    jacobian = random.standard_normal((n * (classes - 1), size)) * np.arange(1, size + 1) ** -0.5
    jacobian = jacobian @ np.linalg.qr(random.standard_normal((size, size)))[0]
    logits = np.pad(0.3 * random.standard_normal((n, classes - 1)), ((0, 0), (1, 0)))
    taught = logits + at(jacobian, classes, 2 * random.standard_normal(size))
    return jacobian, logits, (taught + random.gumbel(size=taught.shape)).argmax(1)


def dual(jacobian: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Dual:
    return jacobian @ jacobian.T, logits, labels


def at(jacobian: np.ndarray, classes: int, d: np.ndarray) -> np.ndarray:
    """Return the change of the logits by d, (n, C)."""
    return np.pad((jacobian @ d).reshape(-1, classes - 1), ((0, 0), (1, 0)))


def least(jacobian: np.ndarray, logits: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
    """(minimum, d) of cross-entropy + ridge |d|^2 / 2 over d (D,), by L-BFGS in the parameters themselves."""
    n, classes = logits.shape
    onehot = np.eye(classes)[labels]

    def value(d: np.ndarray) -> tuple[float, np.ndarray]:
        moved = logits + at(jacobian, classes, d)
        log_p = moved - np.logaddexp.reduce(moved, axis=1, keepdims=True)
        slope = jacobian.T @ (np.exp(log_p) - onehot)[:, 1:].reshape(-1) / n
        return -(log_p * onehot).sum() / n + ridge / 2 * d @ d, slope + ridge * d

    result = minimize(
        value, np.zeros(jacobian.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    )
    return float(result.fun), result.x


def measured(jacobian: np.ndarray, logits: np.ndarray, labels: np.ndarray, target: float, seeds: int) -> np.ndarray:
    """k at which the minimum over the span of the first k of D random orthonormal directions crosses `target`, (seeds,)."""
    initial = least(jacobian[:, :1] * 0, logits, labels, 0.0)[0]
    crossings = []
    for seed in range(seeds):
        basis = np.linalg.qr(np.random.default_rng(1000 + seed).standard_normal((jacobian.shape[1],) * 2))[0]
        losses = [initial]
        while losses[-1] > target:
            losses.append(least(jacobian @ basis[:, : len(losses)], logits, labels, 1e-8)[0])
        share = (losses[-2] - target) / (losses[-2] - losses[-1])
        crossings.append(len(losses) - 2 + share)
    return np.array(crossings)
