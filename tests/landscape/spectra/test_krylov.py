import numpy as np
import pytest
import torch
from landscape_cases import CASES

from landscape import DenseOperator, Hessian, eigenpairs, lanczos, lanczos_many, to_dense
from landscape.spectra.krylov import Which


def prescribed(eigenvalues: list[float], seed: int = 0) -> DenseOperator:
    """Return a dense matrix with these eigenvalues and Haar eigenvectors."""
    random = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=random, dtype=torch.float64))
    return DenseOperator(rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.T)


SPECTRA = {
    "where_a_peer_returns_five_tens": [10.0, 9.9, 5.0, 2.5, 1.0],
    "repeated": [3.0, 3.0, 3.0, 1.0, 1.0, 0.0],
    "identity": [1.0] * 6,
    "zero": [0.0] * 4,
    "indefinite": [-5.0, -5.0, 1e-8, 2.0, 7.0],
    "single": [4.0],
    "power_law": [i**-2.0 for i in range(1, 81)],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rotated", [True, False])
def test_all_eigenpairs_are_exact_at_k_steps(name: str, rotated: bool) -> None:
    eigenvalues = SPECTRA[name]
    diagonal = DenseOperator(torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)))
    operator = prescribed(eigenvalues) if rotated else diagonal
    pairs = eigenpairs(operator, len(eigenvalues), len(eigenvalues))
    np.testing.assert_allclose(pairs.eigenvalues, sorted(eigenvalues, reverse=True), atol=1e-13)
    residual = operator.matrix @ pairs.eigenvectors - pairs.eigenvectors * torch.from_numpy(pairs.eigenvalues)
    # Lanczos takes a remainder below 10 eps |A| for the end of a Krylov space.
    assert residual.norm(dim=0).max() < 1e-13 * max(1.0, max(map(abs, eigenvalues)))
    identity = torch.eye(len(eigenvalues), dtype=torch.float64)
    torch.testing.assert_close(pairs.eigenvectors.T @ pairs.eigenvectors, identity, rtol=0, atol=1e-13)


def test_two_hundred_steps_give_no_copies_of_the_top_eigenvalue() -> None:
    eigenvalues = [100.0, 99.0, *np.linspace(0, 1, 298)]
    pairs = eigenpairs(prescribed(eigenvalues), 3, 200)
    np.testing.assert_allclose(pairs.eigenvalues[:2], [100, 99], rtol=1e-12)
    assert pairs.eigenvalues[2] <= 1 + 1e-12


def test_residual_bounds_are_the_true_residuals() -> None:
    operator = prescribed([i**-0.5 for i in range(1, 101)])
    pairs = eigenpairs(operator, 5, 15)
    residual = operator.matrix @ pairs.eigenvectors - pairs.eigenvectors * torch.from_numpy(pairs.eigenvalues)
    np.testing.assert_allclose(residual.norm(dim=0).numpy(), pairs.residuals, atol=1e-13)
    assert pairs.residuals[-1] > 1e-3


def test_a_hessians_eigenpairs_are_those_of_its_matrix() -> None:
    hessian = Hessian(CASES[0].objective(), CASES[0].z)
    pairs = eigenpairs(hessian, 4, hessian.size)
    np.testing.assert_allclose(pairs.eigenvalues, torch.linalg.eigvalsh(to_dense(hessian)).flip(0)[:4], rtol=1e-11)


def test_float32_finds_repeated_eigenvalues_too() -> None:
    matrix = prescribed(SPECTRA["repeated"]).matrix.float()
    pairs = eigenpairs(DenseOperator(matrix), 6, 6)
    np.testing.assert_allclose(pairs.eigenvalues, SPECTRA["repeated"], atol=1e-5)


def test_lanczos_stops_at_an_invariant_subspace() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)))
    tridiagonal = lanczos(operator, torch.tensor([1.0, 0, 1, 0], dtype=torch.float64), 4)
    assert tridiagonal.basis.shape == (4, 2)
    assert tridiagonal.betas[-1] == 0
    np.testing.assert_allclose(tridiagonal.ritz()[0], [2, 4])


def test_the_basis_is_orthonormal_and_projects_the_operator_onto_the_tridiagonal() -> None:
    operator = prescribed([i**-2.0 for i in range(1, 121)])
    start = torch.randn(120, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = lanczos(operator, start, 60)
    off = np.diag(result.betas[:-1], 1)
    np.testing.assert_allclose(result.basis.T @ result.basis, np.eye(60), atol=1e-14)
    projected = result.basis.T @ operator.matrix @ result.basis
    np.testing.assert_allclose(projected, np.diag(result.alphas) + off + off.T, atol=1e-14)


def test_progress_counts_products_and_the_seed_names_the_start() -> None:
    operator, seen = prescribed([3.0, 2.0, 1.0, 0.5]), []
    one = eigenpairs(operator, 1, 3, seed=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]  # a second round finds nothing new
    assert one.eigenvalues == eigenpairs(operator, 1, 3, seed=1).eigenvalues
    assert one.eigenvalues != eigenpairs(operator, 1, 3, seed=2).eigenvalues


def test_wrong_use_is_refused_with_the_numbers() -> None:
    operator = prescribed([3.0, 2.0])
    with pytest.raises(ValueError, match=r"count must be in 1\.\.2"):
        eigenpairs(operator, 3, 10)
    with pytest.raises(ValueError, match=r"norm 0\.0"):
        lanczos(operator, torch.zeros(2, dtype=torch.float64), 2)
    with pytest.raises(ValueError, match="got 0 and shape"):
        lanczos(operator, torch.ones(2, dtype=torch.float64), 0)
    with pytest.raises(ValueError, match="at step 0 is not finite"):
        lanczos(DenseOperator(torch.full((2, 2), float("inf"))), torch.ones(2), 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    "top",
    [[10, 9.9, 5, 2.5, 1], [10] * 5, [10, 10 - 1e-4, 10 - 2e-4, 9, 9], [7, 7, 7, 6, 6]],
    ids=["a_peers_five_tens", "degenerate", "clustered", "two_repeated"],
)
def test_clusters_are_found_in_fewer_steps_than_k(top: list[float], scale: float) -> None:
    bulk = np.linspace(-0.5, 0.5, 200)
    operator = prescribed([scale * x for x in [*top, *bulk]])
    pairs = eigenpairs(operator, 5, 60)
    np.testing.assert_allclose(pairs.eigenvalues, scale * np.array(top), rtol=1e-6)
    assert pairs.residuals.max() < 1e-4 * scale
    assert pairs.products < 8 * 60


@pytest.mark.parametrize(("which", "expected"), [("LA", [4, 3, 2]), ("SA", [-9, -9, 0]), ("LM", [-9, -9, 4])])
def test_either_end_and_the_largest_magnitudes_are_found(which: Which, expected: list[float]) -> None:
    operator = prescribed([-9.0, -9.0, 4.0, 3.0, 2.0, *[0.0] * 60])
    np.testing.assert_allclose(eigenpairs(operator, 3, 20, which=which).eigenvalues, expected, atol=1e-10)


def test_recursions_in_step_are_those_one_by_one() -> None:
    operator = DenseOperator(torch.diag(torch.arange(1.0, 41, dtype=torch.float64) ** -2))
    starts = [torch.randn(40, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    starts[1] = operator.matrix[3]  # an eigenvector: ends at once
    for start, recursion in zip(starts, lanczos_many(operator, starts, 12), strict=True):
        alone = lanczos(operator, start, 12)
        np.testing.assert_allclose(recursion.alphas, alone.alphas, atol=1e-12)
        assert recursion.basis.shape == alone.basis.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_what_is_deflated_does_not_come_back_as_zero(which: Which, dtype: torch.dtype) -> None:
    sign = -1 if which == "LA" else 1
    operator = DenseOperator(prescribed([sign * x for x in [5.0, 4, 3, 2, *[1.0] * 96]]).matrix.to(dtype))
    pairs = eigenpairs(operator, 4, 20, which=which)
    np.testing.assert_allclose(pairs.eigenvalues, [sign] * 4, atol=1e-5)
    assert pairs.residuals.max() < 1e-5
