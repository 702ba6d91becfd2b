import numpy as np
import pytest
import torch
from landscape_cases import CASES, Batch
from torch import Tensor

from landscape import (
    CrossEntropy,
    GaussNewton,
    Hessian,
    Objective,
    dense_spectrum,
    gauss_newton_rows,
    gradient_shares,
    spectrum_of_rows,
    to_dense,
)

CASE = CASES[0]


def outputs(z: Tensor, batch: Batch) -> Tensor:
    """Return the case's outputs for one z, or for one z per example."""
    if z.dim() == 1:
        return CASE.outputs(z, batch)
    return torch.cat([CASE.outputs(own, (x[None], y[None])) for own, x, y in zip(z, *batch, strict=True)])


OBJECTIVE = Objective(outputs, CASE.criterion, CASE.batches, CASE.size, torch.float64)


@pytest.mark.parametrize("per_example", [True, False])
def test_rows_of_the_roots_multiply_to_the_gauss_newton_matrix(per_example: bool) -> None:
    rows = gauss_newton_rows(OBJECTIVE, CASE.z, per_example=per_example)
    assert rows.shape == (11 * 2, CASE.size)
    torch.testing.assert_close(rows.T @ rows, to_dense(GaussNewton(OBJECTIVE, CASE.z)), rtol=1e-11, atol=1e-13)


def test_fewer_rows_than_coordinates_and_more_give_the_same_spectrum() -> None:
    rows = gauss_newton_rows(OBJECTIVE, CASE.z)
    exact = torch.linalg.eigvalsh(rows.T @ rows).flip(0).numpy()
    wide, tall = spectrum_of_rows(rows), spectrum_of_rows(torch.cat([rows, rows]) / 2**0.5)
    for spectrum in (wide, tall):
        np.testing.assert_allclose(spectrum.all_eigenvalues, exact, atol=1e-14)
    n = len(wide.eigenvalues)
    torch.testing.assert_close(wide.eigenvectors.T @ wide.eigenvectors, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-7)
    np.testing.assert_allclose(np.diag(wide.eigenvectors.T @ rows.T @ rows @ wide.eigenvectors), wide.eigenvalues, rtol=1e-9)


def test_columns_give_the_hessians_eigenvalues() -> None:
    hessian = Hessian(OBJECTIVE, CASE.z)
    exact = torch.linalg.eigvalsh(to_dense(hessian)).flip(0)
    np.testing.assert_allclose(dense_spectrum(hessian).eigenvalues, exact, rtol=1e-10, atol=1e-13)


def test_the_gradients_shares_sum_to_its_square_where_it_lies_in_the_range() -> None:
    g = OBJECTIVE.gradient(CASE.z)
    assert gradient_shares(spectrum_of_rows(gauss_newton_rows(OBJECTIVE, CASE.z)), g).sum() == pytest.approx(float(g @ g), rel=1e-8)


def test_all_zero_and_a_single_coordinate() -> None:
    zero = spectrum_of_rows(torch.zeros(3, 5, dtype=torch.float64))
    assert zero.all_eigenvalues.tolist() == [0.0] * 5
    one = spectrum_of_rows(torch.tensor([[3.0], [4.0]], dtype=torch.float64))
    assert one.all_eigenvalues.tolist() == pytest.approx([25.0])


def test_texts_have_no_roots() -> None:
    with pytest.raises(ValueError, match="one label per example"):
        CrossEntropy(lambda batch: batch).roots(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))
    plain = Objective(outputs, lambda out, batch: (out.sum(), 1.0), CASE.batches, CASE.size, torch.float64)
    with pytest.raises(ValueError, match="`roots`"):
        gauss_newton_rows(plain, CASE.z)
