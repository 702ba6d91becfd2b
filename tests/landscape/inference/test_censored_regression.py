"""Regression with censored values: exact t tests, derivatives, quadrature and coverage."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import stdtrit
from scipy.stats import chi2, linregress, norm, ttest_1samp

from landscape.inference import Observations, coefficient, fit, informative, likelihood, total_spread

INF = math.inf


def observations(y: Any, design: Any, group: Any, low: Any = None, high: Any = None, stderr: float = 0.0) -> Observations:
    y = np.asarray(y, float)
    low, high = (y if end is None else np.asarray(end, float) for end in (low, high))
    return Observations(low, high, np.full(len(y), stderr), np.asarray(design, float), np.asarray(group))


def line(x: Any) -> np.ndarray:
    return np.column_stack([np.asarray(x, float), np.ones(len(x))])


def test_a_slope_of_exact_values_has_the_interval_and_the_p_value_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=7)
    y = 0.4 * x + rng.normal(size=7)
    slope, known = coefficient(observations(y, line(x), range(7)), 0, 2), linregress(x, y)
    half = stdtrit(5, 0.975) * known.stderr
    assert (slope.value, slope.low, slope.high) == pytest.approx((known.slope, known.slope - half, known.slope + half), abs=2e-3)
    one_sided = linregress(x, y, alternative="greater").pvalue
    assert (slope.p_below(0.0), slope.p_above(0.0)) == pytest.approx((one_sided, 1 - one_sided), rel=1e-3)


def test_values_of_a_group_count_as_one_group() -> None:
    """With equally large groups the test of a mean is the t test of the groups' means."""
    rng = np.random.default_rng(1)
    y = 0.5 + rng.normal(size=(6, 1)) + 0.3 * rng.normal(size=(6, 4))
    estimate = coefficient(observations(y.ravel(), np.ones((24, 1)), np.repeat(range(6), 4)), 0, 1)
    known = ttest_1samp(y.mean(1), 0.0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((known.low, known.high), abs=5e-3)


def mixed() -> Observations:
    rng = np.random.default_rng(2)
    y = rng.normal(size=12)
    low, high = y.copy(), y.copy()
    high[:3], low[3:5], high[5] = INF, -INF, y[5] + 0.5
    return observations(y, line(rng.normal(size=12)), np.repeat(range(4), 3), low, high, stderr=0.2)


def test_derivatives_of_the_likelihood() -> None:
    data, beta, step = mixed(), np.array([0.3, 0.1]), 1e-5

    def at(beta: np.ndarray, within: float = 0.4, between: float = 0.6):
        return likelihood(data, data.design, data.design @ beta, within, between)

    here = at(beta)
    for i, unit in enumerate(step * np.eye(2)):
        assert here.score[i] == pytest.approx((at(beta + unit).value - at(beta - unit).value) / 2 / step, rel=1e-5)
        assert here.hessian[i] == pytest.approx((at(beta + unit).score - at(beta - unit).score) / 2 / step, rel=1e-5)
    assert here.within == pytest.approx((at(beta, 0.4 + step).value - at(beta, 0.4 - step).value) / 2 / step, rel=1e-4)
    assert here.between == pytest.approx((at(beta, between=0.6 + step).value - at(beta, between=0.6 - step).value) / 2 / step, rel=1e-2)


def test_the_likelihood_is_the_integral_over_the_groups_effect() -> None:
    data, mean, within, between = mixed(), np.linspace(-0.5, 0.5, 12), 0.4, 0.6
    sd = math.hypot(within, 0.2)

    def density(effect: float, i: int) -> float:
        at = mean[i] + effect
        if data.exact[i]:
            return float(norm.pdf(data.low[i], at, sd))
        return float(norm.cdf(data.high[i], at, sd) - norm.cdf(data.low[i], at, sd))

    def integrand(effect: float, group: int) -> float:
        own = [density(effect, i) for i in np.flatnonzero(data.group == group)]
        return float(np.prod(own)) * float(norm.pdf(effect, 0, between))

    total = sum(math.log(quad(integrand, -6, 6, args=(group,), epsabs=1e-13)[0]) for group in range(4))
    assert likelihood(data, data.design, mean, within, between).value == pytest.approx(total, abs=5e-4)


def test_far_tails_keep_their_digits() -> None:
    data = observations([0.0, 0.0], np.ones((2, 1)), [0, 1], [40.0, -INF], [INF, -40.0])
    found = likelihood(data, data.design, np.zeros(2), 1.0, 0.0)
    assert found.value == pytest.approx(2 * norm.logsf(40.0), rel=1e-9)
    assert np.isfinite(found.score).all() and found.within > 0


def test_a_censored_value_is_neither_dropped_nor_replaced() -> None:
    """The truth is a slope of 1; values above 2 are only known to lie above 2."""
    rng = np.random.default_rng(3)
    x = np.linspace(0, 4, 60)
    y = x + 0.3 * rng.normal(size=60)
    above = y > 2
    data = observations(y, line(x), range(60), np.where(above, 2.0, y), np.where(above, INF, y))
    plugged = linregress(x, np.where(above, 2.0, y)).slope
    estimate = coefficient(data, 0, 2)
    assert estimate.low < 1 < estimate.high and estimate.high - estimate.low < 0.4
    assert plugged < 0.65


def test_a_direction_without_information_has_an_infinite_end() -> None:
    """Large models are only known to need more than the largest k tried: the slope has no upper bound."""
    x = np.array([-2.0, -2.0, -2.0, 0.0, 2.0])
    y = np.array([0.0, 0.1, -0.1, 0.0, 0.0])
    data = observations(y, line(x), range(5), y, np.where(x > -2, INF, y))
    estimate = coefficient(data, 0, 2)
    assert estimate.high == INF and -1 < estimate.low < 0.2


def test_an_intercept_with_values_censored_on_one_side_is_not_informative() -> None:
    design = np.eye(2)[[0, 0, 1, 1]]
    data = observations(np.zeros(4), design, range(4), [0, 0, 1, 2], [0, 0, INF, INF])
    assert informative(data, np.array([0, 1])).tolist() == [True, True, False, False]
    bounded = observations(np.zeros(4), design, range(4), [0, 0, 1, -INF], [0, 0, INF, 2])
    assert informative(bounded, np.array([0, 1])).all()


def test_the_spread_of_exact_values_is_the_sample_standard_deviation() -> None:
    y = np.random.default_rng(4).normal(size=9)
    estimate = total_spread(observations(y, np.ones((9, 1)), range(9)))
    assert estimate.value == pytest.approx(y.std(ddof=1), rel=1e-3)
    exact = [math.sqrt(8 * y.var(ddof=1) / chi2.ppf(q, 8)) for q in (0.975, 0.025)]
    assert [estimate.low, estimate.high] == pytest.approx(exact, rel=1e-3)
    for bound in (0.3, 1.0, 2.0):
        assert estimate.p_above(bound) == pytest.approx(chi2.cdf(8 * y.var(ddof=1) / bound**2, 8), rel=1e-4)
        assert estimate.p_below(bound) == pytest.approx(chi2.sf(8 * y.var(ddof=1) / bound**2, 8), rel=1e-4)


def test_measurement_errors_do_not_count_as_spread() -> None:
    y = np.random.default_rng(5).normal(size=40)
    whole, own = (total_spread(observations(y, np.ones((40, 1)), range(40), stderr=s)).value for s in (0.0, 0.8))
    assert own == pytest.approx(math.sqrt(whole**2 - 0.8**2), rel=0.02)


def test_the_spread_counts_what_groups_share_as_well() -> None:
    """Tasks that differ in the same way on every model: sqrt(within^2 + between^2), not the residual alone."""
    rng = np.random.default_rng(6)
    shared = 2 * rng.normal(size=30)
    y = shared[:, None] + 0.5 * rng.normal(size=(30, 3)) + [0.0, 1.0, 2.0]
    data = observations(y.ravel(), np.tile(np.eye(3), (30, 1)), np.repeat(range(30), 3))
    best = fit(data, restricted=True)
    assert (best.within, best.between) == pytest.approx((0.5, shared.std()), rel=0.15)
    assert total_spread(data).value == pytest.approx(math.hypot(0.5, shared.std()), rel=0.15)


@pytest.mark.parametrize(("between", "censored"), [(0.0, 0.0), (0.3, 0.0), pytest.param(0.3, 0.5, marks=pytest.mark.long)])
def test_intervals_of_slopes_cover(between: float, censored: float) -> None:
    """5 models x 3 tasks: at least 34 of 40 intervals of 95 % hold the true slope (expected: 38; 33 or fewer have a probability of 1 %)."""
    rng, x = np.random.default_rng(7), np.log(4.0) * np.arange(5)
    covered = 0
    for _ in range(40):
        y = (-0.3 * x[:, None] + between * rng.normal(size=(5, 1)) + 0.3 * rng.normal(size=(5, 3)) + rng.normal(size=3)).ravel()
        bound = np.quantile(y, 1 - censored)
        above = y > bound if censored else np.zeros(15, bool)
        task = np.tile(range(3), 5)
        data = observations(
            y, np.column_stack([np.repeat(x - x.mean(), 3), np.eye(3)[task]]), np.repeat(range(5), 3),
            np.where(above, bound, y), np.where(above, INF, y),
        )  # fmt: skip
        keep = informative(data, np.array([1, 2, 3]))
        columns = [True, *(bool(keep[task == i].any()) for i in range(3))]
        part = Observations(
            data.low[keep], data.high[keep], data.stderr[keep], data.design[keep][:, columns],
            np.unique(data.group[keep], return_inverse=True)[1],
        )  # fmt: skip
        estimate = coefficient(part, 0, 2)
        covered += estimate.low <= -0.3 <= estimate.high
    assert covered >= 34


def test_wrong_input() -> None:
    one = np.ones((1, 1))
    with pytest.raises(ValueError, match="low <= high"):
        observations([0.0], one, [0], [1.0], [0.0])
    with pytest.raises(ValueError, match="low <= high and a finite bound"):
        observations([0.0], one, [0], [-INF], [INF])
    with pytest.raises(ValueError, match="standard error"):
        observations([0.0], one, [0], stderr=-1.0)
    with pytest.raises(ValueError, match="no degree of freedom"):
        coefficient(observations([0.0, 1.0], line([0, 1]), [0, 1]), 0, 2)
    with pytest.raises(ValueError, match="too few exact values"):
        total_spread(observations([0.0, 1.0], np.ones((2, 1)), [0, 1], [0, 0], [INF, 0.0]))
