from collections.abc import Callable

import numpy as np
import pytest
import torch

from landscape import (
    DenseOperator,
    Estimate,
    diagonal_estimates,
    hutch_plus_plus,
    hutchinson,
    mean_of,
    slq,
    squared_frobenius,
    trace,
    xtrace,
)

SIZE, TRIALS = 40, 400


def operator_of(eigenvalues: np.ndarray) -> DenseOperator:
    random = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=random, dtype=torch.float64))
    return DenseOperator(rotation @ torch.diag(torch.as_tensor(eigenvalues)) @ rotation.T)


SLOW = operator_of(np.linspace(0.5, 2, SIZE))
FAST = operator_of(np.arange(1.0, SIZE + 1) ** -2)


def coverage(estimate: Callable[[int], Estimate], truth: float) -> float:
    intervals = [estimate(seed).interval() for seed in range(TRIALS)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.long
@pytest.mark.parametrize("operator", [SLOW, FAST], ids=["slow", "fast"])
def test_t_intervals_cover_the_truth_as_often_as_they_say(operator: DenseOperator) -> None:
    whole, square = float(operator.matrix.trace()), float(operator.matrix.square().sum())
    for estimate, truth in (
        (lambda seed: hutchinson(operator, 8, seed), whole),
        (lambda seed: squared_frobenius(operator, 8, seed), square),
        (lambda seed: trace(slq(operator, 8, SIZE, seed), np.square), square),
    ):
        # One eigenvalue that outweighs all others makes v'Av a chi-square: 8 probes are few for a t-interval then.
        least = 0.92 if operator is SLOW else 0.75
        assert least <= coverage(estimate, truth) <= 0.98


@pytest.mark.parametrize("operator", [SLOW, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize("estimate", [hutch_plus_plus, xtrace])
def test_estimates_with_a_sketch_are_unbiased_and_their_errors_of_the_right_size(
    operator: DenseOperator, estimate: Callable[..., Estimate]
) -> None:
    truth = float(operator.matrix.trace())
    estimates = [estimate(operator, 24, seed) for seed in range(400)]
    values = np.array([each.value for each in estimates])
    assert abs(values.mean() - truth) < 4 * values.std() / 20
    claimed = np.sqrt(np.mean([each.stderr**2 for each in estimates]))
    assert 0.6 < values.std() / claimed < 1.6
    if operator is FAST:
        assert values.std() < 0.2 * np.std([hutchinson(FAST, 24, seed).value for seed in range(100)])


@pytest.mark.parametrize("estimate", [hutch_plus_plus, xtrace])
def test_a_low_rank_has_its_exact_trace(estimate: Callable[..., Estimate]) -> None:
    operator = operator_of(np.array([5.0, 3.0, 1.0] + [0.0] * 30))
    assert estimate(operator, 24).value == pytest.approx(9, rel=1e-10)


def test_the_diagonal_is_within_its_errors_and_exact_for_a_diagonal_matrix() -> None:
    terms = diagonal_estimates(FAST, 200)
    assert ((terms.mean(1) - FAST.matrix.diagonal()).abs() < 4.5 * terms.std(1) / 200**0.5).all()
    part = mean_of(terms[:10].sum(0).numpy())
    assert abs(part.value - float(FAST.matrix.diagonal()[:10].sum())) < 4 * part.stderr
    flat = DenseOperator(torch.diag(torch.arange(4.0)))
    torch.testing.assert_close(diagonal_estimates(flat, 1)[:, 0], torch.arange(4.0).double())


def test_too_few_products_are_refused() -> None:
    for estimate, count in ((hutchinson, 0), (hutch_plus_plus, 5), (xtrace, 3), (diagonal_estimates, 0)):
        with pytest.raises(ValueError, match=f"at least .*got {count}"):
            estimate(FAST, count)
    assert np.isnan(hutchinson(FAST, 1).interval()[0])
