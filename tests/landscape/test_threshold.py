import math

import numpy as np
import pytest

from landscape import crossing, gap_of_accuracy, gap_of_loss

TRUE = math.log(200)


def runs(random: np.random.Generator, levels: int, each: int, sd: float, curved: bool = False):
    """A design of levels x each runs, within a factor e of k* = 200, with seed noise of sd (in log k)."""
    x = np.repeat(np.linspace(-1, 1, levels), each) + random.uniform(-0.3, 0.3)
    noisy = x + sd * random.standard_normal(len(x))
    return np.exp(TRUE + x), 1.5 * np.tanh(noisy / 1.5) if curved else noisy


def test_noiseless_runs_give_the_crossing_and_its_slope_exactly() -> None:
    ks = np.repeat([50.0, 100, 200, 400, 800], 3)
    result = crossing(ks, 0.7 * np.log(ks / 230))
    assert result.k_star == pytest.approx(230, rel=1e-12)
    assert result.low == pytest.approx(230)
    assert result.high == pytest.approx(230)
    assert result.slope == pytest.approx(0.7)
    assert result.slope_stderr == pytest.approx(0, abs=1e-12)
    assert result.censored is None
    # The k around the crossing, 200 and 400, and one neighbour on either side.
    assert (result.window, result.runs) == ((100.0, 800.0), 12)


@pytest.mark.parametrize(
    ("levels", "each", "sd", "curved"),
    [(4, 2, 0.06, False), (4, 2, 0.30, False), (8, 2, 0.15, False), (4, 4, 0.30, False), (5, 3, 0.15, True)],
)
def test_intervals_cover_the_truth_and_the_regression_is_unbiased(levels: int, each: int, sd: float, curved: bool) -> None:
    random = np.random.default_rng(0)
    results = [crossing(*runs(random, levels, each, sd, curved), seed=i, bootstraps=300) for i in range(120)]
    found = [r for r in results if r.k_star is not None]
    assert len(found) >= 118
    covered = np.mean([(r.low or 0) <= 200 <= (r.high or math.inf) for r in found])
    # Nominal 95 %; 120 data sets have a standard error of 2 %.
    assert 0.89 <= covered <= 0.995
    errors = np.log([r.k_star for r in found]) - TRUE
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(errors))
    assert errors.std() < 1.6 * sd / math.sqrt(8)


def test_the_first_success_on_a_grid_is_biased_and_the_regression_is_not() -> None:
    random = np.random.default_rng(1)
    first, regression = [], []
    for seed in range(150):
        grid = TRUE + np.arange(-3, 4) * math.log(2) + random.uniform(0, math.log(2))
        gaps = grid - TRUE + 0.15 * random.standard_normal(7)
        first.append(grid[np.argmax(gaps >= 0)] - TRUE)
        result = crossing(np.exp(grid), gaps, seed=seed, bootstraps=100)
        regression.append(math.log(result.k_star or math.nan) - TRUE)
    assert 0.2 < np.mean(first) < 0.45
    assert abs(np.mean(regression)) < 0.03
    assert np.std(regression) < 0.5 * np.sqrt(np.mean(np.square(first)))


def test_one_diverged_run_hardly_moves_the_crossing() -> None:
    ks, gaps = runs(np.random.default_rng(2), 4, 4, 0.1)
    clean = crossing(ks, gaps)
    gaps[5] = -8.0
    assert crossing(ks, gaps).k_star == pytest.approx(clean.k_star, rel=0.1)


def test_runs_that_agree_exactly_at_one_k_still_give_a_line() -> None:
    # Clipped accuracies do this: more than half of the residuals are then zero.
    result = crossing([10, 10, 10, 10, 20, 20], [-1.0, -1, -1, -1, 0.9, 1.3])
    assert result.k_star is not None
    assert 10 < result.k_star < 20


def test_targets_out_of_reach_or_always_reached_are_censored() -> None:
    ks = [10.0, 20, 40, 40]
    above, below = crossing(ks, [-3.0, -2, -1, -1]), crossing(ks, [1.0, 2, 3, 3])
    assert (above.censored, above.k_star, above.window) == ("above", None, (10.0, 40.0))
    assert (below.censored, below.k_star, below.window) == ("below", None, (10.0, 40.0))


@pytest.mark.parametrize(("gaps", "side"), [([1.0, 1.2, -0.2, -0.1], "below"), ([-2.0, 0.1, -1.8, -2.1], "above")])
def test_medians_that_change_sign_without_a_rising_line_are_censored(gaps: list[float], side: str) -> None:
    assert crossing([10, 20, 40, 80], gaps).censored == side


def test_every_k_between_several_sign_changes_is_used() -> None:
    ks = np.repeat(2.0 ** np.arange(10), 2)
    gaps = np.repeat([-4, -3, -2, -1, 0.3, -0.2, 0.5, 1, 2, 3], 2)
    assert crossing(ks, gaps).window == (4.0, 128.0)


def test_an_uncertain_slope_leaves_the_interval_open() -> None:
    result = crossing([10, 10, 20, 20], [-2.0, 1.5, -1.4, 2.1])
    assert result.k_star is not None
    assert result.low is None
    assert result.high is None
    assert result.slope_stderr is not None
    assert result.slope is not None
    assert result.slope_stderr > result.slope


def test_the_seed_names_the_bootstrap_and_order_does_not_matter() -> None:
    ks, gaps = runs(np.random.default_rng(3), 4, 3, 0.2)
    order = np.random.default_rng(4).permutation(len(ks))
    assert crossing(ks, gaps, seed=1) == crossing(ks, gaps, seed=1)
    assert crossing(ks, gaps, seed=1).low != crossing(ks, gaps, seed=2).low
    assert crossing(ks[order], gaps[order]).k_star == pytest.approx(crossing(ks, gaps).k_star, rel=1e-12)


def test_gaps_are_positive_where_the_target_is_reached() -> None:
    assert gap_of_loss(0.5, 1.0) == pytest.approx(math.log(2))
    assert gap_of_loss(2.0, 1.0) == pytest.approx(-math.log(2))
    assert gap_of_accuracy(0.8, 0.5) == pytest.approx(math.log(4))
    assert gap_of_accuracy(0.5, 0.8) == pytest.approx(-math.log(4))
    assert gap_of_accuracy(1.0, 0.5, clip=0.01) == pytest.approx(math.log(99))
    assert gap_of_accuracy(0.0, 0.5) == pytest.approx(-math.log(999))


def test_wrong_use_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        crossing([1, 2], [0.0, 1, 2])
    with pytest.raises(ValueError, match="k > 0"):
        crossing([0, 2], [-1.0, 1])
    with pytest.raises(ValueError, match="at least 3 runs around the crossing, got 2"):
        crossing([1, 2], [-1.0, 1])
    with pytest.raises(ValueError, match="must be positive, got 0"):
        gap_of_loss(0, 1)
    with pytest.raises(ValueError, match=r"in 0\.\.1, got 1\.2"):
        gap_of_accuracy(1.2, 0.5)
