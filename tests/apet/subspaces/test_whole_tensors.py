"""A tensor that is tuned as a whole has no index. Its results are bitwise equal to the results with an index of all its entries."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from resident_cases import every_transformer, transformer, transformer_loss

from apet.models.loading import load_model
from apet.subspaces import Coordinates, ParameterSpace, place, random_entries, sampled_outer_product, sparse_matmul
from apet.subspaces.sparsity_pattern import KERNELS, FullPattern, SparsityPattern


def indexed(coordinates: Coordinates) -> Coordinates:
    """Return the same subspace with an index of every entry, as if no tensor were whole."""
    twin = Coordinates(coordinates.space, coordinates.index)
    sizes = dict(zip(twin.space.names, twin.space.sizes, strict=True))
    twin.by_tensor = [p._replace(flat=np.arange(sizes[p.name]) if p.flat is None else p.flat) for p in twin.by_tensor]
    return twin


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("flips", [0, 1, 2])
def test_a_full_pattern_is_the_pattern_of_all_entries_bitwise(kernel, flips):
    m, n = 9, 6
    full, sparse = FullPattern((m, n), kernel), SparsityPattern.at((m, n), torch.arange(m * n), kernel)
    for _ in range(flips):
        full, sparse, m, n = full.transposed, sparse.transposed, n, m
    assert full.shape == sparse.shape == (m, n) and full.kernel == sparse.kernel
    for name in ("starts", "cols", "rows"):
        assert torch.equal(getattr(full, name), getattr(sparse, name))
    g, x, z = torch.randn(5, m), torch.randn(5, n), torch.randn(m * n)
    for pattern in (full, sparse):
        assert torch.equal(pattern.to_z_order(pattern.to_row_order(z)), z)
    assert torch.equal(full.to_row_order(z), sparse.to_row_order(z))
    assert torch.equal(sampled_outer_product(g, x, full), sampled_outer_product(g, x, sparse))
    assert torch.equal(sparse_matmul(z, x, full), sparse_matmul(z, x, sparse))


def products(name: str, coordinates: Coordinates, kernel: str | None) -> list[torch.Tensor]:
    """Return the loss, the gradient and a Hessian-vector product at a point of the subspace."""
    torch.manual_seed(0)
    model = transformer(name)
    z = 0.01 * torch.randn(coordinates.k, generator=torch.Generator().manual_seed(1))
    with coordinates.attach(model, kernel) as attached:
        attached.bind(z.requires_grad_())
        loss = transformer_loss(model)
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        (product,) = torch.autograd.grad(gradient @ torch.linspace(-1, 1, len(z)), z)
    return [loss.detach(), gradient.detach(), product]


@every_transformer
@pytest.mark.parametrize("kernel", [None, "gather"])
@pytest.mark.parametrize("scope", ["all", "norms|biases", "weights"])
def test_loss_gradient_and_curvature_are_bitwise_those_of_an_index(name, kernel, scope):
    torch.manual_seed(0)
    space = ParameterSpace.of(transformer(name), scope)
    whole = Coordinates(space)
    assert all(part.flat is None for part in whole.by_tensor)
    for one, other in zip(products(name, whole, kernel), products(name, indexed(whole), kernel), strict=True):
        assert torch.equal(one, other)


def test_maps_and_sets_of_entries_are_those_of_an_index():
    space = ParameterSpace.of(load_model("mini-t5-130k").model, "all")
    some = Coordinates(space, random_entries(space.size, 1000, 0))
    names = space.names[::3]
    tensors = Coordinates.of_tensors(space, dict.fromkeys(names))
    for whole in (Coordinates(space), tensors, some, some.union([tensors]), tensors.union([some])):
        twin, z = indexed(whole), torch.randn(whole.k)
        assert np.array_equal(whole.index, twin.index) and whole.digest == twin.digest and len(whole.index) == whole.k
        assert all(torch.equal(value, twin.lift(z)[name]) for name, value in whole.lift(z).items())
        w = {name: torch.randn(shape) for name, shape in space.tensors}
        assert torch.equal(whole.pull(w), twin.pull(w))
        assert whole.histogram() == twin.histogram()
        for by in ("layer", "kind", "tensor", "filter"):
            (labels, groups), (others, twins) = whole.groups(by), twin.groups(by)
            assert torch.equal(labels, others) and groups == twins and set(labels.tolist()) == set(range(len(groups)))
    union = some.union([tensors])
    assert np.array_equal(union.index, np.union1d(some.index, tensors.index))
    for part in (some, tensors, union):
        moved = torch.zeros(union.k)
        moved[union.positions_of(part)] = 1
        assert np.array_equal(union.index[moved.bool().numpy()], part.index)
    larger, smaller = space, ParameterSpace.of(load_model("mini-t5-130k").model)
    inside = Coordinates(smaller, random_entries(smaller.size, 500, 1))
    offsets, back = dict(zip(larger.names, larger.offsets, strict=False)), []
    for name, _, flat in inside.by_tensor:
        back += list(offsets[name] + flat)
    assert np.array_equal(inside.within(larger).index, np.sort(back))


def test_all_placed_entries_need_no_order():
    space = ParameterSpace.of(load_model("mini-t5-130k").model, "all")
    for order in ("random", "layer", "kind", "reference"):
        placement = place(space, space.size, 3, order=order)
        assert all(part.flat is None for part in placement.coordinates.by_tensor)
        assert np.array_equal(placement.index, np.arange(space.size))


def long_integers(least: float) -> int:
    """Return the number of integer tensors in memory with at least this number of elements."""
    gc.collect()
    alive = (item for item in gc.get_objects() if type(item) is torch.Tensor)
    return sum(not tensor.is_floating_point() and tensor.numel() >= least for tensor in alive)


def test_the_subspace_of_all_parameters_keeps_no_index():
    model = load_model("mini-bert-3m", random_init=True).model
    space = ParameterSpace.of(model, "all")
    assert space.size > 3e6
    before = long_integers(1e4)
    tracemalloc.start()  # numpy's arrays are traced; torch's tensors are counted
    placement = place(space, space.size, 0)
    with placement.coordinates.attach(model) as attached:
        assert tracemalloc.get_traced_memory()[1] < space.size / 10  # bytes
        tracemalloc.stop()
        model(input_ids=torch.randint(40, 4096, (2, 16))).logits.square().mean().backward()
        assert attached.z.grad is not None and long_integers(1e4) == before
    with indexed(placement.coordinates).attach(model):
        assert long_integers(1e4) > before
