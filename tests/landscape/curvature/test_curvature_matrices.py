import gc
from collections.abc import Callable

import oracles
import pytest
import torch
from landscape_cases import CASES, Batch, Case
from torch import Tensor

from landscape import CrossEntropy, CurvatureOperator, EmpiricalFisher, GaussNewton, Hessian, Objective, to_dense
from landscape.curvature.kept_graphs import AllocationTracker, KeptGraphs
from landscape.curvature.objective import leaf

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
classed = pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.criterion, CrossEntropy)], ids=lambda case: case.name)
kinds = pytest.mark.parametrize("kind", [Hessian, GaussNewton])


def vectors_of(case: Case) -> Tensor:
    return torch.randn(case.size, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@cases
@kinds
@pytest.mark.parametrize("memory", [0, 1, 2**30])
def test_kept_graphs_and_several_vectors_change_nothing(case: Case, kind: type[Hessian], memory: int) -> None:
    vectors, matrix = vectors_of(case), to_dense(kind(case.objective(), case.z, memory=0))
    with kind(case.objective(), case.z, memory=memory) as operator:
        for _ in range(2):  # the second time from graphs that were kept
            close(operator.matmat(vectors), matrix @ vectors)
            close(operator @ vectors, matrix @ vectors)
            close(operator @ vectors[:, 0], matrix @ vectors[:, 0])


class Counted:
    """The outputs of a case, and how often they were computed."""

    def __init__(self, case: Case) -> None:
        self.case, self.calls = case, 0

    def __call__(self, z: Tensor, batch: Batch) -> Tensor:
        self.calls += 1
        return self.case.outputs(z, batch)


@pytest.mark.parametrize(("graphs", "calls"), [(0, 9), (2, 5), (9, 3)])
def test_as_many_graphs_are_kept_as_fit(graphs: int, calls: int) -> None:
    case = CASES[0]  # of three batches
    outputs = Counted(case)
    objective = Objective(outputs, case.criterion, case.batches, case.size, torch.float64)
    with AllocationTracker() as made:
        graph = Hessian(objective, case.z)._graph(leaf(case.z), 0)
    size = made.held()
    assert graph and size > 0
    outputs.calls = 0
    operator = Hessian(objective, case.z, memory=graphs * size)
    for _ in range(3):
        operator.matmat(vectors_of(case))
    # The measured graph is kept; graphs that are not kept are made each time.
    assert outputs.calls == calls
    operator.release()
    operator.matmat(vectors_of(case))
    assert outputs.calls == calls + 3


def test_what_a_graph_holds_is_counted_with_what_its_functions_keep_and_nothing_else() -> None:
    weight, x = torch.ones(1000), torch.ones(1000, requires_grad=True)

    def build() -> tuple[Tensor, Callable[[], Tensor]]:
        y = torch.exp(x * weight)  # autograd keeps y, 4,000 bytes; x and weight are not the graph's own, x * weight is let go
        kept = y.detach().double()
        kept.add_(1)
        return y, lambda: kept[:10]

    with AllocationTracker() as made:
        graph = build()
    assert made.held() == 4 * 1000 + 8 * 1000
    del graph
    assert made.held() == 0


def test_room_is_measured_on_the_largest_batch() -> None:
    batches = [torch.ones(2), torch.ones(50), torch.ones(3)]
    graphs = KeptGraphs(lambda number: torch.exp(batches[number].clone()), 250.0, batches)
    for number in (0, 1, 2):
        graphs.of(number)
    assert list(graphs._kept) == [1]  # of 200 bytes, so that there is room for one of them


def test_a_product_through_weights_that_changed_is_refused() -> None:
    weight = torch.ones(3)
    objective = Objective(lambda z, x: torch.tanh(weight * z).sum(), lambda out, _: (out, 1.0), [torch.ones(3)], 3)
    operator = Hessian(objective, torch.ones(3))
    operator.matvec(torch.ones(3))
    weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        operator.matvec(torch.ones(3))
    operator.release()
    assert operator.matvec(torch.ones(3)).isfinite().all()


@classed
def test_the_closed_form_of_cross_entropy_is_its_double_backward(case: Case) -> None:
    def plain(outputs: Tensor, batch: Batch) -> tuple[Tensor, float]:
        return case.criterion(outputs, batch)

    generic = Objective(case.outputs, plain, case.batches, case.size, torch.float64)
    close(to_dense(GaussNewton(case.objective(), case.z)), to_dense(GaussNewton(generic, case.z)))


@classed
def test_the_empirical_fisher_matrix_is_the_sum_over_each_examples_gradient(case: Case) -> None:
    batch, criterion = case.whole, case.criterion
    assert isinstance(criterion, CrossEntropy)
    gradients = oracles.columns(lambda z: criterion.losses(case.whole_outputs(z), batch), case.z)
    assert len(gradients) == len(batch[1])
    weight = criterion(case.whole_outputs(case.z), batch)[1]
    close(to_dense(EmpiricalFisher(case.objective(), case.z)), gradients.T @ gradients / weight)


@classed
def test_labels_of_the_models_own_give_the_gauss_newton_matrix_in_the_mean(case: Case) -> None:
    exact = to_dense(GaussNewton(case.objective(), case.z))
    drawn = torch.stack([to_dense(GaussNewton(case.objective(), case.z, samples=4, seed=seed)) for seed in range(60)])
    error = drawn.std(0) / 60**0.5
    assert ((drawn.mean(0) - exact).abs() < 4.5 * error + 1e-12).all()
    assert torch.equal(drawn[0], to_dense(GaussNewton(case.objective(), case.z, samples=4, seed=0)))
    assert torch.linalg.eigvalsh(drawn[0])[0] > -1e-12


@classed
def test_the_forms_of_the_draws_are_those_of_the_operator(case: Case) -> None:
    operator = GaussNewton(case.objective(), case.z, samples=5, seed=3)
    vectors = vectors_of(case)
    forms = operator.forms(vectors)
    assert forms.shape == (5, 3)
    close(forms.mean(0), (vectors * operator.matmat(vectors)).sum(0))
    with pytest.raises(ValueError, match="with `samples`"):
        GaussNewton(case.objective(), case.z).forms(vectors)


def test_parts_of_the_batches_in_two_processes_give_the_whole() -> None:
    case = CASES[0]
    whole = Hessian(case.objective(), case.z).matvec(case.z)
    sums: list[Tensor] = []

    def part(batches: tuple[Batch, ...]) -> None:
        def keep(value: Tensor) -> Tensor:
            sums.append(value)
            return value

        Hessian(Objective(case.outputs, case.criterion, batches, case.size, torch.float64, total=keep), case.z).matvec(case.z)

    part(case.batches[:1])
    part(case.batches[1:])
    together = sums[0] + sums[1]
    close(together[:-1] / together[-1], whole)


def test_what_a_criterion_lacks_is_said() -> None:
    case = next(case for case in CASES if case.name == "quadratic")
    with pytest.raises(ValueError, match="`losses`"):
        EmpiricalFisher(case.objective(), case.z)
    with pytest.raises(ValueError, match="`sampled_curvature`"):
        GaussNewton(case.objective(), case.z, samples=1)
    operator: CurvatureOperator = Hessian(case.objective(), case.z)
    with pytest.raises(ValueError, match=r"shape \(3, columns\), got \(4, 2\)"):
        operator.matmat(torch.ones(4, 2))


@kinds
@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("layernorm_mlp", "attention")], ids=lambda case: case.name)
def test_an_operator_that_is_gone_leaves_no_tensor_behind(case: Case, kind: type[Hessian]) -> None:
    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())  # isinstance would wake lazy modules

    def use() -> None:
        with kind(case.objective(), case.z, memory=2**30) as operator:
            operator.matvec(vectors_of(case)[:, 0])

    use()
    before = alive()
    for _ in range(3):
        use()
    assert alive() == before


def test_a_sparse_matrix_is_counted_by_what_it_consists_of() -> None:
    dense = torch.eye(6, dtype=torch.float64)
    with AllocationTracker() as made:
        sparse = dense.to_sparse_csr()
        parts = sum(part.nbytes for part in (sparse.crow_indices(), sparse.col_indices(), sparse.values()))
        assert sparse @ dense[0] is not None
    assert parts <= made.held() <= parts + 64


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0])
def test_the_curvature_of_a_loss_that_is_sure_has_all_digits_in_float32(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, -1.0, 0.5]])
    batch, u = {"labels": torch.tensor([1])}, torch.tensor([[0.3, -1.0, 2.0, 0.7]])
    exact = [float(x) for x in (logits.double() - logits.double().logsumexp(1, keepdim=True)).exp()[0]]
    wide = [float(x) for x in u[0]]
    # p_i sum_j p_j (u_i - u_j): no difference of numbers that are nearly one
    wanted = [p * sum(q * (x - y) for q, y in zip(exact, wide, strict=True)) for p, x in zip(exact, wide, strict=True)]
    computed = CrossEntropy().curvature(logits, batch)(u)[0]
    assert computed.tolist() == pytest.approx(wanted, rel=1e-5)
