"""Projected subspaces: adjoint, isometry, derivatives, random numbers named by seeds, and the results of a model in a subspace."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from resident_cases import Net, close, dense_gradient, dense_hessian_product, net_loss
from scipy.special import ndtri
from torch import nn
from torch.func import functional_call
from train_cases import OPTIONS, ROWS

from apet.errors import ApetError, UsageError
from apet.methods import PlacementConfig, make_tunable
from apet.models.loading import load_model
from apet.projections.fastfood import BLOCK, Fastfood
from apet.projections.projection_table import PROJECTIONS, project
from apet.projections.walsh_hadamard import hadamard, narrow, widen
from apet.random_numbers import bits, permutation
from apet.scoring import scorer_of
from apet.subspaces.scope import all_names
from apet.subspaces.space import ParameterSpace
from apet.tasks.task_table import TASKS
from apet.training.loop import train

LINEAR = [kind for kind in PROJECTIONS if kind not in ("said", "fastfood-legacy")]


def space_of(*sizes: int) -> ParameterSpace:
    return ParameterSpace(tuple((f"t{i}", (n,)) for i, n in enumerate(sizes)), tuple(frozenset(["weights"]) for _ in sizes))


def dense(projection, dtype=torch.float64) -> torch.Tensor:
    """Return P (D, k), computed column by column."""
    columns = [torch.cat([x.flatten() for x in projection.lift(e).values()]) for e in torch.eye(projection.k, dtype=dtype)]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("n", [1, 2, 64, 128, 256, 4096])
def test_the_transform_is_scipys_hadamard_matrix(n):
    x = torch.randn(3, n, dtype=torch.float64)
    expected = x @ torch.as_tensor(scipy.linalg.hadamard(n), dtype=torch.float64)
    close(hadamard(x), expected, 1e-12)
    d = max(1, n // 3)
    close(narrow(x, d), expected[:, :d], 1e-12)
    zeros = torch.cat([x[:, :d], torch.zeros(3, n - d, dtype=torch.float64)], 1)
    close(widen(x[:, :d], n), hadamard(zeros), 1e-12)


@pytest.mark.parametrize("n", [2**15, 2**18])
def test_the_transform_of_more_than_two_factors_is_its_own_inverse(n):
    x = torch.randn(n, dtype=torch.float64)
    close(hadamard(hadamard(x)) / n, x, 1e-12)
    spike = torch.zeros(n, dtype=torch.float64)
    spike[5] = 1.0  # Sylvester's order: the sign is the parity of the common bits
    index = np.arange(n)
    parity = (index & 1) ^ (index >> 2 & 1)
    assert np.array_equal(hadamard(spike).numpy(), 1.0 - 2 * parity)


def test_a_size_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        hadamard(torch.zeros(12))


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("k", [1, 7, 300])
def test_lift_and_pull_are_adjoint(kind, k, device):
    projection = project(kind, space_of(5, 700, 1, 40), k, 3)
    z = torch.randn(k, dtype=torch.float64, device=device)
    w = {name: torch.randn(shape, dtype=torch.float64, device=device) for name, shape in projection.space.tensors}
    lifted = projection.lift(z)
    left = sum((delta * w[name]).sum() for name, delta in lifted.items())
    torch.testing.assert_close(left, z @ projection.pull(w), rtol=1e-11, atol=1e-11)
    for name, delta in projection.lift(z.cpu()).items():  # no device changes the map
        torch.testing.assert_close(lifted[name].cpu(), delta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["fastfood", "countsketch", "gaussian"])
def test_tensors_are_stretches_of_one_flat_map(kind):
    """Check tensors that cross the bounds of blocks."""
    sizes = (BLOCK - 3, 10, 2 * BLOCK + 5, 70_000)
    z = torch.randn(20, dtype=torch.float64)
    parts = project(kind, space_of(*sizes), 20, 0).lift(z)
    (whole,) = project(kind, space_of(sum(sizes)), 20, 0).lift(z).values()
    close(torch.cat(list(parts.values())), whole, 1e-12)


def murmur(place: int, first: int, between: int) -> int:
    """Return Murmur3's finaliser of place + first, with an exclusive or with `between` after its first round: uint32."""
    x = (place + first) % 2**32
    for shift, factor, then in ((16, 0x85EBCA6B, between % 2**32), (13, 0xC2B2AE35, 0)):
        x = ((x ^ x >> shift) * factor % 2**32) ^ then
    return x ^ x >> 16


def test_fastfood_is_the_product_of_its_factors():
    """Compare with explicit matrices, whose signs and Gaussian numbers are hashed by Python's integers."""
    d, n = 11, 64
    h = scipy.linalg.hadamard(n).astype(float)
    order = permutation(2, "r permutation", n)
    blocks = []
    for b in range(3):
        drawn = [murmur(i, *(int(x >> np.uint64(33)) - 2**30 for x in bits(2, "r", b, 2))) for i in range(n)]
        gains = ndtri((np.array([(word >> 16) ^ 2**15 for word in drawn]) + 0.5) / 2**16)
        signs = [1 - 2 * (word & 1) for word in drawn[:d]]
        blocks.append(h @ np.diag(gains / np.linalg.norm(gains)) @ np.eye(n)[order] @ h[:, :d] @ np.diag(signs))
    z = torch.randn(d, dtype=torch.float64)
    actual = Fastfood(d, 2, "r", 0.5, n).values(z, 10, 180)
    close(actual, torch.as_tensor(0.5 * np.concatenate(blocks)[10:180]) @ z, 1e-6)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_projection_is_an_isometry_in_the_mean_and_moves_all_tensors_alike(kind):
    """Check E |P z|^2 = |z|^2, and that each tensor has its share of D, over seeds, within 5 standard errors."""
    space, z = space_of(4096, 512, 33), torch.randn(16, dtype=torch.float64)
    squares = np.array([[float(x.square().sum()) for x in project(kind, space, 16, seed).lift(z).values()] for seed in range(60)])
    expected = float(z.square().sum()) * space.sizes / space.size
    error = squares.std(0, ddof=1) / math.sqrt(len(squares))
    assert (np.abs(squares.mean(0) - expected) < 5 * error).all()
    assert (error < 0.1 * expected).all()


def test_fastfoods_columns_are_of_one_length_exactly():
    columns = dense(project("fastfood", space_of(3000, 5000, 192), 5, 0)).square().sum(0)
    close(columns, torch.ones(5, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("kind", ["fastfood", "fastfood-tensor"])
def test_more_dimensions_than_a_tensor_or_a_block_lose_nothing(kind):
    k = BLOCK + 100
    projection = project(kind, space_of(k + 1000, 50), k, 0)
    last = torch.zeros(k)
    last[-1] = 1.0
    assert all(bool(delta.abs().gt(0).any()) for delta in projection.lift(last).values())
    p = dense(project(kind, space_of(40, 30), 60, 0))
    assert torch.linalg.matrix_rank(p) == 60


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_the_numbers_are_named_by_the_seed_alone(kind):
    space, z = space_of(300, 200), torch.randn(50)
    first, again, other = (project(kind, space, 50, seed) for seed in (1, 1, 2))
    backwards = {i: again.lift_one(z, i) for i in (1, 0)}  # in another order, with other draws in between
    assert all(torch.equal(first.lift_one(z, i), backwards[i]) for i in (0, 1))
    if kind != "said":
        assert not torch.equal(first.lift_one(z, 0), other.lift_one(z, 0))


@pytest.mark.parametrize("kind", [*LINEAR, "said"])
def test_derivatives_of_both_orders_are_exact(kind):
    projection = project(kind, space_of(20, 9), 6, 0)
    z = torch.randn(6, dtype=torch.float64, requires_grad=True)
    lift = lambda z: tuple(projection.lift_one(z, i).sin() for i in (0, 1))  # noqa: E731
    assert torch.autograd.gradcheck(lift, z)
    assert torch.autograd.gradgradcheck(lift, z)


def test_said_pulls_by_the_derivative_at_z():
    space = ParameterSpace(tuple((f"h.{i}.a", (30,)) for i in range(3)), (frozenset(["weights"]),) * 3)
    projection, z = project("said", space, 10, 0), torch.randn(10, dtype=torch.float64, requires_grad=True)
    assert projection.inner == 7
    for i in range(3):
        w = torch.randn(30, dtype=torch.float64)
        (expected,) = torch.autograd.grad(projection.lift_one(z, i), z, w)
        close(projection.pull_one(w, i, z.detach()), expected, 1e-12)
        theta = projection.lift_one(torch.cat([z[:7], torch.zeros(3)]), i)
        close(projection.lift_one(z, i), (1 + z[7 + i]) * theta, 1e-12)


def test_the_legacy_fastfood_has_the_defects_it_is_kept_for():
    space = space_of(16, 1000)  # blocks of 16 and 1024
    projection, k = project("fastfood-legacy", space, 100, 0), 100
    p = dense(projection)
    assert (p[:16, 16:] == 0).all()  # the small tensor has lost all but 16 dimensions
    close(p[:16, :16].square().sum(0), torch.ones(16, dtype=torch.float64), 1e-6)  # in both tensors a column of length 1
    assert abs(float(p[16:].square().sum(0).mean()) - 1000 / 1024) < 0.02
    for i, (rows, n) in enumerate(((slice(0, 16), 16), (slice(16, 1016), 1024))):
        w = torch.randn(rows.stop - rows.start, dtype=torch.float64)
        close(projection.pull_one(w, i, w), p[rows].T @ w / n, 1e-6)  # the gradient of tensor i is divided by n
    assert k == projection.k


def test_count_sketch_is_one_even_signed_place_a_row():
    p = dense(project("countsketch", space_of(40_000), 8, 0)) / (8 / 40_000) ** 0.5
    assert torch.equal(p.abs().sum(1), torch.ones(40_000, dtype=torch.float64))
    counts = np.concatenate([(p > 0.5).sum(0), (p < -0.5).sum(0)])
    assert ((counts - 2500) ** 2 / 2500).sum() < 45  # chi-squared, 15 degrees of freedom, p about 1e-4
    pairs = (p[:-1] * p[1:]).sum(1)  # neighbours share a column with probability 1/8, and then a sign with probability 1/2
    assert abs(float((pairs != 0).double().mean()) - 1 / 8) < 5 * math.sqrt(7 / 64 / 40_000)
    assert abs(float(pairs.mean())) < 5 * math.sqrt(1 / 8 / 40_000)


@pytest.mark.parametrize(("kind", "k"), [("fastfood", 0), ("gaussian", 31), ("said", 1)])
def test_a_k_that_does_not_fit_is_one_clear_error(kind, k):
    with pytest.raises(UsageError, match=f"k = {k} is outside"):
        project(kind, space_of(20, 10), k, 0)


def on(net: nn.Module, kind: str, k: int = 12):
    return project(kind, ParameterSpace.of(net, "all"), k, 0)


def moved(net: nn.Module, projection, z: torch.Tensor) -> torch.Tensor:
    """Return the loss with dense tensors theta_0 + P z, which are part of the graph of z."""
    names = [name for name, _ in projection.space.tensors]
    tensors = {name: all_names(net)[name].detach() + projection.lift_one(z, i) for i, name in enumerate(names)}

    class Called(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return functional_call(net, tensors, (ids,))

    return net_loss(Called())


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_the_gradient_of_training_is_the_pulled_dense_one(kind):
    """Check the gradient at a z other than 0, accumulated twice (two parts of a batch). No tensor keeps a gradient."""
    net = Net()
    projection, z = on(net, kind), 0.1 * torch.randn(12, dtype=torch.float64)
    shifted = copy.deepcopy(net)
    with torch.no_grad():
        for i, name in enumerate(projection.space.names):
            all_names(shifted)[name].add_(projection.lift_one(z, i))
    dense = dense_gradient(shifted, net_loss)
    expected = sum(projection.pull_one(dense[name], i, z) for i, name in enumerate(projection.space.names))
    attached = projection.attach(net)
    with torch.no_grad():
        attached.z.copy_(z)
    attached.write()
    for _ in range(2):
        net_loss(net).backward()
    close(attached.z.grad, 2 * expected, 1e-10)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("kind", [*LINEAR, "said"])
def test_bound_in_a_graph_loss_gradient_and_curvature_are_those_of_dense_tensors(kind):
    net = Net()
    projection = on(net, kind)
    z, v = (0.1 * torch.randn(12, dtype=torch.float64) for _ in range(2))

    def product(loss, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        return gradient.detach(), torch.autograd.grad(gradient @ v, z)[0]

    at = z.clone().requires_grad_()
    expected = product(moved(net, projection, at), at)
    with projection.attach(net) as attached:
        at = z.clone().requires_grad_()
        attached.bind(at)
        for actual, wanted in zip(product(net_loss(net), at), expected, strict=True):
            close(actual, wanted, 1e-9)


def test_curvature_is_the_projected_hessian():
    """Check P' H P v at the initial point, with H v from the dense model."""
    net = Net()
    projection, v = on(net, "fastfood"), torch.randn(12, dtype=torch.float64)
    expected = projection.pull(dense_hessian_product(net, net_loss, projection.lift(v)))
    z = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    projection.attach(net).bind(z)
    (gradient,) = torch.autograd.grad(net_loss(net), z, create_graph=True)
    close(torch.autograd.grad(gradient @ v, z)[0], expected, 1e-9)


@pytest.mark.parametrize("graph", [False, True])
def test_detach_restores_the_model_bitwise(graph):
    net = Net()
    before, loss = copy.deepcopy(net.state_dict()), net_loss(net)
    attached = on(net, "fastfood").attach(net)
    assert torch.equal(net_loss(net), loss)
    with pytest.raises(RuntimeError, match="attached"):
        on(net, "countsketch").attach(net)
    attached.bind(torch.ones(12, dtype=torch.float64, requires_grad=graph))
    assert not torch.equal(net_loss(net), loss)
    attached.detach()
    assert torch.equal(net_loss(net), loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(type(p) is nn.Parameter and p.requires_grad and not p._post_accumulate_grad_hooks for p in net.parameters())
    assert net.head.weight is net.table.weight


def test_low_precision_weights_swallow_no_small_steps():
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    original = layer.weight.detach().float()
    projection = project("gaussian", ParameterSpace.of(layer, "all"), 3, 0)
    attached = projection.attach(layer)
    for _ in range(100):
        with torch.no_grad():
            attached.z += 1e-2
        attached.write()
    expected = original + projection.lift(torch.ones(3))["weight"]
    assert attached.z.dtype == torch.float32
    assert torch.equal(layer.weight.detach(), (original + projection.lift(attached.z.detach())["weight"]).bfloat16())
    close(layer.weight.detach().float(), expected, 2**-7, float(expected.abs().max()))


def test_a_projection_reaches_the_end_of_three_billion_parameters():
    """Check rows at the beginning, in the middle and at the end of a flat space that would take 12 GB."""
    size = 10**6
    space = space_of(size, 3 * 10**9, size)
    for kind in ("fastfood", "countsketch"):
        projection, z = project(kind, space, 1000, 0), torch.randn(1000)
        first, last = projection.lift_one(z, 0), projection.lift_one(z, 2)
        expected = float(z.norm()) * math.sqrt(size / space.size)
        for actual in (first, last):
            assert abs(float(actual.norm()) / expected - 1) < 0.02
        assert abs(float(first @ last)) < 6 * expected**2 / math.sqrt(size / 1000)


def test_a_run_that_is_cut_short_ends_bitwise_like_one_that_is_not(tmp_path):
    def begin():
        loaded = load_model("mini-t5-240k", random_init=True)
        mounted = make_tunable("apet", loaded.model, PlacementConfig(20, subspace="fastfood"))
        return mounted.model, mounted, scorer_of(loaded, TASKS["mini-sentiment"])

    def stop(progress):
        if progress.step == 20:
            raise ZeroDivisionError

    options, ends = replace(OPTIONS, lr=0.05), []
    for cut in (False, True):
        path = tmp_path / str(cut) / "c.safetensors"
        if cut:
            with pytest.raises(ZeroDivisionError):
                train(*begin(), ROWS, ROWS[:8], options, path, True, stop, checkpoint_every=0)
        model, mounted, scorer = begin()
        train(model, mounted, scorer, ROWS, ROWS[:8], options, path, True)
        ends.append(mounted.trainable["z"].detach().clone())
    assert torch.equal(*ends)
    other = make_tunable("apet", load_model("mini-t5-240k", random_init=True).model, PlacementConfig(20, subspace="countsketch"))
    with pytest.raises(ApetError, match="belongs to another run: entries was fastfood 0 20"):
        train(other.model, other, scorer, ROWS, ROWS[:8], options, path, True)
