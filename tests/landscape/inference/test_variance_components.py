"""Variance components: mean squares, the restricted likelihood against a dense one, and slopes of spreads."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from landscape.inference import Crossed, holm, row_spread, spread_slope


def table(rows: int = 4, columns: int = 3, spread: float = 1.0, seed: int = 0) -> Crossed:
    rng = np.random.default_rng(seed)
    return Crossed(0.5 + spread * rng.normal(size=(rows, 1)) + 0.3 * rng.normal(size=(1, columns)) + 0.4 * rng.normal(size=(rows, columns)))


def dense_restricted(scores: np.ndarray, sd_a: float) -> float:
    """The restricted log-likelihood of all scores as one normal vector, maximised over the other two deviations."""
    m, n = scores.shape
    y = scores.ravel()
    same_row, same_column = np.kron(np.eye(m), np.ones((n, n))), np.kron(np.ones((m, m)), np.eye(n))
    contrasts = np.linalg.svd(np.ones((1, m * n)))[2][1:]  # orthogonal to the mean

    def loss(x: np.ndarray) -> float:
        covariance = sd_a**2 * same_row + math.exp(x[0]) * same_column + math.exp(x[1]) * np.eye(m * n)
        reduced = contrasts @ covariance @ contrasts.T
        return 0.5 * float(np.linalg.slogdet(reduced)[1] + contrasts @ y @ np.linalg.solve(reduced, contrasts @ y))

    return -min(minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun for start in ([-3, -3], [-8, -1]))


def test_the_profile_is_the_dense_restricted_likelihood() -> None:
    crossed = table()
    at = np.array([0.1, 0.5, 1.0, 2.0])
    ours = crossed.log_likelihood(np.log(at))
    dense = np.array([dense_restricted(crossed.scores, sd) for sd in at])
    assert ours - ours[0] == pytest.approx(dense - dense[0], abs=0.01)


def test_mean_squares_recover_the_components() -> None:
    crossed = table(400, 300, spread=1.0)
    assert crossed.of_rows == pytest.approx(1.0, rel=0.1)
    assert crossed.of_columns == pytest.approx(math.hypot(0.3, 0.4), rel=0.1)
    low, high = crossed.of_columns_interval()
    assert low < crossed.of_columns < high


def test_a_spread_has_an_interval_that_may_begin_at_zero() -> None:
    wide = row_spread(table(seed=1))
    assert 0 < wide.low < wide.value < wide.high
    none = Crossed(np.random.default_rng(3).normal(size=(4, 3)))
    assert row_spread(none).low == 0.0 and row_spread(none).high > row_spread(none).value


def test_intervals_of_a_spread_cover() -> None:
    inside = sum(row.low <= 1.0 <= row.high for row in (row_spread(table(6, 3, seed=seed)) for seed in range(100)))
    assert inside >= 89  # expected: 95; 88 or fewer have a probability below 1 %


@pytest.mark.parametrize("slope", [0.0, -0.5])
def test_intervals_of_a_slope_cover(slope: float) -> None:
    x = np.log(4.0) * np.arange(4)
    inside = 0
    for draw in range(40):
        tables = [table(spread=math.exp(slope * at), seed=1000 * draw + 10 * i + task) for i, at in enumerate(x) for task in range(2)]
        found = spread_slope(tables, np.repeat(x, 2), [0, 1] * 4)
        inside += found.low <= slope <= found.high
    assert inside >= 34


def test_blocks_have_intercepts_of_their_own() -> None:
    """A task with a tenfold spread on the largest model alone must not look like a rising spread."""
    x = np.array([0.0, 1.0, 2.0, 2.0])
    tables = [table(20, 20, 1.0, seed=i) for i in range(3)] + [table(20, 20, 10.0, seed=9)]
    assert abs(spread_slope(tables, x, [0, 0, 0, 1]).value) < 0.4
    with pytest.raises(ValueError, match="two different values"):
        spread_slope(tables[2:], x[2:], [0, 1])


def test_wrong_tables() -> None:
    for scores, message in (
        (np.zeros((1, 3)), "at least 2 rows"), (np.full((2, 2), np.nan), "complete"), (np.ones((2, 2)), "equal"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Crossed(scores)


def test_holm() -> None:
    """The example of a textbook: the smallest of four p values counts fourfold, and corrected values never fall."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2, math.nan, 0.9]) == pytest.approx([0.4, math.nan, 0.9], nan_ok=True)
    assert holm([]).shape == (0,)
