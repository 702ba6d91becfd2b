"""The dual form: spectrum and gradient of a classifier's loss from the Gram matrix of its Jacobian (theory.md).

With n examples scored over C classes the Gauss-Newton matrix H = J'WJ/n has rank at most m = n (C - 1), and all that
T1-T3 need, its nonzero eigenvalues l_i and c_i = (u_i'g)^2, follows exactly from K = JJ'. J is the Jacobian of the
logit differences d_c = logit_c - logit_0, c = 1..C-1; softmax does not see a shift, so nothing is lost.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, IntArray

# Where a softmax is saturated its curvature W vanishes, but not its gradient. Any W > 0 keeps g = A'q exact (below), so
# eigenvalues of W are raised to this: ridge solutions then hold to about 1e-6.
FLOOR = 1e-10


@dataclass(frozen=True)
class GradientSpectrum:
    """A quadratic L0 + g'd + d'Hd/2 as T1-T3 see it; sum of projections = |g|^2."""

    eigenvalues: FloatArray  # (m,) l_i >= 0, descending
    projections: FloatArray  # (m,) c_i = (u_i'g)^2
    loss: float  # L0
    rank_ceiling: int  # m = n (C - 1): no k predicted from these examples can exceed it


def gradient_spectrum(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, moved: npt.ArrayLike | None = None
) -> GradientSpectrum:
    """The spectrum of the mean cross-entropy's Gauss-Newton matrix, and the gradient's share of each eigenvector.

    gram (m, m) is JJ' with rows ordered example by example, then class 1..C-1; logits (n, C); labels (n,) in 0..C-1.
    `moved` (n, C) are the logits f0 + Jd of another point d of the linearised model: the quadratic is then the one that touches the loss
    there, still seen from d = 0, so that `loss` is its own value at d = 0. Raises ValueError for shapes or labels that do not fit,
    or a value that is not finite.

    With A = W^1/2 J / sqrt(n) and q = (W^-1/2 r - W^1/2 Jd) / sqrt(n), r = p - onehot: H = A'A and g = A'q. The eigenpairs (l_i,
    v_i) of AA' give u_i = A'v_i / sqrt(l_i), hence c_i = l_i (v_i'q)^2.
    """
    gram, logits, labels = checked(gram, logits, labels)
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
    along = vectors[:, ::-1].T @ (slope - step)
    loss = float(-log_p[np.arange(n), labels].mean() + (step @ step / 2 - slope @ step) / n)
    return GradientSpectrum(eigenvalues, eigenvalues * along**2 / n, loss, len(gram))


def subset_spectrum(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, examples: npt.ArrayLike) -> GradientSpectrum:
    """The same for the listed examples only, integers in 0..n-1; one listed twice counts twice."""
    return gradient_spectrum(*subset(gram, logits, labels, examples))


def subset(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, examples: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, IntArray]:
    """gram, logits and labels of the listed examples only."""
    gram, logits, labels = checked(gram, logits, labels)
    chosen = np.asarray(examples, dtype=np.int64)
    rows = np.arange(len(gram)).reshape(len(labels), -1)[chosen].reshape(-1)
    return gram[np.ix_(rows, rows)], logits[chosen], labels[chosen]


def _roots(p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """W^1/2 and W^-1/2 of W = diag(p) - pp' without class 0, (n, C-1, C-1) both, from probabilities p (n, C)."""
    identity = np.eye(p.shape[1])
    # The diagonal p (1 - p), with 1 - p summed from the other classes: no cancellation where p is near 1.
    weight = identity * (p * (p @ (1 - identity)))[:, None, :] - (1 - identity) * p[:, :, None] * p[:, None, :]
    values, vectors = np.linalg.eigh(weight[:, 1:, 1:])
    roots = np.sqrt(np.maximum(values, FLOOR))[:, None, :]
    return (vectors * roots) @ vectors.swapaxes(1, 2), (vectors / roots) @ vectors.swapaxes(1, 2)


def _apply(blocks: FloatArray, matrix: FloatArray) -> FloatArray:
    """The block-diagonal matrix of blocks (n, c, c) times matrix (n c, columns)."""
    n, c, _ = blocks.shape
    return (blocks @ matrix.reshape(n, c, -1)).reshape(n * c, -1)


def checked(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, FloatArray, IntArray]:
    """The three in float64 and int64; ValueError for what does not fit together."""
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
