"""The proximal path against closed forms, and in a valley that a falling ridge finds late."""

import numpy as np
import pytest
import torch
from torch import Tensor

from landscape import Objective
from landscape.prediction.proximal import LOOSE_TOLERANCE, MAX_POINTS, TOLERANCE, proximal_path, proximal_point


def objective(f, size: int) -> Objective:
    """Return a function of z as an objective with one batch."""
    return Objective(lambda z, batch: f(z), lambda outputs, batch: (outputs, 1.0), [None], size, dtype=torch.float64)


def quadratic(lam: Tensor, g: Tensor, loss: float = 1.0) -> Objective:
    return objective(lambda z: loss + g @ z + (lam * z * z).sum() / 2, len(lam))


def test_envelopes_of_a_quadratic_are_its_closed_form() -> None:
    lam = torch.arange(1, 41, dtype=torch.float64) ** -1.5
    g = lam * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lowest = 1 - float((g * g / lam).sum()) / 2
    points = proximal_path(quadratic(lam, g), 1 - 0.9 * (1 - lowest))
    assert len(points) > 3
    for point in points:
        exact = 1 - float((g * g / (lam + point.kappa)).sum()) / 2
        assert point.residual < TOLERANCE
        assert point.envelope == pytest.approx(exact, abs=TOLERANCE**2 * (1 - exact) + 1e-12)
    assert points[-1].envelope < 1 - 0.9 * (1 - lowest) <= points[-2].envelope


def test_a_tight_point_is_the_ridge_solution() -> None:
    lam, g = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    origin = torch.tensor([0.3, 0.1], dtype=torch.float64)
    outcome = proximal_point(quadratic(lam, g), 0.7, origin, torch.zeros(2, dtype=torch.float64))
    expected = -(g + lam * origin) / (lam + 0.7)
    assert torch.allclose(outcome.d, expected, atol=0.1)


def test_going_back_keeps_the_valley_that_a_falling_ridge_finds_late() -> None:
    """Test a gentle slope that ends in a well: the ridge keeps d on the slope after the well has the lower envelope."""

    def slope(z: Tensor) -> Tensor:
        return 1 - 0.05 * z[0] - 0.8 * torch.exp(-((z[0] - 4.0) ** 2) / 0.5)

    there, back = (proximal_path(objective(slope, 1), 0.25, convex=convex) for convex in (True, False))
    assert [point.kappa for point in there] == [point.kappa for point in back]
    assert float(there[0].d[0]) < 1 < float(back[0].d[0])
    grid = np.linspace(-1, 6, 20001)
    values = np.array([float(slope(torch.tensor([x], dtype=torch.float64))) for x in grid])
    for point in back:
        assert point.envelope == pytest.approx(float((values + point.kappa / 2 * grid**2).min()), abs=0.01)
    assert there[0].envelope > back[0].envelope + 0.1


def test_a_flat_origin_has_no_path_and_infinity_is_an_error() -> None:
    lam = torch.ones(3, dtype=torch.float64)
    assert proximal_path(quadratic(lam, torch.zeros(3, dtype=torch.float64)), 0.5) == []
    with pytest.raises(ValueError, match="must be finite"):
        proximal_path(quadratic(lam, torch.full((3,), float("inf"), dtype=torch.float64)), 0.5)


def test_a_convex_path_ends_where_its_steps_come_no_further() -> None:
    lam = torch.arange(1, 41, dtype=torch.float64) ** -3.0
    g = lam * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, short = (proximal_path(quadratic(lam, g), 1 - 0.499 * float((g * g / lam).sum()), max_iter=n, convex=True) for n in (150, 4))
    assert len(short) < len(whole)
    assert short[-1].residual <= LOOSE_TOLERANCE
    assert all(point.residual < TOLERANCE for point in [*short[:-1], *whole])


def test_a_target_below_the_minimum_ends_the_path() -> None:
    lam, g = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    points = proximal_path(quadratic(lam, g, loss=2.0), 0.5)  # whose minimum is 1
    assert len(points) == MAX_POINTS
    assert points[-1].envelope == pytest.approx(1.0, abs=1e-2)
