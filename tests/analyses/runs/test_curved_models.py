"""Curvature of real models in single entries agrees with plain double backward, dense eigenvalues and another library."""

import copy

import numpy as np
import pytest
import torch
from hessian_eigenthings import HessianOperator, lanczos
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from apet.models.loading import load_model
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import random_entries
from apet.subspaces.space import ParameterSpace
from landscape import CrossEntropy, GaussNewton, Hessian, Objective, check_operator, eigenpairs, to_dense

FAMILIES = ("mini-bert-120k", "mini-t5-130k", "mini-bloom-120k")


def batch_of(family: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (4, 12), generator=random)
    labels = torch.randint(5, 1000, (4, 12), generator=random)
    return {"input_ids": ids, **({"decoder_input_ids": labels.roll(1, 1)} if "t5" in family else {}), "labels": labels}


def logits_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def entries_of(model: nn.Module, k: int) -> Coordinates:
    """Half of the entries belong to norms, whose second derivatives are wrong under nested transforms."""
    space = ParameterSpace.of(model)
    norms = np.concatenate([
        np.arange(space.offsets[i], space.offsets[i + 1]) for i, (name, _) in enumerate(space.tensors) if "norm" in name.lower()
    ])  # fmt: skip
    chosen = np.concatenate([np.random.default_rng(0).choice(norms, k // 2, replace=False), random_entries(space.size, k, 0)])
    return Coordinates(space, np.unique(chosen)[:k] if len(np.unique(chosen)) >= k else np.unique(chosen))


def objective_of(model: nn.Module, batch: dict[str, torch.Tensor], coordinates: Coordinates) -> tuple[Objective, nn.Module]:
    twin = copy.deepcopy(model)
    attached = coordinates.attach(twin)

    def outputs(z: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        attached.bind(z)
        return logits_of(twin, batch)

    return Objective(outputs, CrossEntropy(), [batch], coordinates.k), twin


def dense_product(model: nn.Module, batch: dict[str, torch.Tensor], coordinates: Coordinates, v: torch.Tensor) -> torch.Tensor:
    """Return H v by double backward through whole tensors."""
    tensors, lifted = dict(model.named_parameters()), coordinates.lift(v)
    touched = [tensors[name] for name in lifted]
    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(logits_of(model, batch).flatten(0, 1), batch["labels"].flatten())
        gradients = torch.autograd.grad(loss, touched, create_graph=True)
        products = torch.autograd.grad(gradients, touched, list(lifted.values()))
    return coordinates.pull(dict(zip(lifted, products, strict=True)))


@pytest.mark.parametrize(("family", "attention"), [*((family, "eager") for family in FAMILIES), *((f, "sdpa") for f in FAMILIES[:2])])
def test_products_with_the_hessian_are_those_of_double_backward(family: str, attention: str) -> None:
    model, batch = load_model(family, attention=attention).model, batch_of(family)
    coordinates = entries_of(model, 64)
    v = torch.randn(coordinates.k, generator=torch.Generator().manual_seed(1))
    objective, _ = objective_of(model, batch, coordinates)
    expected = dense_product(copy.deepcopy(model).requires_grad_(True), batch, coordinates, v)
    found = Hessian(objective, torch.zeros(coordinates.k)).matvec(v)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert check_operator(Hessian(objective, torch.zeros(coordinates.k))).symmetry_defect < 1e-5


@pytest.mark.parametrize("matrix", [Hessian, GaussNewton])
@pytest.mark.parametrize("family", FAMILIES)
def test_top_eigenvalues_are_those_of_the_dense_matrix(family: str, matrix: type[Hessian]) -> None:
    model = load_model(family).model
    objective, _ = objective_of(model, batch_of(family), entries_of(model, 64))
    operator = matrix(objective, torch.zeros(objective.size))
    dense = to_dense(operator).double().numpy()
    exact = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    np.testing.assert_allclose(eigenpairs(operator, 5, 40).eigenvalues, exact[:5], rtol=1e-5, atol=1e-6 * exact[0])


# Without reorthogonalize=True the other library returns its largest eigenvalue three times on the first of these.


class Plain(nn.Module):
    """A model without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.tanh(self.one(x)))


def test_eigenvalues_agree_with_another_library_on_a_net_without_norms() -> None:
    torch.manual_seed(0)
    model, x, y = Plain(), torch.randn(20, 6), torch.randint(3, (20,))
    theirs = HessianOperator(model, [(x, y)], lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))
    space = ParameterSpace.of(model, "all")
    # The other library orders parameters as the model does; this one orders them by name.
    attached = Coordinates(space, np.arange(space.size)).attach(twin := copy.deepcopy(model))

    def outputs(z: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        attached.bind(z)
        return twin(batch[0])

    ours = Hessian(Objective(outputs, CrossEntropy(lambda batch: batch[1]), [(x, y)], space.size), torch.zeros(space.size))
    expected = lanczos(theirs, k=3, max_iter=space.size, tol=1e-9, reorthogonalize=True, which="LA", seed=0).eigenvalues
    np.testing.assert_allclose(eigenpairs(ours, 3, space.size).eigenvalues, np.asarray(expected), rtol=1e-5)


def test_eigenvalues_agree_with_another_library_on_bert() -> None:
    family = "mini-bert-120k"
    model, batch = load_model(family).model, batch_of(family)
    space = ParameterSpace.of(model, "layers:0-0 norms")
    objective, _ = objective_of(model, batch, Coordinates(space, np.arange(space.size)))

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(logits_of(model, batch).flatten(0, 1), batch["labels"].flatten())

    names = set(space.names)
    peer = copy.deepcopy(model).requires_grad_(True)
    theirs = HessianOperator(peer, [batch], loss, param_filter=lambda name, _: name in names)
    with sdpa_kernel(SDPBackend.MATH):
        expected = lanczos(theirs, k=3, max_iter=50, tol=1e-9, reorthogonalize=True, which="LA", seed=0).eigenvalues
    found = eigenpairs(Hessian(objective, torch.zeros(space.size)), 3, 60).eigenvalues
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5)
