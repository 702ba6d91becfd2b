"""The linearised objective against its own definition, and its Gauss-Newton matrix against the Jacobian's."""

import numpy as np
import pytest
import scipy.optimize
import torch
from landscape_cases import CASES, Case

from landscape import CrossEntropy, GaussNewton, Hessian, LinearisedObjective, to_dense
from landscape.curvature.kept_graphs import GRAPH_MEMORY
from landscape.prediction.proximal import TOLERANCE, proximal_path

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
classed = pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.criterion, CrossEntropy)], ids=lambda case: case.name)


@cases
@pytest.mark.parametrize("memory", [0, GRAPH_MEMORY])
def test_loss_and_gradient_are_those_of_the_linearised_outputs(case: Case, memory: float) -> None:
    z0, z = case.z, case.z + 0.3 * torch.randn(case.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(case.whole_outputs, z0)
    leaf = z.clone().requires_grad_()
    loss_sum, weight = case.criterion(case.whole_outputs(z0) + jacobian @ (leaf - z0), case.whole)
    (gradient,) = torch.autograd.grad(loss_sum / weight, leaf)
    tangent = LinearisedObjective(case.objective(), z0, memory=memory)
    computed = tangent.loss_and_gradient(z)
    assert computed[0] == pytest.approx(float(loss_sum.detach() / weight), rel=1e-12)
    torch.testing.assert_close(computed[1], gradient, rtol=1e-10, atol=1e-12)
    assert tangent.loss(z) == pytest.approx(computed[0], rel=1e-14)


@classed
def test_at_its_origin_it_has_the_objectives_loss_gradient_and_gauss_newton_matrix(case: Case) -> None:
    objective, tangent = case.objective(), LinearisedObjective(case.objective(), case.z)
    assert tangent.loss(case.z) == pytest.approx(objective.loss(case.z), rel=1e-13)
    torch.testing.assert_close(tangent.gradient(case.z), objective.gradient(case.z), rtol=1e-11, atol=1e-13)
    matrices = [to_dense(GaussNewton(each, case.z)) for each in (objective, tangent)]
    torch.testing.assert_close(matrices[0], matrices[1], rtol=1e-11, atol=1e-13)


@classed
def test_its_gauss_newton_matrix_elsewhere_is_its_hessian(case: Case) -> None:
    tangent, z = LinearisedObjective(case.objective(), case.z), case.z + 0.5
    torch.testing.assert_close(to_dense(GaussNewton(tangent, z)), to_dense(Hessian(tangent, z)), rtol=1e-9, atol=1e-11)


@classed
def test_its_path_has_the_minima_of_the_dense_linearised_loss(case: Case) -> None:
    tangent = LinearisedObjective(case.objective(), case.z)
    start = tangent.loss(case.z)
    points = proximal_path(tangent, 0.5 * start, case.z, convex=True)
    assert points[-1].envelope < 0.5 * start
    outputs, jacobian = case.whole_outputs(case.z).detach(), torch.autograd.functional.jacobian(case.whole_outputs, case.z)
    for point in points:

        def penalised(d: np.ndarray, kappa: float = point.kappa) -> tuple[float, np.ndarray]:
            leaf = torch.as_tensor(d).requires_grad_()
            loss_sum, weight = case.criterion(outputs + jacobian @ leaf, case.whole)
            value = loss_sum / weight + kappa / 2 * leaf.square().sum()
            return float(value.detach()), torch.autograd.grad(value, leaf)[0].numpy()

        exact = scipy.optimize.minimize(penalised, np.zeros(case.size), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
        penalty = point.envelope - point.loss
        assert exact - 1e-9 <= point.envelope <= exact + TOLERANCE**2 * penalty + 1e-9


def test_a_gauss_newton_matrix_holds_no_graph_that_the_tangent_refused_to_keep() -> None:
    case = next(case for case in CASES if isinstance(case.criterion, CrossEntropy))
    tangent = LinearisedObjective(case.objective(), case.z, memory=0)
    built: list[int] = []
    build = tangent._graphs.build
    tangent._graphs.build = lambda number: built.append(number) or build(number)
    with GaussNewton(tangent, case.z) as matrix:
        matrix.matvec(torch.ones(case.size, dtype=torch.float64))
        once = len(built)
        matrix.matvec(torch.ones(case.size, dtype=torch.float64))
    assert len(built) > once


@pytest.mark.parametrize("memory", [0, GRAPH_MEMORY])
def test_a_gradient_builds_each_batchs_graph_once(memory: float) -> None:
    case = next(case for case in CASES if isinstance(case.criterion, CrossEntropy))
    tangent = LinearisedObjective(case.objective(), case.z, memory=memory)
    tangent.loss(case.z)  # which also sees how large a graph is
    built: list[int] = []
    build = tangent._graphs.build
    tangent._graphs.build = lambda number: built.append(number) or build(number)
    tangent.loss_and_gradient(case.z + 0.1)
    assert len(tangent.batches) > 1
    assert sorted(built) == (list(range(len(tangent.batches))) if memory == 0 else [])
