import oracles
import pytest
import torch
from landscape_cases import CASES, SEPARABLE, Case

from landscape import GaussNewton, Hessian, Objective

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
separable = pytest.mark.parametrize("case", SEPARABLE, ids=lambda case: case.name)


def v_of(case: Case) -> torch.Tensor:
    return torch.randn(case.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@cases
def test_loss_and_gradient_are_those_of_the_whole_data(case: Case) -> None:
    z = case.z.requires_grad_()
    loss = case.loss(z)
    (gradient,) = torch.autograd.grad(loss, z)
    assert case.objective().loss(case.z) == pytest.approx(float(loss.detach()), rel=1e-14)
    torch.testing.assert_close(case.objective().gradient(case.z), gradient, rtol=1e-12, atol=1e-14)


@cases
def test_hvp_has_the_error_of_a_central_difference_of_the_gradient(case: Case) -> None:
    objective, z, v = case.objective(), case.z, v_of(case)

    def error(step: float) -> float:
        difference = (objective.gradient(z + step * v) - objective.gradient(z - step * v)) / (2 * step)
        return float((difference - Hessian(objective, z).matvec(v)).norm())

    # The truncation error is step^2 |third derivative| / 6: a sixteenth at a quarter of the step, down to rounding.
    rounding = 1e-15 / 1e-3 * 100
    assert error(1e-3) <= error(4e-3) / 16 * 1.1 + rounding
    assert error(1e-3) <= 1e-3 * float(Hessian(objective, z).matvec(v).norm()) + rounding


@separable
def test_nothing_depends_on_batch_size_or_order(case: Case) -> None:
    n = len(case.whole[1])
    other = case.split([1, n - 3, 2], torch.randperm(n, generator=torch.Generator().manual_seed(3)))
    one, two, z, v = case.objective(), other.objective(), case.z, v_of(case)
    assert one.loss(z) == pytest.approx(two.loss(z), rel=1e-14)
    for a, b in (
        (one.gradient(z), two.gradient(z)),
        (Hessian(one, z).matvec(v), Hessian(two, z).matvec(v)),
        (GaussNewton(one, z).matvec(v), GaussNewton(two, z).matvec(v)),
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@cases
def test_batch_losses_add_up_to_the_loss(case: Case) -> None:
    sums, weights = case.objective().batch_losses(case.z)
    assert sums.shape == weights.shape == (len(case.batches),)
    assert float(sums.sum() / weights.sum()) == pytest.approx(case.objective().loss(case.z), rel=1e-14)


@cases
def test_float32_agrees_with_float64_and_keeps_its_dtype(case: Case) -> None:
    product = Hessian(case.objective(torch.float32), case.z).matvec(v_of(case))
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), Hessian(case.objective(), case.z).matvec(v_of(case)), rtol=1e-4, atol=1e-5)


def test_products_work_where_the_caller_switched_gradients_off() -> None:
    case = CASES[0]
    with torch.no_grad():
        product = Hessian(case.objective(), case.z).matvec(v_of(case))
    torch.testing.assert_close(product, oracles.hessian(case.loss, case.z) @ v_of(case))


def test_a_loss_linear_in_z_has_zero_curvature() -> None:
    objective = Objective(lambda z, x: z @ x, lambda out, _: (out, 1.0), [torch.ones(3)], 3)
    assert objective.gradient(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert Hessian(objective, torch.ones(3)).matvec(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
    assert GaussNewton(objective, torch.ones(3)).matvec(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_wrong_use_is_refused_with_the_numbers() -> None:
    case = CASES[0]
    with pytest.raises(ValueError, match=r"z must have shape \(32,\), got \(31,\)"):
        case.objective().loss(case.z[:-1])
    with pytest.raises(ValueError, match=r"v must have shape \(32,\), got \(1, 32\)"):
        Hessian(case.objective(), case.z).matvec(case.z[None])
    with pytest.raises(ValueError, match="at least one batch"):
        Objective(case.outputs, case.criterion, [], case.size)
    weightless = Objective(case.outputs, lambda out, _: (out.sum(), 0.0), case.batches, case.size, torch.float64)
    with pytest.raises(ValueError, match="sum to a positive number"):
        weightless.loss(case.z)
