"""Sharpness, width and roughness on quadratics, where each has a closed form."""

import math

import numpy as np
import pytest
import torch

from landscape import DenseOperator, Objective, average_sharpness, basin_width, hessian_ratio, roughness, worst_case_sharpness

SIZE = 30
RANDOM = np.random.default_rng(11)
ROTATION = torch.as_tensor(np.linalg.qr(RANDOM.standard_normal((SIZE, SIZE)))[0])
EIGENVALUES = torch.as_tensor(np.arange(1.0, SIZE + 1) ** -1.0)
H = ROTATION @ torch.diag(EIGENVALUES) @ ROTATION.T
CENTRE = torch.as_tensor(RANDOM.standard_normal(SIZE))


def objective(h: torch.Tensor = H, g: torch.Tensor | None = None) -> Objective[torch.Tensor]:
    """1 + g'd + d'Hd / 2 about CENTRE, in two batches of unequal weight."""

    def outputs(z: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        d = z - CENTRE[: len(h)]
        return 1 + (0 if g is None else g @ d) + d @ h @ d / 2

    return Objective(
        outputs, lambda out, batch: (out * len(batch), float(len(batch))), [torch.ones(3), torch.ones(1)], len(h), torch.float64
    )


def test_average_sharpness_is_the_trace_whatever_the_slope() -> None:
    for g in (None, torch.ones(SIZE, dtype=torch.float64)):
        result = average_sharpness(objective(g=g).loss, CENTRE, 0.5, 400)
        truth = 0.25 * float(EIGENVALUES.sum()) / (2 * SIZE)
        assert abs(result.value - truth) < 3 * result.stderr
        assert 0 < result.stderr < 0.1 * truth


def test_worst_sharpness_is_the_largest_eigenvalue_and_a_lower_bound() -> None:
    result = worst_case_sharpness(objective(), CENTRE, 2.0, steps=40)
    assert result.rise == pytest.approx(4 * 1.0 / 2, rel=1e-6)
    assert float(result.displacement.norm()) == pytest.approx(2)
    assert (result.rises <= 2 + 1e-12).all()
    assert worst_case_sharpness(objective(), CENTRE, 2.0, steps=2).rise < result.rise


def test_where_the_loss_falls_all_around_nothing_rises() -> None:
    result = worst_case_sharpness(objective(-H), CENTRE, 1.0)
    assert result.rise == 0
    assert not result.displacement.any()


def test_a_loss_that_is_no_number_has_no_sharpness() -> None:
    broken = objective(torch.full((SIZE, SIZE), math.nan, dtype=torch.float64))
    assert math.isnan(worst_case_sharpness(broken, CENTRE, 1.0).rise)
    assert math.isnan(average_sharpness(broken.loss, CENTRE, 1.0, 3).value)


def test_widths_are_those_of_the_ellipsoid() -> None:
    result = basin_width(objective().loss, CENTRE, 0.1, 100.0, 300)
    draws = np.random.default_rng(0).standard_normal((200_000, SIZE))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    truth = np.sqrt(0.2 / (draws**2 @ EIGENVALUES.numpy())).mean()
    assert abs(result.mean.value - truth) < 3 * result.mean.stderr
    assert result.censored == 0
    one = basin_width(objective(torch.tensor([[4.0]], dtype=torch.float64)).loss, CENTRE[:1], 0.5, 10.0, 3)
    assert one.widths == pytest.approx(0.5, rel=1e-5)


def test_a_level_that_is_never_met_is_censored_and_one_met_by_some_bounds_from_below() -> None:
    never = basin_width(objective().loss, CENTRE, 1e6, 1.0, 5)
    assert never.censored == 5
    assert math.isnan(never.mean.value)
    some = basin_width(objective().loss, CENTRE, 0.1, 1.2, 50)
    assert 0 < some.censored < 50
    assert some.mean.value < basin_width(objective().loss, CENTRE, 0.1, 100.0, 50).mean.value


def test_what_is_not_finite_is_beyond_the_basin() -> None:
    result = basin_width(lambda z: math.nan if float((z - CENTRE).norm()) > 0.3 else 0.0, CENTRE, 1.0, 10.0, 3)
    assert result.widths == pytest.approx(0.3, rel=1e-4)


X = np.linspace(-1, 1, 201)


def rippled(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slices of `count` examples about 2 x^2 + .1 sin 30 x (own level, slope, bend, ripple), their quadratics and weights."""
    level, slope, bend, ripple = random.standard_normal((4, count))
    weights = random.integers(1, 4, count).astype(float)
    model = weights * (3 * level + slope * X[:, None] + (2 + 0.5 * bend) * X[:, None] ** 2)
    return model + weights * 0.1 * (1 + 0.8 * ripple) * np.sin(30 * X[:, None]), model, weights


def test_roughness_is_zero_on_the_model_and_grows_with_the_ripple() -> None:
    values, model, weights = rippled(np.random.default_rng(0), 40)
    flat = roughness(model, model, weights)
    assert (flat.value, flat.stderr) == (0, 0)
    model = np.outer(2 * X**2, weights)
    result = roughness(model + np.outer(0.1 * np.sin(30 * X), weights), model, weights)
    assert result.value == pytest.approx(0.1 / math.sqrt(2) / 2.0, rel=0.1)
    assert result.stderr == pytest.approx(0, abs=1e-12)
    assert math.isnan(roughness(np.ones((5, 3)), np.ones((5, 3)), np.ones(3)).value)
    holed = np.where(X[:, None] > 0.9, np.nan, model)
    assert roughness(holed, model, weights).value == 0
    single = roughness(values[:, :1], model[:, :1], weights[:1])
    assert single.value > 0 and math.isnan(single.stderr)


def test_what_examples_share_over_all_points_is_no_error_of_roughness() -> None:
    values, model, weights = rippled(np.random.default_rng(1), 40)
    shift = weights * 100 * np.random.default_rng(2).standard_normal(40)
    plain, shifted = roughness(values, model, weights), roughness(values + shift, model + shift, weights)
    assert shifted.value == pytest.approx(plain.value, rel=1e-9)
    assert shifted.stderr == pytest.approx(plain.stderr, rel=1e-6)


@pytest.mark.parametrize("groups", [None, 16])
def test_intervals_of_roughness_cover_that_of_all_examples(groups: int | None) -> None:
    ripple, quadratic = 0.1 * np.sin(30 * X), 2 * X**2
    truth = math.sqrt((ripple**2).mean()) / np.ptp(quadratic + ripple)
    result = []
    for seed in range(300):
        parts = rippled(np.random.default_rng([7, seed]), 64)
        if groups:
            parts = tuple(each.reshape(*each.shape[:-1], groups, -1).sum(-1) for each in parts)
        result.append(roughness(*parts))
    covered = np.mean([low <= truth <= high for low, high in (each.interval(0.95) for each in result)])
    assert 0.95 - 0.04 < covered < 0.95 + 0.04  # three standard errors
    spread = np.std([each.value for each in result])
    assert np.sqrt(np.mean([each.stderr**2 for each in result])) == pytest.approx(spread, rel=0.15)


def test_of_a_loss_that_rises_nowhere_the_worst_is_that_of_the_centre() -> None:
    """Test a maximum with a noisy direction: a loss lower than at the centre is never reported."""
    noise = torch.as_tensor(np.random.default_rng(5).standard_normal(SIZE))
    noise /= noise.norm()
    for dtype in (torch.float64, torch.float32):

        def hill(z: torch.Tensor, batch: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            d = (z - CENTRE.to(dtype)).to(dtype)
            across = noise.to(dtype) @ d
            return 3 - (d @ d) ** 2 - across**2 * (2 + torch.sin(50 * across))

        top = Objective(hill, lambda out, batch: (out, 1.0), [torch.ones(1)], SIZE, dtype)
        for radius in (1e-6, 1e-2, 1.0, 10.0):
            result = worst_case_sharpness(top, CENTRE.to(dtype), radius, steps=6)
            assert 0 <= result.rise <= 1e-6
            assert top.loss(CENTRE.to(dtype) + result.displacement) >= top.loss(CENTRE.to(dtype))
            assert (result.rises <= 1e-6).all()
        beside = CENTRE + 0.1 * noise
        result = worst_case_sharpness(top, beside.to(dtype), 0.1, steps=20)
        assert top.loss(beside.to(dtype) + result.displacement) >= top.loss(beside.to(dtype))


def test_the_ratio_of_extreme_eigenvalues_tells_how_far_from_convex() -> None:
    def of(values: list[float]) -> tuple[float, float]:
        rotation = torch.as_tensor(np.linalg.qr(np.random.default_rng(0).standard_normal((len(values),) * 2))[0])
        return hessian_ratio(DenseOperator(rotation @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ rotation.T))

    assert of([4.0, 1.0, -2.0, 0.5]) == (pytest.approx(0.5), pytest.approx(0, abs=1e-9))
    assert of([4.0, 1.0, 2.0])[0] == 0
    assert math.isnan(of([0.0, 0.0])[0])


def test_wrong_use_is_refused() -> None:
    for wrong in (
        lambda: average_sharpness(objective().loss, CENTRE, 0.0, 3),
        lambda: worst_case_sharpness(objective(), CENTRE, -1.0),
        lambda: basin_width(objective().loss, CENTRE, 0.0, 1.0, 3),
        lambda: basin_width(objective().loss, CENTRE, 1.0, math.inf, 3),
    ):
        with pytest.raises(ValueError, match="must be positive"):
            wrong()
    with pytest.raises(ValueError, match="rays must be at least 1"):
        average_sharpness(objective().loss, CENTRE, 1.0, 0)
