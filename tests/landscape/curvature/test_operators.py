from dataclasses import dataclass, field

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg
import torch
from landscape_cases import CASES, Case

from landscape import Block, DenseOperator, GaussNewton, Hessian, NotSymmetric, blocks, check_operator, to_dense, to_scipy

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
operators = pytest.mark.parametrize("operator", [Hessian, GaussNewton])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@cases
def test_hessian_equals_looped_double_backward(case: Case, device: str) -> None:
    close(to_dense(Hessian(case.objective(device=device), case.z)).cpu(), oracles.hessian(case.loss, case.z))


@cases
def test_gauss_newton_equals_explicit_jacobians(case: Case, device: str) -> None:
    batch = case.whole
    explicit = oracles.gauss_newton(case.whole_outputs, lambda outputs: case.criterion(outputs, batch)[0], case.z)
    computed = to_dense(GaussNewton(case.objective(device=device), case.z)).cpu()
    close(computed, explicit / case.criterion(case.whole_outputs(case.z), batch)[1])


@cases
def test_gauss_newton_is_positive_semidefinite(case: Case) -> None:
    eigenvalues = torch.linalg.eigvalsh(to_dense(GaussNewton(case.objective(), case.z)))
    assert eigenvalues[0] >= -1e-14 * eigenvalues[-1]
    assert eigenvalues[-1] > 0


@pytest.mark.parametrize("name", ["softmax_regression", "quadratic"])
def test_gauss_newton_is_the_hessian_where_outputs_are_linear_in_z(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    close(to_dense(GaussNewton(case.objective(), case.z)), to_dense(Hessian(case.objective(), case.z)))


def test_the_hessian_of_the_layernorm_case_is_indefinite_and_differs_from_gauss_newton() -> None:
    # Otherwise the tests above could pass on a case that shows nothing.
    case = CASES[0]
    hessian, gauss_newton = (to_dense(kind(case.objective(), case.z)) for kind in (Hessian, GaussNewton))
    assert torch.linalg.eigvalsh(hessian)[0] < 0
    assert (hessian - gauss_newton).norm() > 0.1 * hessian.norm()


@cases
@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_are_symmetric_and_deterministic(case: Case, operator: type[Hessian], dtype: torch.dtype) -> None:
    check = check_operator(operator(case.objective(dtype), case.z))
    assert check.symmetry_defect < (1e-5 if dtype == torch.float32 else 1e-13)
    assert check.determinism_defect == 0


@operators
def test_scipy_finds_the_eigenvalues_of_the_dense_matrix(operator: type[Hessian]) -> None:
    case = CASES[0]
    curvature = operator(case.objective(), case.z)
    top = scipy.sparse.linalg.eigsh(to_scipy(curvature), k=2, return_eigenvectors=False, which="LA")
    np.testing.assert_allclose(top, torch.linalg.eigvalsh(to_dense(curvature))[-2:].numpy(), rtol=1e-9)


@pytest.mark.parametrize("size", [10, 1000])
def test_the_symmetry_defect_does_not_shrink_with_size(size: int) -> None:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric, skew = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    assert check_operator(DenseOperator(symmetric)).symmetry_defect < 1e-14
    with pytest.raises(NotSymmetric, match=r"differ by \d\.\d\de-0[1-4] of \|A\|_F"):
        check_operator(DenseOperator(symmetric + 1e-3 * skew))


@dataclass
class Noisy:
    """Adds the number of the call, as dropout would."""

    size: int = 3
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: int = 0

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return v + self.calls


def test_products_that_differ_or_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="two equal products differ by"):
        check_operator(Noisy())
    with pytest.raises(ValueError, match="values are finite"):
        check_operator(DenseOperator(torch.full((2, 2), float("nan"))))
    with pytest.raises(ValueError, match="float32 or float64"):
        check_operator(DenseOperator(torch.eye(2, dtype=torch.bfloat16)))
    with pytest.raises(ValueError, match="square"):
        DenseOperator(torch.ones(2, 3))


def test_a_zero_operator_is_sound() -> None:
    assert check_operator(DenseOperator(torch.zeros(4, 4))).symmetry_defect == 0


def test_blocks_are_the_diagonal_blocks_by_label() -> None:
    hessian = Hessian(CASES[0].objective(), CASES[0].z)
    matrix = to_dense(hessian)
    computed = blocks(hessian, ["weight"] * 12 + ["norm"] * 8 + ["weight"] * 12)
    assert list(computed) == ["weight", "norm"]
    close(to_dense(computed["norm"]), matrix[12:20, 12:20])
    of_weight = [*range(12), *range(20, 32)]
    close(to_dense(computed["weight"]), matrix[of_weight][:, of_weight])
    with pytest.raises(ValueError, match="32 entries, got 3"):
        blocks(hessian, ["a", "b", "b"])
    with pytest.raises(ValueError, match="distinct"):
        Block(hessian, torch.tensor([1, 1]))
