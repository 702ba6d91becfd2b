"""The proximal path against closed forms, and in a valley that a falling ridge finds late."""

import numpy as np
import pytest
import torch
from torch import Tensor

from landscape import Objective
from landscape.proximal import CLOSE, MOST_POINTS, proximal_path, proximal_point


def objective(f, size: int) -> Objective:
    """A function of z as an objective with one batch."""
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
        assert point.residual < CLOSE
        assert point.envelope == pytest.approx(exact, abs=CLOSE**2 * (1 - exact) + 1e-12)
    assert points[-1].envelope < 1 - 0.9 * (1 - lowest) <= points[-2].envelope


def test_a_tight_point_is_the_ridge_solution() -> None:
    lam, g = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    origin = torch.tensor([0.3, 0.1], dtype=torch.float64)
    found = proximal_point(quadratic(lam, g), 0.7, origin, torch.zeros(2, dtype=torch.float64))
    expected = -(g + lam * origin) / (lam + 0.7)
    assert torch.allclose(found.d, expected, atol=0.1)


def test_going_back_keeps_the_valley_that_a_falling_ridge_finds_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wells: from 0 the ridge holds d in the shallow one, while the deep one has long had the lower envelope."""
    monkeypatch.setattr("landscape.proximal.DOWN", 2.0)

    def wells(z: Tensor) -> Tensor:
        x = z[0]
        return 1 - 0.1 * torch.exp(-((x - 0.3) ** 2) / 0.02) - 0.8 * torch.exp(-((x - 2.0) ** 2) / 0.5) + 0.02 * x.square()

    points = proximal_path(objective(wells, 1), 0.25)
    grid = np.linspace(-1, 4, 20001)
    values = np.array([float(wells(torch.tensor([x], dtype=torch.float64))) for x in grid])
    exact = [float((values + point.kappa / 2 * grid**2).min()) for point in points]
    found = [point.envelope for point in points]
    deep = [i for i, point in enumerate(points) if float(point.d[0]) > 1]
    assert len(deep) >= 2
    for i in deep:
        assert found[i] == pytest.approx(exact[i], abs=0.01)
    forward = proximal_point(objective(wells, 1), points[deep[0]].kappa, torch.zeros(1, dtype=torch.float64), points[deep[0] - 1].d)
    assert forward.envelope >= found[deep[0]] - 1e-9


def test_a_flat_origin_has_no_path_and_infinity_is_an_error() -> None:
    lam = torch.ones(3, dtype=torch.float64)
    assert proximal_path(quadratic(lam, torch.zeros(3, dtype=torch.float64)), 0.5) == []
    with pytest.raises(ValueError, match="not both finite"):
        proximal_path(quadratic(lam, torch.full((3,), float("inf"), dtype=torch.float64)), 0.5)


def test_a_convex_path_ends_with_the_first_point_that_its_steps_do_not_reach() -> None:
    lam = torch.arange(1, 41, dtype=torch.float64) ** -3.0
    g = lam * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, short = (proximal_path(quadratic(lam, g), 1 - 0.499 * float((g * g / lam).sum()), steps=n, convex=True) for n in (150, 4))
    assert len(short) < len(whole)
    assert short[-1].residual > CLOSE
    assert all(point.residual < CLOSE for point in [*short[:-1], *whole])


def test_a_target_below_the_minimum_ends_the_path() -> None:
    lam, g = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    points = proximal_path(quadratic(lam, g, loss=2.0), 0.5)  # whose minimum is 1
    assert len(points) == MOST_POINTS
    assert points[-1].envelope == pytest.approx(1.0, abs=1e-2)
