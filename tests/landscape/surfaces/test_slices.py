"""Slices of a quadratic that is not symmetric in x and y, whose every value is known."""

import math

import numpy as np
import pytest
import torch

from landscape import Hessian, Objective, evaluate_slice, quadratic_model, random_directions, refined_axes, step_rounding, symmetric_axis
from landscape.surfaces.slices import Evaluate

SIZE = 12
RANDOM = np.random.default_rng(3)
H = torch.as_tensor(RANDOM.standard_normal((SIZE, SIZE)))
H = H @ H.T
G = torch.as_tensor(RANDOM.standard_normal(SIZE))
CENTRE = torch.as_tensor(RANDOM.standard_normal(SIZE))
DIRECTIONS = random_directions(SIZE, 2, 0, torch.float64)
AXES = (symmetric_axis(2.0, 5), symmetric_axis(0.7, 9))


def loss(z: torch.Tensor) -> float:
    d = z - CENTRE
    return float(1.5 + G @ d + d @ H @ d / 2)


def test_a_slice_of_a_quadratic_is_its_closed_form_in_value_and_orientation() -> None:
    sliced = evaluate_slice(loss, CENTRE, DIRECTIONS, AXES)
    assert sliced.numbers.shape == (5, 9, 1)
    along = (DIRECTIONS.T @ G).numpy()
    form = (DIRECTIONS.T @ H @ DIRECTIONS).numpy()
    for i, x in enumerate(AXES[0]):
        for j, y in enumerate(AXES[1]):
            expected = 1.5 + along @ [x, y] + np.array([x, y]) @ form @ [x, y] / 2
            assert abs(sliced.numbers[i, j, 0] - expected) < 1e-12 * max(1, abs(expected))
    model = quadratic_model(1.5, G, H @ DIRECTIONS, DIRECTIONS, AXES)
    np.testing.assert_allclose(model, sliced.numbers[..., 0], rtol=1e-12, atol=1e-12)


def test_in_three_dimensions_values_and_orientation_are_those_of_the_closed_form_and_planes_lie_in_it_bitwise() -> None:
    directions, axes = (
        random_directions(SIZE, 3, 0, torch.float64),
        (symmetric_axis(2.0, 3), symmetric_axis(0.7, 5), symmetric_axis(1.1, 7)),
    )
    sliced = evaluate_slice(loss, CENTRE, directions, axes).numbers[..., 0]
    assert sliced.shape == (3, 5, 7)
    np.testing.assert_allclose(quadratic_model(1.5, G, H @ directions, directions, axes), sliced, rtol=1e-12, atol=1e-12)
    assert sliced[0, 4, 1] == pytest.approx(loss(CENTRE + directions @ torch.tensor([axes[0][0], axes[1][4], axes[2][1]])), rel=1e-12)
    assert np.array_equal(sliced[:, :, 3], evaluate_slice(loss, CENTRE, directions[:, :2], axes[:2]).numbers[..., 0])


def test_the_quadratic_of_an_objective_touches_it_to_second_order() -> None:
    target = torch.tensor([0, 2, 1])
    inputs = torch.as_tensor(RANDOM.standard_normal((3, 4)))

    def losses(z: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return inputs.tanh() @ z.view(4, 3)

    objective = Objective(
        losses, lambda out, _: (torch.nn.functional.cross_entropy(out, target, reduction="sum"), 3.0), [inputs], SIZE, torch.float64
    )
    model_of = {}
    for reach in (1e-2, 1e-3):
        axes = (symmetric_axis(reach, 3), symmetric_axis(reach, 3))
        products = Hessian(objective, CENTRE).matmat(DIRECTIONS)
        model = quadratic_model(objective.loss(CENTRE), objective.gradient(CENTRE), products, DIRECTIONS, axes)
        model_of[reach] = np.abs(model - evaluate_slice(objective.loss, CENTRE, DIRECTIONS, axes).numbers[..., 0]).max()
    assert 300 < model_of[1e-2] / model_of[1e-3] < 3000  # third order: 1,000


def test_a_plane_on_its_axes_is_the_line_bitwise_and_the_centre_is_the_centre() -> None:
    plane = evaluate_slice(loss, CENTRE, DIRECTIONS, AXES).numbers[..., 0]
    for number, across in ((0, plane[:, 4]), (1, plane[2])):
        line = evaluate_slice(loss, CENTRE, DIRECTIONS[:, number : number + 1], [AXES[number]]).numbers[:, 0]
        assert np.array_equal(line, across)
    assert plane[2, 4] == loss(CENTRE)


def test_coordinates_are_displacements_and_those_of_longer_directions_are_told() -> None:
    assert evaluate_slice(loss, CENTRE, DIRECTIONS, AXES).displacements() == pytest.approx(np.hypot(*np.meshgrid(*AXES, indexing="ij")))
    skew = torch.stack([2 * DIRECTIONS[:, 0], DIRECTIONS.sum(1)], dim=1)
    seen: list[float] = []
    sliced = evaluate_slice(lambda z: seen.append(float((z - CENTRE).norm())) or 0.0, CENTRE, skew, AXES)
    assert sliced.displacements().ravel() == pytest.approx(seen, abs=1e-12)


def test_axes_are_symmetric_and_hold_an_exact_zero() -> None:
    places = symmetric_axis(0.3, 7)
    assert places[3] == 0
    assert np.array_equal(places, -places[::-1])
    assert (places[0], places[-1]) == (-0.3, 0.3)
    assert symmetric_axis(1.0, 1).tolist() == [0.0]
    for reach, points in ((1.0, 4), (1.0, 0), (0.0, 3), (math.inf, 3)):
        with pytest.raises(ValueError, match="axis"):
            symmetric_axis(reach, points)


def test_what_is_not_finite_stays_so() -> None:
    sliced = evaluate_slice(
        lambda z: math.nan if z[0] > CENTRE[0] else math.inf, CENTRE, DIRECTIONS[:, :1], [symmetric_axis(1.0, 3)]
    ).numbers
    assert np.isnan(sliced).sum() + np.isinf(sliced).sum() == 3


def test_several_points_at_once_are_the_same_points() -> None:
    class Many:
        calls: list[int] = []  # noqa: RUF012

        def __call__(self, z: torch.Tensor) -> float:
            return loss(z)

        def many(self, points: torch.Tensor) -> np.ndarray:
            self.calls.append(len(points))
            return np.array([[loss(z)] for z in points])

    evaluate: Evaluate = Many()
    one, several = (evaluate_slice(evaluate, CENTRE, DIRECTIONS, AXES, at_once=n) for n in (1, 8))
    assert np.array_equal(one.numbers, several.numbers)
    assert Many.calls == [8] * 5 + [5]


def test_an_evaluation_that_keeps_what_it_has_goes_on_where_it_was_killed() -> None:
    known: dict[bytes, float] = {}
    made: list[int] = []

    def kept(z: torch.Tensor) -> float:
        key = z.numpy().tobytes()
        if key not in known:
            if len(known) == 20 and not made:
                made.append(1)
                raise KeyboardInterrupt
            known[key] = loss(z)
        return known[key]

    with pytest.raises(KeyboardInterrupt):
        evaluate_slice(kept, CENTRE, DIRECTIONS, AXES)
    again = evaluate_slice(kept, CENTRE, DIRECTIONS, AXES)
    assert len(known) == 45
    assert np.array_equal(again.numbers, evaluate_slice(loss, CENTRE, DIRECTIONS, AXES).numbers)


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="direction 0 has length 0"):
        evaluate_slice(loss, CENTRE, torch.zeros(SIZE, 1), [symmetric_axis(1.0, 3)])
    with pytest.raises(ValueError, match="1 axes .* do not fit"):
        evaluate_slice(loss, CENTRE, DIRECTIONS, [symmetric_axis(1.0, 3)])
    with pytest.raises(ValueError, match="take fewer points"):
        evaluate_slice(lambda z: np.zeros(10_000), CENTRE, DIRECTIONS, [symmetric_axis(1.0, 301)] * 2)


def test_a_grid_too_large_for_memory_is_refused_before_any_point() -> None:
    class Sized:
        size = 10_000

        def __call__(self, z: torch.Tensor) -> float:
            raise AssertionError("a point was computed")

    with pytest.raises(ValueError, match="301 x 301 points with 10000 numbers each takes 6.8 GiB, more than 2 GiB: take fewer points"):
        evaluate_slice(Sized(), CENTRE, DIRECTIONS, [symmetric_axis(1.0, 301)] * 2)
    with pytest.raises(ValueError, match="with 1 number each takes"):
        evaluate_slice(Sized.__call__.__get__(Sized()), CENTRE, DIRECTIONS, [symmetric_axis(1.0, 20_001)] * 2)


def test_a_step_that_the_weights_can_hold_is_exact_and_a_smaller_one_is_rounded_away() -> None:
    weights, centre, direction = torch.ones(4), torch.zeros(4), torch.tensor([1.0, 1, 0, 0])
    unit = 2.0**-23  # in the last place of 1
    for step, share, error in ((8 * unit, 0, 0), (7 * unit, 1, 0), (unit / 4, 1, 1), (2.5 * unit, 1, 0.2)):
        sliced = step_rounding(weights, centre, direction, step)
        assert (sliced.share, sliced.error) == (share, pytest.approx(error))
    with pytest.raises(ValueError, match="length zero"):
        step_rounding(weights, centre, torch.zeros(4), 1.0)


@pytest.mark.parametrize("reach", [1.0, 1e-4, 1e-6])
def test_the_rounding_of_a_displacement_is_that_of_the_same_sums_in_float64(reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, centre = (torch.as_tensor(RANDOM.standard_normal(100), dtype=torch.float32) for _ in range(2))
    direction = random_directions(100, 1, 5)[:, 0]
    monkeypatch.setattr("landscape.surfaces.slices.ROWS", 30)
    sliced = step_rounding(weights, centre, direction, reach)
    moved = (weights + (centre + np.float32(reach) * direction)).double() - (weights + centre).double()
    wanted = reach * direction.double()
    assert sliced.error == pytest.approx(float((moved - wanted).norm() / wanted.norm()), rel=0.2)
    assert sliced.error < 3 * 100**0.5 * 2**-23 / reach
    assert step_rounding(weights.double(), centre.double(), direction.double(), reach).error < 1e-8


def test_places_are_added_where_the_curve_bends_by_pairs_and_none_is_lost() -> None:
    places = symmetric_axis(8.0, 9)
    (more,) = refined_axes([places], np.abs(places - 5.5), 4)
    assert sorted(set(more) - set(places)) == [-7, -5, 5, 7]  # both ends of 4..6 bend, and 6 more than 4
    assert np.array_equal(more, -more[::-1])
    assert set(places) <= set(more)
    (same,) = refined_axes([places], 3 * places, 4)
    assert np.array_equal(same, places)
    values = np.where(places > 3, np.nan, places)
    (edge,) = refined_axes([places], values, 2)
    assert sorted(set(edge) - set(places)) == [-3.0, 3.0]


def test_a_plane_is_refined_along_the_axis_that_bends() -> None:
    axes = (symmetric_axis(1.0, 5), symmetric_axis(1.0, 5))
    x, _ = np.meshgrid(*axes, indexing="ij")
    first, second = refined_axes(axes, x**4, 2)
    assert len(first) == 7
    assert len(second) == 5


def test_a_refined_line_is_closer_to_the_curve_than_an_even_one_of_as_many_places() -> None:
    def curve(x: np.ndarray) -> np.ndarray:
        return np.log1p((x / 0.03) ** 2)

    places = symmetric_axis(1.0, 9)
    while len(places) < 25:
        (places,) = refined_axes([places], curve(places), 4)
    grid = np.linspace(-1, 1, 4001)
    errors = [np.abs(np.interp(grid, each, curve(each)) - curve(grid)).max() for each in (places, symmetric_axis(1.0, len(places)))]
    assert errors[0] < errors[1] / 2
