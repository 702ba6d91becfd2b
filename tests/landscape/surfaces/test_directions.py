"""Directions: orthonormal bases, norms by group, principal directions of points with a known spread."""

import numpy as np
import pytest
import torch

from landscape import affine_span, curvature_scaled, group_normalised, orthonormalised, principal_directions, random_directions


def is_orthonormal(directions: torch.Tensor) -> bool:
    return torch.allclose(directions.T @ directions, torch.eye(directions.shape[1], dtype=directions.dtype), atol=1e-12)


def test_random_directions_are_orthonormal_of_both_signs_and_more_keep_the_first_ones() -> None:
    two, three = (random_directions(500, count, 7, torch.float64) for count in (2, 3))
    assert is_orthonormal(three)
    assert torch.allclose(two, three[:, :2], atol=1e-12)
    assert 0.4 < float((two > 0).double().mean()) < 0.6
    assert not torch.allclose(two, random_directions(500, 2, 8, torch.float64))
    with pytest.raises(ValueError, match=r"count must be in 1\.\.3.*got 4"):
        random_directions(3, 4, 0)


def test_a_basis_turns_as_its_columns_and_spans_them() -> None:
    columns = torch.tensor([[-3.0, 1.0], [0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(orthonormalised(columns), expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], "direction 1 has length 0"),
        ([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], "direction 1 lies in the span"),
        ([[1.0, float("nan")], [0.0, 1.0], [0.0, 0.0]], "direction 1 has length nan"),
        ([[1.0, 2.0, 3.0]], "directions must have shape"),
    ],
)
def test_directions_without_a_basis_are_refused(columns: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orthonormalised(torch.tensor(columns))


def test_every_group_gets_the_norm_of_theta_there_and_an_all_zero_bias_stays_where_it_is() -> None:
    theta = torch.tensor([3.0, 4.0, 0.0, 0.0, -2.0], dtype=torch.float64)
    labels = ["weight", "weight", "bias", "bias", "scale"]
    result = group_normalised(random_directions(5, 2, 0, torch.float64), theta, labels)
    for column in result.T:
        assert column[:2].norm() == pytest.approx(5)
        assert torch.equal(column[2:4], torch.zeros(2, dtype=torch.float64))
        assert abs(float(column[4])) == pytest.approx(2)
    with pytest.raises(ValueError, match="direction 0 has length 0"):
        group_normalised(random_directions(5, 1, 0, torch.float64), torch.zeros(5), labels)


def test_scaled_directions_move_outputs_alike_and_flat_coordinates_are_held() -> None:
    diagonal = torch.tensor([4.0, 1.0, -1.0, 1e-9], dtype=torch.float64)
    ones = torch.ones(4, 1, dtype=torch.float64)
    assert curvature_scaled(ones, diagonal, floor=0.01)[:, 0].tolist() == pytest.approx([0.5, 1, 1, 1 / 0.2])
    with pytest.raises(ValueError, match="got 0"):
        curvature_scaled(ones, torch.zeros(4))


def test_principal_directions_are_those_of_the_spread_about_the_last_point() -> None:
    random = np.random.default_rng(0)
    q, _ = np.linalg.qr(random.standard_normal((30, 2)))
    places = np.array([[-4.0, 0.5], [-3, -0.5], [-1, 0.3], [0, 0]])
    end = random.standard_normal(30)
    result = principal_directions(torch.as_tensor(end + places @ q.T), 2)
    values, vectors = np.linalg.eigh(places.T @ places)
    assert result.explained == pytest.approx(values[::-1] / values.sum())
    assert torch.allclose(result.centre, torch.as_tensor(end))
    assert is_orthonormal(result.directions)
    # The same plane, and the points in it where they are.
    np.testing.assert_allclose(end + result.coordinates @ result.directions.numpy().T, end + places @ q.T, atol=1e-12)
    assert (result.coordinates[0] < 0).all()
    assert abs(float(result.directions[:, 0].numpy() @ (q @ vectors[:, 1]))) == pytest.approx(1)


def test_points_that_span_too_little_have_no_principal_directions() -> None:
    line = torch.arange(4.0, dtype=torch.float64)[:, None] * torch.ones(1, 5, dtype=torch.float64)
    assert principal_directions(line, 1).explained == pytest.approx([1])
    with pytest.raises(ValueError, match="do not span 2 dimensions"):
        principal_directions(line, 2)
    with pytest.raises(ValueError, match="more than 4 points"):
        principal_directions(line, 4)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_line_or_plane_through_points_holds_them_at_their_true_distances(count: int) -> None:
    points = torch.as_tensor(np.random.default_rng(count).standard_normal((count, 9)))
    result = affine_span(points)
    assert is_orthonormal(result.directions)
    np.testing.assert_allclose(result.origin + torch.as_tensor(result.coordinates) @ result.directions.T, points, atol=1e-12)
    assert result.coordinates[1, 0] - result.coordinates[0, 0] == pytest.approx(float((points[1] - points[0]).norm()))
    assert result.coordinates.sum(0) == pytest.approx(0, abs=1e-12)


def test_points_on_one_line_span_no_plane() -> None:
    with pytest.raises(ValueError, match="coincide or lie on one line"):
        affine_span(torch.tensor([[0.0, 0, 0], [1, 1, 1], [3, 3, 3]]))
    with pytest.raises(ValueError, match="coincide or lie on one line"):
        affine_span(torch.ones(2, 4))
    with pytest.raises(ValueError, match="span fewer than 3 dimensions"):
        affine_span(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]))
