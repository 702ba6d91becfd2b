"""Spectrum and gradient of a classifier's loss from the Gram matrix of its Jacobian (the empirical neural tangent kernel).

With n examples over C classes, the Gauss-Newton matrix H = J'WJ / n has rank at most m = n (C - 1). Predictions need only its non-zero
eigenvalues l_i and c_i = (u_i'g)^2, and both follow exactly from K = JJ' (m, m). J is the Jacobian of the logit differences d_c = logit_c -
logit_0, c = 1..C-1. The differences lose nothing, because softmax is invariant to a shift. Use this module for m up to some thousands.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, IntArray

# A saturated softmax has a vanishing curvature W but a non-zero gradient. Any W > 0 keeps g = A'q exact (see `gradient_spectrum`), so
# eigenvalues of W are raised to this value. Ridge solutions are then accurate to about 1e-6.
FLOOR = 1e-10


@dataclass(frozen=True)
class GradientSpectrum:
    """A quadratic L0 + g'd + d'Hd / 2 in H's eigenbasis. The projections sum to |g|^2."""

    eigenvalues: FloatArray  # (m,) l_i >= 0, descending
    projections: FloatArray  # (m,) c_i = (u_i'g)^2
    loss: float  # L0
    rank_ceiling: int  # m = n (C - 1), the largest k that can be predicted from these examples


def gradient_spectrum(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, moved: npt.ArrayLike | None = None
) -> GradientSpectrum:
    """Return the spectrum of the mean cross-entropy's Gauss-Newton matrix, and the gradient's projection on each eigenvector.

    gram (m, m) is JJ' with rows ordered by example, then by class 1..C-1; logits are (n, C), labels (n,) in 0..C-1. `moved` (n, C) are the
    logits f0 + Jd at another point d of the linearised model. With `moved`, the result is the quadratic tangent to the loss at d. This
    quadratic is still expanded about d = 0, so `loss` is its value at d = 0. Raises ValueError for shapes or labels that do not fit
    together, or values that are not finite.

    With r = p - onehot, A = W^1/2 J / sqrt(n) and q = (W^-1/2 r - W^1/2 Jd) / sqrt(n):

        H = A'A and g = A'q
        u_i = A'v_i / sqrt(l_i) and c_i = l_i (v_i'q)^2, where (l_i, v_i) are the eigenpairs of AA'
    """
    gram, logits, labels = validated(gram, logits, labels)
    point = logits if moved is None else np.asarray(moved, np.float64)
    n = len(labels)
    log_p = point - np.logaddexp.reduce(point, axis=1, keepdims=True)
    p = np.exp(log_p)
    residual = (p - np.eye(logits.shape[1])[labels])[:, 1:]
    root, inverse_root = _roots(p)
    half = _apply(root, _apply(root, gram).T) / n
    eigenvalues, vectors = np.linalg.eigh((half + half.T) / 2)
    eigenvalues = np.maximum(eigenvalues[::-1], 0.0)
    step = point - logits
    step = _apply(root, (step[:, 1:] - step[:, :1]).reshape(-1, 1))[:, 0]
    slope = _apply(inverse_root, residual.reshape(-1, 1))[:, 0]
    coefficients = vectors[:, ::-1].T @ (slope - step)
    loss = float(-log_p[np.arange(n), labels].mean() + (step @ step / 2 - slope @ step) / n)
    return GradientSpectrum(eigenvalues, eigenvalues * coefficients**2 / n, loss, len(gram))


def subset_spectrum(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, examples: npt.ArrayLike) -> GradientSpectrum:
    """Return `gradient_spectrum` of the listed examples only (integers in 0..n-1). An example listed twice counts twice."""
    return gradient_spectrum(*subset_of_examples(gram, logits, labels, examples))


def subset_of_examples(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, examples: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the gram, logits and labels of the listed examples only."""
    gram, logits, labels = validated(gram, logits, labels)
    chosen = np.asarray(examples, dtype=np.int64)
    rows = np.arange(len(gram)).reshape(len(labels), -1)[chosen].reshape(-1)
    return gram[np.ix_(rows, rows)], logits[chosen], labels[chosen]


def _roots(p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return W^1/2 and W^-1/2 of W = diag(p) - pp' without class 0, (n, C-1, C-1) each, from probabilities p (n, C)."""
    identity = np.eye(p.shape[1])
    # The diagonal is p (1 - p). Here 1 - p is a sum over the other classes, which avoids cancellation at p near 1.
    weight = identity * (p * (p @ (1 - identity)))[:, None, :] - (1 - identity) * p[:, :, None] * p[:, None, :]
    values, vectors = np.linalg.eigh(weight[:, 1:, 1:])
    roots = np.sqrt(np.maximum(values, FLOOR))[:, None, :]
    return (vectors * roots) @ vectors.swapaxes(1, 2), (vectors / roots) @ vectors.swapaxes(1, 2)


def _apply(blocks: FloatArray, matrix: FloatArray) -> FloatArray:
    """Return the block-diagonal matrix of blocks (n, c, c) times matrix (n c, columns)."""
    n, c, _ = blocks.shape
    return (blocks @ matrix.reshape(n, c, -1)).reshape(n * c, -1)


def validated(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return gram, logits and labels in float64 and int64. Raises ValueError if their shapes or values do not fit together."""
    gram, logits, labels = np.asarray(gram, np.float64), np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be (n, C >= 2) and labels (n,), got {logits.shape} and {labels.shape}")
    n, classes = logits.shape
    if gram.shape != (n * (classes - 1),) * 2:
        raise ValueError(f"gram must be (m, m) with m = n (C - 1) = {n * (classes - 1)}, got {gram.shape}")
    if n == 0 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be at least one integer in 0..{classes - 1}")
    if not (np.isfinite(gram).all() and np.isfinite(logits).all()):
        raise ValueError("gram and logits must be finite")
    return gram, logits, labels
