"""Widths of sub-level sets against the exact maximum over an ellipsoid's cone, a ball's closed form, and sets that are not cones."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from landscape import Objective, angular_width, viewpoints_on_sphere
from landscape.spectra.krylov import FloatArray
from landscape.surfaces.basin import unit_rays

LEVEL = 0.1


def objective(loss, size: int) -> Objective[int]:
    return Objective(lambda z, _: loss(z), lambda out, _: (out, 1.0), [0], size, torch.float64)


def ellipsoid(size: int, power: float) -> tuple[FloatArray, torch.Tensor, Objective[int]]:
    """(matrix, centre, the quadratic about it) with eigenvalues 10 i^-power."""
    random = np.random.default_rng(3)
    rotation = np.linalg.qr(random.standard_normal((size, size)))[0]
    matrix = rotation @ np.diag(10 * np.arange(1.0, size + 1) ** -power) @ rotation.T
    centre, h = torch.as_tensor(random.standard_normal(size)), torch.as_tensor(matrix)
    return matrix, centre, objective(lambda z: (z - centre) @ h @ (z - centre) / 2, size)


def highest_cosine(matrix: FloatArray, ahead: FloatArray, h: FloatArray) -> float:
    """max h'd / |d| over the cone of {d: (d - ahead)'H(d - ahead) / 2 <= LEVEL}, which does not hold 0; |h| = 1.

    Some t d is in the set where d'H ahead >= 0 and d'Qd <= 0, Q = (ahead'H ahead - 2 LEVEL) H - (H ahead)(H ahead)'. Unless h is within,
    the maximum is on the cone's surface and stationary: d = (s + Q)^-1 h up to its sign, for one of all s with d'Qd = 0.
    """
    pole = matrix @ ahead
    surface = (ahead @ pole - 2 * LEVEL) * matrix - np.outer(pole, pole)
    if h @ surface @ h <= 0 and pole @ h >= 0:
        return 1.0
    values, vectors = np.linalg.eigh(surface)
    along = vectors.T @ h

    def level(s: float) -> float:
        with np.errstate(divide="ignore"):
            return float((values * (along / (s + values)) ** 2).sum())

    far = 1e6 * np.abs(values).max()
    poles = np.array([-far, *np.sort(-values), far])
    result: list[float] = []
    for left, right in itertools.pairwise(poles):
        places = left + (right - left) * np.concatenate([np.geomspace(1e-13, 0.5, 200), 1 - np.geomspace(0.5, 1e-13, 200)[1:]])
        heights = [level(place) for place in places]
        for i in np.flatnonzero(np.diff(np.sign(heights))):
            d = vectors @ (along / (brentq(level, places[i], places[i + 1], xtol=1e-300) + values))
            d *= np.sign(d @ pole)
            result.append(float(h @ d) / float(np.linalg.norm(d)))
    return max(result)


CONES = [(8, 0.5, 1.0), (64, 2.0, 1.0), *(pytest.param(64, 1.0, distance, marks=pytest.mark.long) for distance in (1.0, 5.0))]


@pytest.mark.parametrize(("size", "power", "distance"), CONES)
def test_each_draws_maximum_is_that_of_the_ellipsoids_cone(size, power, distance):
    matrix, centre, loss = ellipsoid(size, power)
    viewpoints = viewpoints_on_sphere(centre, distance, 12, seed=1)
    result = angular_width(loss, centre, LEVEL, viewpoints, steps=200)
    truth = [
        1.0 if loss.loss(place) <= LEVEL else highest_cosine(matrix, (centre - place).numpy(), h.numpy())
        for h, place in zip(unit_rays(centre, 12, 0, "angular"), viewpoints, strict=True)
    ]
    np.testing.assert_allclose(result.cosines, truth, atol=1e-4)
    assert (result.cosines <= np.array(truth) + 1e-9).all()


def test_fewer_steps_give_a_lower_bound_and_no_draw_falls_below_the_start():
    matrix, centre, loss = ellipsoid(64, 1.0)
    places = viewpoints_on_sphere(centre, 1.0, 8, seed=1)
    few, many = (angular_width(loss, centre, LEVEL, places, steps) for steps in (8, 100))
    pairs = list(zip(unit_rays(centre, 8, 0, "angular"), places, strict=True))
    starts = [float(h @ (centre - place)) for h, place in pairs]
    assert (few.cosines >= np.array(starts) - 1e-12).all()
    assert few.width.value < many.width.value
    truth = [
        highest_cosine(matrix, (centre - place).numpy(), h.numpy())
        for h, place in zip(unit_rays(centre, 8, 0, "angular"), places, strict=True)
    ]
    assert (few.cosines <= np.array(truth) + 1e-9).all()


@pytest.mark.long
def test_the_width_of_a_ball_is_that_of_a_circular_cone():
    """Half angle a = asin(radius / distance): h at an angle t to the axis reaches cos(max(t - a, 0)), and t has density ~ sin^(k-2)."""
    size, radius, distance = 30, 0.5, 1.0
    centre = torch.linspace(-1, 1, size, dtype=torch.float64)
    loss = objective(lambda z: (z - centre) @ (z - centre), size)
    result = angular_width(loss, centre, radius**2, [centre + distance * torch.eye(size, dtype=torch.float64)[0]] * 60, steps=60)
    angle = math.asin(radius / distance)
    mass = quad(lambda t: math.sin(t) ** (size - 2), 0, math.pi)[0]
    cosine = quad(lambda t: math.cos(max(t - angle, 0.0)) * math.sin(t) ** (size - 2), 0, math.pi, points=[angle])[0] / mass
    lengths = np.linalg.norm(np.random.default_rng(0).standard_normal((200_000, size)), axis=1)
    truth = lengths.mean() * cosine
    assert abs(result.width.value - truth) < 3 * result.width.stderr
    assert 0 < result.width.stderr < 0.1 * truth
    assert abs(result.dimension.value - truth**2) < 3 * result.dimension.stderr
    # A half space beyond the viewpoint: half of all directions, whose width is known.
    half = objective(lambda z: z[0], size)
    normal = torch.eye(size, dtype=torch.float64)[0]
    seen = angular_width(half, -normal, -1e-6, [0 * normal] * 40, steps=60)
    draws = np.random.default_rng(1).standard_normal((200_000, size))
    across = np.linalg.norm(np.where(np.arange(size) == 0, np.minimum(draws, 0), draws), axis=1).mean()
    assert abs(seen.width.value - across) < 3 * seen.width.stderr + 1e-2


@pytest.mark.long
def test_the_standard_error_is_the_spread_over_seeds():
    centre = torch.zeros(20, dtype=torch.float64)
    loss = objective(lambda z: z @ z, 20)
    for distance in (5.0, 0.4):
        result = [angular_width(loss, centre, LEVEL, viewpoints_on_sphere(centre, distance, 4, seed), 40, seed) for seed in range(40)]
        widths, errors = np.array([[each.width.value, each.width.stderr] for each in result]).T
        assert np.sqrt((errors**2).mean()) == pytest.approx(widths.std(ddof=1), rel=0.35)
        plain = np.std([each.cosines.mean() for each in result]) * math.sqrt(20)
        assert widths.std() < 0.6 * plain


def test_from_within_the_set_all_directions_lead_into_it():
    _, centre, loss = ellipsoid(20, 1.0)
    result = angular_width(loss, centre, LEVEL, [centre] * 3)
    assert result.inside == 3
    assert (result.cosines == 1).all()
    lengths = np.linalg.norm(np.random.default_rng(0).standard_normal((400_000, 20)), axis=1)
    assert result.width.value == pytest.approx(lengths.mean(), rel=1e-3)
    assert result.width.stderr == 0
    assert result.dimension.value == pytest.approx(20 - 0.5, abs=0.02)


def test_of_two_valleys_the_other_one_is_found_from_the_side_of_the_draw():
    """Nothing leads from the start's valley to one that lies all along the draw."""
    (h,) = unit_rays(torch.zeros(10, dtype=torch.float64), 1, 0, "angular")
    start = torch.eye(10, dtype=torch.float64)[0]
    loss = objective(lambda z: 1 - torch.exp(-20 * (z - start) @ (z - start)) - torch.exp(-4 * (z - h) @ (z - h)), 10)
    result = angular_width(loss, start, 0.5, [torch.zeros(10, dtype=torch.float64)])
    assert result.cosines[0] == pytest.approx(1, abs=1e-6)


def test_where_there_is_no_loss_the_search_turns_back():
    centre = torch.linspace(0, 1, 10, dtype=torch.float64)
    broken = objective(lambda z: (z - centre) @ (z - centre) + torch.where((z - centre).norm() > 0.4, math.nan, 0.0), 10)
    result = angular_width(broken, centre, LEVEL, viewpoints_on_sphere(centre, 0.8, 3))
    whole = angular_width(
        objective(lambda z: (z - centre) @ (z - centre), 10), centre, LEVEL, viewpoints_on_sphere(centre, 0.8, 3), steps=200
    )
    assert np.isfinite(result.cosines).all()
    assert (result.cosines <= whole.cosines + 1e-6).all()


def test_a_start_outside_the_set_is_refused():
    _, centre, loss = ellipsoid(5, 1.0)
    with pytest.raises(ValueError, match="must be below the level"):
        angular_width(loss, centre + 10, LEVEL, [centre])


def test_more_viewpoints_keep_the_first_ones():
    centre = torch.zeros(4, dtype=torch.float64)
    few, many = viewpoints_on_sphere(centre, 2.0, 2), viewpoints_on_sphere(centre, 2.0, 5)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))
    assert all(float(each.norm()) == pytest.approx(2) for each in many)
