import math

import numpy as np
import oracles
import pytest

from landscape import GradientSpectrum, expected_loss, gradient_spectrum, predict_threshold, predict_with_interval


def spectrum(eigenvalues: np.ndarray, shares: np.ndarray, loss: float = 1.0, ceiling: int = 10**9) -> GradientSpectrum:
    """Return a quadratic with a_i^2 = shares. Its ceiling is too high to matter, since it does not come from examples."""
    return GradientSpectrum(eigenvalues, shares * eigenvalues, loss, ceiling)


POWER = np.arange(1, 201) ** -1.0
QUADRATICS = {
    "aligned_with_the_top": (POWER, POWER / POWER.sum()),
    "spread": (POWER, np.full(200, 1 / 200)),
    "steep": (np.arange(1, 201) ** -1.5, POWER / POWER.sum()),
    "flat": (np.ones(200), np.full(200, 1 / 200)),
}


@pytest.mark.parametrize("name", QUADRATICS)
@pytest.mark.parametrize("rest", [0.5, pytest.param(0.2, marks=pytest.mark.long)])
def test_the_predicted_threshold_is_that_of_explicit_random_subspaces(name: str, rest: float) -> None:
    lam, a2 = QUADRATICS[name]
    whole = spectrum(lam, a2, loss=0.5)  # sum a^2 / 2: the minimum is 0
    predicted = predict_threshold(whole, 0.5 * rest).k
    assert predicted is not None
    assert predicted > 4
    ks = list(range(1, 200, 3))
    curve = 0.5 + oracles.subspace_losses(np.diag(lam), np.sqrt(a2 * lam), ks, seeds=12).mean(axis=1)
    measured = np.interp(-0.5 * rest, -curve, ks)
    assert predicted == pytest.approx(measured, rel=0.05)


def test_the_expected_loss_follows_explicit_random_subspaces() -> None:
    lam, a2 = QUADRATICS["aligned_with_the_top"]
    ks = [5, 20, 80]
    losses = 0.5 + oracles.subspace_losses(np.diag(lam), np.sqrt(a2 * lam), ks, seeds=30)
    for k, row in zip(ks, losses, strict=True):
        assert expected_loss(spectrum(lam, a2, 0.5), k) == pytest.approx(row.mean(), rel=0.05)


def test_a_quadratic_of_rank_r_reaches_its_minimum_at_k_equal_r_and_not_before() -> None:
    random, r = np.random.default_rng(0), 12
    factor = random.standard_normal((40, r))
    h, g = factor @ factor.T, factor @ random.standard_normal(r)
    lowest = -0.5 * g @ np.linalg.pinv(h) @ g
    losses = oracles.subspace_losses(h, g, [r - 1, r], seeds=5)
    assert (losses[0] > lowest + 1e-6).all()
    np.testing.assert_allclose(losses[1], lowest, atol=1e-10)
    values, vectors = np.linalg.eigh(h)
    predicted = GradientSpectrum(np.maximum(values[::-1], 0), ((vectors.T @ g) ** 2)[::-1], 0.0, 40)
    assert expected_loss(predicted, r) == pytest.approx(lowest, abs=1e-7)
    assert expected_loss(predicted, r - 1) > lowest + 1e-6


def test_on_a_flat_spectrum_ninety_percent_takes_nine_tenths_of_the_rank() -> None:
    r = 200
    flat = np.concatenate([np.ones(r), np.zeros(100)])
    shares = np.random.default_rng(0).dirichlet(np.ones(r))
    padded = np.concatenate([shares, np.zeros(100)])
    assert predict_threshold(spectrum(flat, padded, 0.5), 0.05).k == pytest.approx(0.9 * r, rel=1e-9)
    # The share that a random subspace explains is Beta(k / 2, (r - k) / 2): .9 with a deviation of about .021 for one seed.
    losses = 0.5 + oracles.subspace_losses(np.diag(flat), np.sqrt(padded), [180], seeds=30)
    assert losses.mean() == pytest.approx(0.05, abs=4 * 0.5 * 0.021 / math.sqrt(30))


def test_the_threshold_inverts_the_expected_loss() -> None:
    lam, a2 = QUADRATICS["steep"]
    whole = spectrum(lam, a2, 0.7)
    for k in (0.5, 3.0, 17.0, 120.0):
        assert predict_threshold(whole, expected_loss(whole, k)).k == pytest.approx(k, rel=1e-6)


def test_the_threshold_does_not_depend_on_the_scale_of_the_curvature() -> None:
    lam, a2 = QUADRATICS["spread"]
    one, other = predict_threshold(spectrum(lam, a2), 0.8), predict_threshold(spectrum(1e6 * lam, a2), 0.8)
    assert other.k == pytest.approx(one.k, rel=1e-9)
    assert one.kappa is not None
    assert other.kappa == pytest.approx(1e6 * one.kappa, rel=1e-9)


def test_the_curve_falls_from_the_initial_loss_to_the_minimum() -> None:
    lam, a2 = QUADRATICS["steep"]
    curve = [expected_loss(spectrum(lam, a2, 1.0), k) for k in np.linspace(0, 220, 45)]
    assert (np.diff(curve) <= 1e-12).all()
    assert curve[0] == 1.0
    assert curve[-1] == pytest.approx(0.5, abs=1e-6)


def test_censoring_says_which_side_and_why() -> None:
    lam, a2 = QUADRATICS["spread"]
    reached = predict_threshold(spectrum(lam, a2, 1.0), 1.0)
    assert (reached.k, reached.kappa, reached.censored) == (None, None, "below")
    unreachable = predict_threshold(spectrum(lam, a2, 1.0), 0.49)
    assert (unreachable.k, unreachable.censored) == (None, "above")
    assert "target 0.49 < quadratic's minimum 0.5" in unreachable.reason
    bound = predict_threshold(spectrum(lam, a2, 1.0, ceiling=200), 0.6)
    assert bound.censored == "above"
    assert bound.k is not None
    assert bound.k > 60
    assert "rank ceiling 200" in bound.reason
    fine = predict_threshold(spectrum(lam, a2, 1.0, ceiling=10_000), 0.6)
    assert (fine.censored, fine.reason, fine.k) == (None, "", bound.k)


def test_no_curvature_or_no_gradient_cannot_reach_a_target() -> None:
    zero = np.zeros(3)
    for lam, c in ((zero, zero), (np.ones(3), zero)):
        assert predict_threshold(GradientSpectrum(lam, c, 1.0, 3), 0.5).censored == "above"
        assert expected_loss(GradientSpectrum(lam, c, 1.0, 3), 2) == 1.0


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 0"):
        expected_loss(spectrum(*QUADRATICS["flat"]), -1)
    with pytest.raises(ValueError, match="at least 4 examples and 2 resamples, got 3 and 100"):
        predict_with_interval(np.eye(3), np.zeros((3, 2)), np.zeros(3, int), 0.1)


def dataset(random: np.random.Generator, n: int):
    """Return a binary task that a linear model can learn in part: features of a power-law spectrum, one fixed teacher."""
    features = random.standard_normal((n, 200)) * np.arange(1, 201) ** -0.5
    teacher = 2 * np.random.default_rng(99).standard_normal(200)
    labels = (features @ teacher + random.logistic(size=n) > 0).astype(int)
    logits = np.stack([np.zeros(n), 0.3 * random.standard_normal(n)], axis=1)
    return features @ features.T, logits, labels


def test_intervals_cover_the_typical_prediction_from_as_many_examples() -> None:
    random, n, rest = np.random.default_rng(0), 48, 0.8
    data = [dataset(random, n) for _ in range(60)]
    spectra = [gradient_spectrum(*d) for d in data]
    logs = np.log([predict_threshold(s, rest * s.loss).k or math.nan for s in spectra])
    assert np.isfinite(logs).all()
    truth = math.exp(logs.mean())
    intervals = [predict_with_interval(*d, rest * s.loss, resamples=30) for d, s in zip(data, spectra, strict=True)]
    covered = np.mean([(i.low or 0) <= truth <= (i.high or math.inf) for i in intervals])
    # Nominal 95 %; 60 data sets have a standard error of 3 %.
    assert covered >= 0.87
    widths = [math.log(i.high / i.low) / (2 * 1.96) for i in intervals if i.high and i.low]
    assert 0.7 < np.mean(widths) / logs.std() < 1.6


def test_the_interval_holds_the_prediction_and_half_the_examples_predict_less() -> None:
    d = dataset(np.random.default_rng(1), 40)
    loss = gradient_spectrum(*d).loss
    result = predict_with_interval(*d, 0.7 * loss, resamples=20)
    assert result.prediction == predict_threshold(gradient_spectrum(*d), 0.7 * loss)
    assert result.low is not None
    assert result.high is not None
    assert result.prediction.k is not None
    assert result.low < result.prediction.k < result.high
    assert result.k_half is not None
    assert result.k_half < result.prediction.k
    assert result == predict_with_interval(*d, 0.7 * loss, resamples=20)
    assert result.low != predict_with_interval(*d, 0.7 * loss, resamples=20, seed=1).low


def test_a_target_without_a_solution_has_no_interval() -> None:
    d = dataset(np.random.default_rng(2), 8)
    result = predict_with_interval(*d, 10.0)
    assert (result.prediction.censored, result.low, result.high, result.k_half) == ("below", None, None, None)
