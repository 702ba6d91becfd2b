"""Standard errors by the jackknife against closed forms, and intervals by how often they cover."""

import math

import numpy as np
import pytest
from scipy.stats import t

from landscape.numerics.standard_errors import degrees_of_freedom, leave_one_out_stderr, leave_out_stderr, t_quantile


@pytest.mark.parametrize("n", [2, 3, 4, 30])
def test_of_a_mean_the_jackknife_is_the_ordinary_standard_error(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    without = [np.delete(values, i).mean() for i in range(n)]
    assert leave_one_out_stderr(without) == pytest.approx(values.std(ddof=1) / math.sqrt(n), rel=1e-12)


def test_one_number_has_no_error() -> None:
    assert math.isnan(leave_one_out_stderr([1.0]))


def test_subsets_that_leave_several_out_give_the_error_of_a_mean_too() -> None:
    random = np.random.default_rng(1)
    values, left_out = random.normal(size=64), 8
    drawn = [values[random.permutation(64)[left_out:]].mean() for _ in range(20_000)]
    assert leave_out_stderr(drawn, 64, left_out) == pytest.approx(values.std(ddof=1) / 8, rel=0.02)


def test_intervals_of_three_or_four_terms_cover_and_those_of_a_normal_do_not() -> None:
    random = np.random.default_rng(2)
    for n, normal in ((3, 0.83), (4, 0.88)):
        values = random.normal(size=(4000, n))
        errors = np.array([leave_one_out_stderr([np.delete(row, i).mean() for i in range(n)]) for row in values])
        apart = np.abs(values.mean(axis=1)) / errors
        assert np.mean(apart < t_quantile(degrees_of_freedom(n))) == pytest.approx(0.95, abs=0.015)
        assert np.mean(apart < 1.96) < normal


def test_a_few_draws_of_subsets_cover_with_their_degrees_of_freedom() -> None:
    random, n, left_out, draws = np.random.default_rng(3), 16, 2, 10
    assert degrees_of_freedom(n, draws) == pytest.approx(1 / (1 / 15 + 1 / 9))
    assert t_quantile(degrees_of_freedom(n, draws)) == pytest.approx(t.ppf(0.975, degrees_of_freedom(n, draws)))
    covered = []
    for _ in range(2000):
        values = random.normal(size=n)
        drawn = [values[random.permutation(n)[left_out:]].mean() for _ in range(draws)]
        covered.append(abs(values.mean()) < t_quantile(degrees_of_freedom(n, draws)) * leave_out_stderr(drawn, n, left_out))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)
