"""The criterion of a regression against autograd: its derivatives, its exact rows, and its samples."""

import oracles
import torch
from torch import Tensor

from landscape import EmpiricalFisher, GaussNewton, Hessian, Objective, SquaredError, gauss_newton_rows, to_dense

Batch = dict[str, Tensor]
SIZE = 16
RANDOM = torch.Generator().manual_seed(0)
BATCHES = [
    {"x": torch.randn(n, 3, generator=RANDOM, dtype=torch.float64), "labels": torch.randn(n, generator=RANDOM, dtype=torch.float64)}
    for n in (4, 3)
]
Z = torch.randn(SIZE, generator=RANDOM, dtype=torch.float64)


def outputs(z: Tensor, batch: Batch) -> Tensor:
    return torch.tanh(batch["x"] @ z[:12].view(3, 4)) @ z[12:].view(4, 1)


def objective(criterion=None) -> Objective[Batch]:
    return Objective(outputs, criterion or SquaredError(), BATCHES, SIZE, torch.float64)


def residuals(z: Tensor) -> Tensor:
    return torch.cat([outputs(z, batch)[:, 0] - batch["labels"] for batch in BATCHES])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_the_loss_is_the_mean_squared_residual_and_its_hessian_autograds() -> None:
    assert abs(objective().loss(Z) - float(residuals(Z).square().mean())) < 1e-12
    gradient, matrix = oracles.columns(lambda z: residuals(z).square().mean(), Z), Hessian(objective(), Z)
    close(objective().gradient(Z), gradient[0])
    close(to_dense(matrix), oracles.hessian(lambda z: residuals(z).square().mean(), Z))


def test_the_gauss_newton_matrix_is_two_j_j_by_every_route() -> None:
    jacobian = oracles.columns(residuals, Z)
    expected = 2 * jacobian.T @ jacobian / len(jacobian)
    rows = gauss_newton_rows(objective(), Z, per_example=False)
    assert rows.shape == (7, SIZE)
    close(rows.T @ rows, expected)
    close(to_dense(GaussNewton(objective(), Z)), expected)

    def plain(found: Tensor, batch: Batch) -> tuple[Tensor, float]:  # a criterion without closed forms
        return (found[:, 0] - batch["labels"]).square().sum(), float(len(found))

    close(to_dense(GaussNewton(objective(plain), Z)), expected)


def test_the_empirical_fisher_matrix_is_of_the_examples_gradients() -> None:
    gradients = oracles.columns(lambda z: residuals(z).square(), Z)
    close(to_dense(EmpiricalFisher(objective(), Z)), gradients.T @ gradients / len(gradients))


def test_samples_estimate_the_gauss_newton_matrix_without_bias() -> None:
    exact, count = to_dense(GaussNewton(objective(), Z)), 4000
    sampled = GaussNewton(objective(), Z, samples=count, seed=3)
    v = torch.randn(SIZE, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    forms = sampled.forms(v)[:, 0]
    wanted = float(v[:, 0] @ exact @ v[:, 0])
    error = float(forms.std() / count**0.5)
    assert 0 < error < 0.05 * wanted and abs(float(forms.mean()) - wanted) < 4 * error
    assert abs(float(v[:, 0] @ sampled.matvec(v[:, 0])) - float(forms.mean())) < 1e-9 * wanted  # the operator is the mean of its forms
