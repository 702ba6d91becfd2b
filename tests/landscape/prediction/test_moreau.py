import math

import numpy as np
import pytest
from linear_cases import classifier, dual, least, measured

from landscape import (
    LinearisedClassifier,
    expected_loss,
    gordon_threshold,
    gradient_spectrum,
    larsen_threshold,
    moreau_path,
    predict_on_path,
    predict_on_path_with_interval,
    predict_threshold,
)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kappa", [1e-1, 1e-3])
def test_the_proximal_point_from_the_gram_matrix_is_that_in_the_parameters(classes: int, kappa: float) -> None:
    problem = classifier(20, classes)
    model = LinearisedClassifier(*dual(*problem))
    w = model.proximal(kappa)
    lowest, d = least(*problem, kappa)
    assert model.loss(w) + kappa / 2 * w @ w == pytest.approx(lowest, rel=1e-9)
    assert w @ w == pytest.approx(d @ d, rel=1e-4)


def test_derivatives_are_those_of_differences() -> None:
    model, step = LinearisedClassifier(*dual(*classifier(12, 3))), 1e-5
    random = np.random.default_rng(0)
    w, v = random.standard_normal((2, model.size))
    here, ahead, behind = model.at(w), model.at(w + step * v), model.at(w - step * v)
    assert here.gradient @ v == pytest.approx((ahead.loss - behind.loss) / (2 * step), rel=1e-7)
    np.testing.assert_allclose(here.hessian @ v, (ahead.gradient - behind.gradient) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rest", [0.9, 0.5, 0.2])
def test_the_envelope_meets_the_target_and_t3_on_the_quadratic_there_is_m1(classes: int, rest: float) -> None:
    problem = dual(*classifier(24, classes))
    target = rest * gradient_spectrum(*problem).loss
    point = predict_on_path(*problem, target).point
    assert point is not None
    assert point.envelope == pytest.approx(target, rel=1e-8)
    there = predict_threshold(point.quadratic, target)
    assert there.kappa == pytest.approx(point.kappa, rel=1e-6)
    assert there.k == pytest.approx(point.m1, rel=1e-6)


def test_a_small_improvement_is_predicted_as_the_quadratic_does() -> None:
    problem = dual(*classifier(24, 2))
    spectrum = gradient_spectrum(*problem)
    target = 0.9999 * spectrum.loss
    predicted, quadratic = predict_on_path(*problem, target).point, predict_threshold(spectrum, target)
    assert predicted is not None
    for k in (predicted.m0, predicted.m1, predicted.gm):
        assert k == pytest.approx(quadratic.k, rel=1e-3)


def test_the_path_falls_and_begins_beside_the_quadratic() -> None:
    problem = dual(*classifier(24, 2))
    spectrum = gradient_spectrum(*problem)
    path = moreau_path(*problem, 0.1)
    envelopes = [point.envelope for point in path]
    assert (np.diff(envelopes) < 0).all()
    assert (np.diff([point.gm for point in path]) > 0).all()
    assert envelopes[-1] < 0.1 < envelopes[-2]
    assert envelopes[0] == pytest.approx(expected_loss(spectrum, path[0].m0), rel=1e-3)
    assert all(point.loss < point.envelope for point in path)


@pytest.mark.parametrize("rest", [0.7, 0.35])
def test_explicit_random_subspaces_lie_between_gordon_and_the_path(rest: float) -> None:
    problem = classifier(32, 2)
    target = rest * gradient_spectrum(*dual(*problem)).loss
    exact = measured(*problem, target, seeds=8)
    mean, error = exact.mean(), exact.std(ddof=1) / math.sqrt(len(exact))
    bound = gordon_threshold(*dual(*problem), target)
    predicted = predict_on_path(*dual(*problem), target).point
    larsen = larsen_threshold(gradient_spectrum(*dual(*problem)), target)
    assert bound is not None
    assert predicted is not None
    assert larsen is not None
    # For a convex loss the escape theorem is sharp, up to the square root of k.
    assert bound.value == pytest.approx(mean, abs=3 * math.hypot(error, bound.stderr) + 0.5)
    assert abs(math.log(predicted.m1 / mean)) < 0.35
    assert predicted.m0 > predicted.gm > predicted.m1
    assert larsen > 1.3 * mean


def test_gordon_of_a_half_space_is_one_dimension_less_than_its_border() -> None:
    # One example of two classes: {L <= target} is a half-space, whose cone is met by half of the lines.
    estimate = gordon_threshold(np.eye(1), np.zeros((1, 2)), np.array([1]), 0.5, draws=60)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.5, abs=4 * estimate.stderr)  # E max(-h, 0)^2
    assert estimate.stderr < 0.2


def test_a_target_without_a_point_is_said_and_not_numbered() -> None:
    problem = dual(*classifier(16, 2))
    met = predict_on_path(*problem, 10.0)
    assert (met.k, met.censored) == (None, "below")
    assert gordon_threshold(*problem, 10.0) is None
    # Two equal examples of opposite labels: no point does better than log 2 on them.
    clash = (np.ones((2, 2)), np.zeros((2, 2)), np.array([0, 1]))
    unreachable = predict_on_path(*clash, 0.6)
    assert (unreachable.k, unreachable.censored) == (None, "above")
    assert "target 0.6 <" in unreachable.reason
    nothing = predict_on_path(np.zeros((2, 2)), np.zeros((2, 2)), np.array([0, 1]), 0.6)
    assert (nothing.k, nothing.censored) == (None, "above")
    bound = predict_on_path(*problem, 0.05)
    assert bound.censored == "above"
    assert bound.k is not None
    assert "rank ceiling 16" in bound.reason


def test_larsen_is_never_below_t3_and_has_no_answer_where_there_is_none() -> None:
    spectrum = gradient_spectrum(*dual(*classifier(24, 2)))
    for rest in (0.95, 0.8, 0.6):
        ours, theirs = predict_threshold(spectrum, rest * spectrum.loss).k, larsen_threshold(spectrum, rest * spectrum.loss)
        assert ours is not None
        assert theirs is not None
        assert theirs >= ours
    assert larsen_threshold(spectrum, 2 * spectrum.loss) is None
    assert larsen_threshold(spectrum, -10.0) is None


def test_the_interval_holds_the_prediction() -> None:
    problem = dual(*classifier(32, 2))
    target = 0.8 * gradient_spectrum(*problem).loss
    predicted, interval = predict_on_path_with_interval(*problem, target, resamples=10)
    assert predicted.k is not None
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < predicted.k < interval.high
    assert interval.k_half is not None
    assert interval.k_half < predicted.k
    assert predict_on_path_with_interval(*problem, 10.0)[1].low is None
    with pytest.raises(ValueError, match="at least 4 examples"):
        predict_on_path_with_interval(*dual(*classifier(3, 2)), 0.1)
