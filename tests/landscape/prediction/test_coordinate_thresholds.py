import math

import numpy as np
import oracles
import pytest

from landscape import GradientSpectrum, coordinate_fixed_point, coordinate_threshold, expected_loss, predict_threshold

SIZE = 128
LAM = np.arange(1, SIZE + 1) ** -1.0
A = np.sqrt(LAM / LAM.sum())
HAAR = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]


def columns(rotation: np.ndarray) -> np.ndarray:
    return np.sqrt(LAM)[:, None] * rotation


def test_of_a_diagonal_hessian_the_excess_is_what_was_not_chosen() -> None:
    for k in (0, 8, 80, 120):
        point = coordinate_fixed_point(columns(np.eye(SIZE)), A, k)
        assert point.excess == pytest.approx((1 - k / SIZE) / 2, abs=1e-5)
        assert point.dimension == pytest.approx(k, abs=1e-3)


def test_of_incoherent_eigenvectors_it_is_t1() -> None:
    spectrum = GradientSpectrum(LAM, LAM * A**2, 0.5, SIZE)
    for k in (8, 40, 100):
        assert coordinate_fixed_point(columns(HAAR), A, k).excess == pytest.approx(expected_loss(spectrum, k), rel=0.05)


LIMITS = [(16, 0.5), *(pytest.param(*each, marks=pytest.mark.long) for each in ((4, 0.5), (SIZE, 0.5), (4, 0.2), (16, 0.2), (SIZE, 0.2)))]


@pytest.mark.parametrize(("block", "rest"), LIMITS)
def test_between_the_limits_it_is_the_threshold_of_random_coordinates(block: int, rest: float) -> None:
    # Eigenvectors that reach over blocks of coordinates, the eigenvalues of a block far apart.
    rotation, order = np.zeros((SIZE, SIZE)), np.arange(SIZE).reshape(block, -1).T.reshape(-1)
    for start in range(0, SIZE, block):
        own = np.linalg.qr(np.random.default_rng(start).standard_normal((block, block)))[0]
        rotation[np.ix_(order[start : start + block], range(start, start + block))] = own
    bases = [np.eye(SIZE)[:, np.random.default_rng(seed).permutation(SIZE)] for seed in range(40)]
    left = np.mean([oracles.nested_excesses(columns(rotation), A, basis) for basis in bases], axis=0)
    measured = np.interp(-rest / 2, -left, np.arange(SIZE + 1))
    assert coordinate_threshold(columns(rotation), A, rest / 2) == pytest.approx(measured, rel=0.12)


def test_dead_coordinates_are_not_counted() -> None:
    dead = np.concatenate([columns(HAAR), np.zeros((SIZE, SIZE))], axis=1)
    alive, half = coordinate_fixed_point(columns(HAAR), A, 20), coordinate_fixed_point(dead, A, 40)
    assert half.excess == pytest.approx(alive.excess, rel=1e-4)
    assert half.dimension == pytest.approx(20, rel=1e-3)


def test_a_start_elsewhere_ends_at_the_same_point() -> None:
    there = coordinate_fixed_point(columns(HAAR), A, 60)
    assert coordinate_fixed_point(columns(HAAR), A, 30, there).excess == pytest.approx(
        coordinate_fixed_point(columns(HAAR), A, 30).excess, rel=1e-5
    )


def test_what_has_no_threshold_is_said() -> None:
    assert coordinate_threshold(columns(HAAR), A, 0.6) is None
    assert coordinate_threshold(np.zeros((3, 5)), np.ones(3), 0.1) is None
    with pytest.raises(ValueError, match="k must be in"):
        coordinate_fixed_point(columns(HAAR), A, SIZE)
    with pytest.raises(ValueError, match="columns must be"):
        coordinate_fixed_point(columns(HAAR), A[:3], 2)


@pytest.mark.parametrize("decay", [0.75, 1.25])
@pytest.mark.parametrize("subspace", ["Gaussian", "coordinates"])
def test_t3_is_within_five_percent_of_the_qr_oracle(decay: float, subspace: str) -> None:
    size, seeds = 300, 24
    lam = np.arange(1, size + 1) ** -decay
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((size, size)))[0] if subspace == "coordinates" else np.eye(size)
    errors = []
    for power in (0.0, 0.5, 1.0):
        a2 = lam**power / (lam**power).sum()
        curves = [oracles.nested_excesses(np.sqrt(lam)[:, None] * rotation, np.sqrt(a2), _basis(subspace, size, i)) for i in range(seeds)]
        left = np.mean(curves, axis=0)
        for rest in (0.5, 0.3, 0.2, 0.1, 0.05):
            measured = np.interp(-rest / 2, -left, np.arange(size + 1))
            predicted = predict_threshold(GradientSpectrum(lam, lam * a2, 0.5, 10**9), rest / 2).k
            assert predicted is not None
            if 6 <= measured <= 0.9 * size:
                errors.append(abs(math.log(predicted / measured)))
    assert len(errors) >= 4
    assert np.median(errors) < 0.05


def _basis(subspace: str, size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.eye(size)[:, random.permutation(size)] if subspace == "coordinates" else random.standard_normal((size, size))
