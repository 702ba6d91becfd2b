"""Paths over two valleys that a ridge divides, open at one side."""

import math

import numpy as np
import pytest
import torch

from landscape import Objective, loss_barrier, low_loss_curve, straight_line

START, END = (torch.tensor([x, 0.0], dtype=torch.float64) for x in (-1.0, 1.0))


def ridge(z: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Return the loss of a ring-shaped valley of radius 1, whose middle has height 1."""
    return (z @ z - 1) ** 2


RING = Objective(ridge, lambda out, batch: (out * len(batch), float(len(batch))), [torch.ones(2)], 2, torch.float64)


def losses(path: object, places: np.ndarray) -> np.ndarray:
    return np.array([[RING.loss(path.at(float(t)))] * 2 for t in places])  # type: ignore[attr-defined]


PLACES = np.linspace(0, 1, 21)


def test_the_barrier_of_the_straight_line_is_the_height_of_the_ridge() -> None:
    result = loss_barrier(losses(straight_line(START, END), PLACES), np.ones(2), PLACES)
    assert result.value == pytest.approx(1)
    assert result.stderr == pytest.approx(0, abs=1e-12)


def test_a_trained_curve_goes_round_the_ridge_and_keeps_its_ends() -> None:
    away = START + torch.tensor([0.0, 0.05], dtype=torch.float64)  # off the symmetry, where the gradient of the bend is zero
    curve = low_loss_curve(RING, away, END, steps=300)
    assert torch.equal(curve.at(0.0), away)
    assert torch.equal(curve.at(1.0), END)
    assert loss_barrier(losses(curve, PLACES), np.ones(2), PLACES).value < 0.1
    assert torch.equal(curve.bend, low_loss_curve(RING, away, END, steps=300).bend)
    assert not torch.equal(curve.bend, low_loss_curve(RING, away, END, steps=300, seed=1).bend)


def test_below_the_line_there_is_no_barrier_and_ends_of_unequal_height_are_allowed_for() -> None:
    values = np.stack([PLACES**2, PLACES**2], axis=1)
    assert loss_barrier(values, np.ones(2), PLACES).value == 0
    bump = values + np.where(PLACES == 0.5, 0.35, 0.0)[:, None]
    assert loss_barrier(bump, np.ones(2), PLACES).value == pytest.approx(0.35 - 0.25)


def test_the_error_of_a_barrier_is_its_spread_over_draws_of_examples() -> None:
    random = np.random.default_rng(0)
    heights = random.gamma(2.0, size=5000)
    offsets = 10 * random.standard_normal(5000)  # an example's own loss, which cancels
    shape = np.sin(np.pi * PLACES)

    def of(chosen: np.ndarray) -> tuple[float, float]:
        result = loss_barrier(offsets[chosen] + np.outer(shape, heights[chosen]), np.ones(len(chosen)), PLACES)
        return result.value, result.stderr

    drawn = np.array([of(random.integers(0, 5000, 100)) for _ in range(300)])
    assert drawn[:, 1].mean() == pytest.approx(drawn[:, 0].std(), rel=0.15)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        loss_barrier(np.zeros((3, 2)), np.ones(2), np.array([0.0, 0.5, 0.9]))
    with pytest.raises(ValueError, match="no curve"):
        low_loss_curve(RING, START, START)
    assert math.isinf(loss_barrier(np.array([[0.0], [np.nan], [0.0]]), np.ones(1), np.array([0, 0.5, 1])).value)
