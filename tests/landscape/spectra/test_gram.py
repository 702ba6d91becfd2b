from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import softmax

from landscape import gradient_spectrum, subset_spectrum


@dataclass(frozen=True)
class Problem:
    jacobian: np.ndarray  # (n (C - 1), D)
    logits: np.ndarray  # (n, C)
    labels: np.ndarray  # (n,)

    @property
    def gram(self) -> np.ndarray:
        return self.jacobian @ self.jacobian.T

    def curvature_and_gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """J'WJ/n and J'r/n in full."""
        n, classes = self.logits.shape
        p = softmax(self.logits, axis=1)[:, 1:]
        h, g = 0.0, 0.0
        for j, q, label in zip(self.jacobian.reshape(n, classes - 1, -1), p, self.labels, strict=True):
            h = h + j.T @ (np.diag(q) - np.outer(q, q)) @ j / n
            g = g + j.T @ (q - (label == np.arange(1, classes))) / n
        return h, g


def problem(n: int, classes: int, dim: int = 80, confidence: float = 1.0) -> Problem:
    random = np.random.default_rng(n * classes)
    jacobian = random.standard_normal((n * (classes - 1), dim)) * np.arange(1, dim + 1) ** -0.5
    logits = confidence * random.standard_normal((n, classes))
    return Problem(jacobian, logits, random.integers(0, classes, n))


@pytest.mark.parametrize(("n", "classes"), [(12, 2), (10, 4), (1, 3), (50, 3)])
def test_spectrum_and_projections_are_those_of_the_explicit_matrix(n: int, classes: int) -> None:
    p = problem(n, classes)
    spectrum = gradient_spectrum(p.gram, p.logits, p.labels)
    h, g = p.curvature_and_gradient()
    values, vectors = np.linalg.eigh(h)
    rank = min(n * (classes - 1), 80)
    top = slice(-1, -rank - 1, -1)
    np.testing.assert_allclose(spectrum.eigenvalues[:rank], values[top], rtol=1e-9)
    np.testing.assert_allclose(spectrum.projections[:rank], (vectors[:, top].T @ g) ** 2, rtol=1e-7, atol=1e-14)
    assert spectrum.rank_ceiling == n * (classes - 1) == len(spectrum.eigenvalues)


def test_the_loss_is_the_mean_cross_entropy() -> None:
    p = problem(20, 5)
    exact = -np.log(softmax(p.logits, axis=1)[np.arange(20), p.labels]).mean()
    assert gradient_spectrum(p.gram, p.logits, p.labels).loss == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("confidence", [0.0, 10.0, 100.0, 1000.0])
def test_saturated_softmaxes_stay_finite_and_keep_the_whole_gradient(confidence: float) -> None:
    # At 1000 every W is exactly zero, and half of the examples are confidently wrong: the gradient is of order one.
    p = problem(24, 3, confidence=confidence)
    spectrum = gradient_spectrum(p.gram, p.logits, p.labels)
    _, g = p.curvature_and_gradient()
    assert np.isfinite(spectrum.projections).all()
    assert spectrum.projections.sum() == pytest.approx(g @ g, rel=1e-6)


@pytest.mark.parametrize("kappa", [1e-3, 1e-1])
def test_ridge_solutions_survive_a_few_saturated_examples(kappa: float) -> None:
    p = problem(24, 3)
    logits = p.logits.copy()
    logits[:4] *= 40
    p = Problem(p.jacobian, logits, p.labels)
    spectrum = gradient_spectrum(p.gram, p.logits, p.labels)
    h, g = p.curvature_and_gradient()
    exact = g @ np.linalg.solve(h + kappa * np.eye(len(g)), g)
    assert (spectrum.projections / (spectrum.eigenvalues + kappa)).sum() == pytest.approx(exact, rel=1e-5)


def test_shifting_an_examples_logits_changes_nothing() -> None:
    p = problem(10, 3)
    shifted = gradient_spectrum(p.gram, p.logits + np.arange(10)[:, None], p.labels)
    plain = gradient_spectrum(p.gram, p.logits, p.labels)
    np.testing.assert_allclose(shifted.eigenvalues, plain.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(shifted.projections, plain.projections, rtol=1e-8, atol=1e-16)


def test_a_subset_is_the_problem_of_those_examples() -> None:
    p = problem(10, 3)
    chosen = np.array([7, 0, 3])
    rows = (2 * chosen[:, None] + [0, 1]).reshape(-1)
    jacobian = p.jacobian[rows]
    alone = gradient_spectrum(jacobian @ jacobian.T, p.logits[chosen], p.labels[chosen])
    subset = subset_spectrum(p.gram, p.logits, p.labels, chosen)
    np.testing.assert_allclose(subset.eigenvalues, alone.eigenvalues, rtol=1e-10)
    assert subset.loss == alone.loss


def test_listing_every_example_twice_changes_only_the_ceiling() -> None:
    p = problem(8, 3)
    once = gradient_spectrum(p.gram, p.logits, p.labels)
    twice = subset_spectrum(p.gram, p.logits, p.labels, np.repeat(np.arange(8), 2))
    np.testing.assert_allclose(twice.eigenvalues[:16], once.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(twice.eigenvalues[16:], 0, atol=1e-14)
    np.testing.assert_allclose(twice.projections[:16], once.projections, rtol=1e-6, atol=1e-14)
    assert (once.rank_ceiling, twice.rank_ceiling) == (16, 32)


def test_wrong_use_is_refused_with_the_numbers() -> None:
    p = problem(4, 3)
    with pytest.raises(ValueError, match=r"m = n \(C - 1\) = 8, got \(7, 7\)"):
        gradient_spectrum(p.gram[:7, :7], p.logits, p.labels)
    with pytest.raises(ValueError, match=r"labels \(n,\), got \(4, 3\) and \(3,\)"):
        gradient_spectrum(p.gram, p.logits, p.labels[:3])
    with pytest.raises(ValueError, match=r"integer in 0\.\.2"):
        gradient_spectrum(p.gram, p.logits, p.labels + 1 - p.labels.min() + 2)
    with pytest.raises(ValueError, match="finite"):
        gradient_spectrum(p.gram * np.nan, p.logits, p.labels)
