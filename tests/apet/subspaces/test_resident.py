"""Resident weights: any model with k tuned entries has the loss, gradients and curvature of the dense model at these entries."""

import copy

import pytest
import torch
from resident_cases import (
    Net,
    added,
    close,
    dense_gradient,
    dense_hessian_product,
    every_k,
    every_kernel,
    every_transformer,
    hessian_product,
    net_loss,
    on,
    tokens,
    transformer,
    transformer_loss,
    typical,
)
from torch import Tensor, nn
from torch.func import functional_call

from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import UNITS, place
from apet.subspaces.resident import Resident
from apet.subspaces.space import ParameterSpace


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@every_kernel
@every_k
@every_transformer
def test_a_transformers_gradient_is_the_dense_gradients_entries(name, k, kernel):
    model = transformer(name)
    dense = dense_gradient(model, transformer_loss)
    coordinates = on(model, k)
    z = coordinates.attach(model, kernel).z
    transformer_loss(model).backward()
    close(z.grad, coordinates.pull(dense), 1e-5, typical(dense, coordinates.k))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("unit", UNITS)
@every_kernel
@every_transformer
def test_whole_units_have_the_dense_gradients_entries(name, kernel, unit):
    model = transformer(name)
    space = ParameterSpace.of(model, "all")
    coordinates = Coordinates(space, place(space, 2500, 1, unit).index)
    expected = dense_gradient(model, transformer_loss)
    with coordinates.attach(model, kernel) as attached:
        transformer_loss(model).backward()
        close(attached.z.grad, coordinates.pull(expected), 1e-5, typical(expected, coordinates.k))


@every_kernel
@pytest.mark.parametrize("k", [1, 60, None])
def test_the_gradient_is_exact_in_float64(net, k, kernel):
    dense = dense_gradient(net, net_loss)
    coordinates = on(net, k)
    attached = coordinates.attach(net, kernel)
    net_loss(net).backward()
    close(attached.z.grad, coordinates.pull(dense), 1e-10, typical(dense, coordinates.k))


@every_kernel
@pytest.mark.parametrize("k", [60, None])
def test_the_hessian_is_the_dense_double_backwards(net, k, kernel):
    coordinates = on(net, k)
    at, v = (0.1 * torch.randn(coordinates.k, dtype=torch.float64) for _ in range(2))

    def gradient(z: Tensor) -> Tensor:
        moved = added(net, coordinates, z)
        loss = net_loss(lambda ids: functional_call(net, moved, (ids,)))
        return torch.autograd.grad(loss, z, create_graph=True)[0]

    z = at.clone().requires_grad_()
    expected = torch.stack([torch.autograd.grad(entry, z, retain_graph=True)[0] for entry in gradient(z)]) @ v
    attached = coordinates.attach(net, kernel)
    attached.bind(at.requires_grad_())
    close(hessian_product(net, net_loss, at, v), expected, 1e-10)


@every_kernel
def test_the_hessian_is_symmetric(net, kernel):
    attached = on(net, 100).attach(net, kernel)
    u, v = torch.randn(2, 100, dtype=torch.float64)
    first, second = (hessian_product(net, net_loss, attached.z, w) for w in (u, v))
    torch.testing.assert_close(u @ second, v @ first, rtol=1e-10, atol=0)


@every_transformer
def test_a_transformers_hessian_is_the_dense_one(name):
    model = transformer(name)
    coordinates = on(model, 2000)
    v = torch.randn(2000)
    expected = coordinates.pull(dense_hessian_product(model, transformer_loss, coordinates.lift(v)))
    close(hessian_product(model, transformer_loss, coordinates.attach(model).z, v), expected, 1e-5)


@every_transformer
def test_the_loss_at_z_zero_is_bitwise_the_bare_models(name):
    model = transformer(name)
    bare = transformer_loss(model)
    attached = on(model).attach(model)
    assert torch.equal(transformer_loss(model), bare)
    attached.write()
    with torch.no_grad():
        assert torch.equal(transformer_loss(model), bare)


@every_transformer
def test_detach_gives_back_the_very_parameters_bitwise(name):
    model = transformer(name)
    frozen = next(iter(model.parameters())).requires_grad_(False)
    before = dict(model.named_parameters(remove_duplicate=False))
    values = {name: p.detach().clone() for name, p in before.items()}
    attached = on(model, 3000).attach(model)
    transformer_loss(model).backward()
    attached.bind(torch.randn(3000))
    assert any(not torch.equal(p, values[name]) for name, p in model.named_parameters())
    attached.detach()
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(after) == list(before) and all(after[name] is before[name] for name in after)
    assert all(type(p) is nn.Parameter and torch.equal(p, values[name]) for name, p in after.items())
    assert [p for p in after.values() if not p.requires_grad] == [p for p in after.values() if p is frozen]


def test_a_detached_model_trains_and_attaches_as_before(net):
    dense = dense_gradient(net, net_loss)
    coordinates = on(net, 60)
    for _ in range(2):
        attached = coordinates.attach(net)
        net_loss(net).backward()
        close(attached.z.grad, coordinates.pull(dense), 1e-10)
        attached.detach()
    assert all(torch.equal(g, dense[name]) for name, g in dense_gradient(net, net_loss).items())


def test_tied_and_untied_places_hang_together_while_attached(net):
    attached = on(net).attach(net)
    assert net.head.weight is net.table.weight
    assert len(list(net.parameters())) == len({id(p) for p in net.parameters()})
    assert sum(p.numel() for p in net.parameters()) == len(attached.z)
    assert all(isinstance(p, nn.Parameter) and not p.requires_grad for p in net.parameters())


def test_gradients_of_two_forward_passes_add_up(net):
    coordinates = on(net, 80)
    expected = sum(coordinates.pull(dense_gradient(net, lambda m, s=s: net_loss(m, s))) for s in (0, 1))
    z = coordinates.attach(net).z
    first, second = net_loss(net, 0), net_loss(net, 1)
    (first + second).backward()
    close(z.grad, expected, 1e-10)
    z.grad, first, second = None, net_loss(net, 0), net_loss(net, 1)
    first.backward()
    second.backward()
    close(z.grad, expected, 1e-10)


@pytest.mark.parametrize("k", [40, None])
def test_checkpointing_changes_neither_gradient_nor_hessian(k):
    torch.manual_seed(0)
    plain = Net()
    torch.manual_seed(0)
    checkpointed = Net(checkpointed=True)
    actual = []
    for model in (plain, checkpointed):
        z = on(model, k).attach(model).z
        v = torch.linspace(-1, 1, len(z), dtype=torch.float64)
        net_loss(model).backward()
        actual.append((z.grad, hessian_product(model, net_loss, z, v)))
    close(actual[1][0], actual[0][0], 1e-12)
    close(actual[1][1], actual[0][1], 1e-12)
    assert checkpointed.blocks_run > plain.blocks_run


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_a_transformers_own_checkpointing_changes_no_gradient():
    model = transformer("t5").train()
    calls = []
    model.encoder.block[0].layer[0].register_forward_hook(lambda *_: calls.append(None))
    dense = dense_gradient(model, transformer_loss)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    coordinates = on(model, 2000)
    z = coordinates.attach(model).z
    calls.clear()
    transformer_loss(model).backward()
    assert len(calls) == 2
    close(z.grad, coordinates.pull(dense), 1e-5)


@every_transformer
def test_autocast_meets_the_same_arithmetic_as_in_the_bare_model(name):
    model = transformer(name)
    exact = dense_gradient(model, transformer_loss)

    def loss(model: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return transformer_loss(model)

    bare, dense = loss(model), dense_gradient(model, loss)
    coordinates = on(model, 3000)
    exact, dense = coordinates.pull(exact), coordinates.pull(dense)
    z = coordinates.attach(model).z
    assert torch.equal(loss(model), bare)
    loss(model).backward()
    assert z.grad.dtype == torch.float32
    close(z.grad, exact, 0.1)
    close(z.grad, dense, 0.02)


def test_steps_too_small_for_a_bf16_weight_add_up_in_z():
    layer = nn.Linear(4, 3, bias=False).bfloat16()
    nn.init.ones_(layer.weight)
    attached = on(layer).attach(layer)
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    for step in range(1, 101):
        layer(x).float().sum().backward()
        with torch.no_grad():
            attached.z -= 5e-5 * attached.z.grad  # 1e-4, the weight's resolution below 1 is 2^-8
        attached.z.grad = None
        attached.write()
        if step == 10:
            assert (layer.weight == 1).all()
    assert attached.z.dtype == torch.float32 and layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(attached.z.detach(), torch.full((12,), -1e-2))
    assert torch.equal(layer.weight.detach(), (1 + attached.z.detach()).bfloat16().view(3, 4))


@every_transformer
def test_a_bf16_models_gradient_is_near_the_fp32_one(name):
    model = transformer(name)
    coordinates = on(model, 3000)
    exact = coordinates.pull(dense_gradient(model.bfloat16().float(), transformer_loss))
    z = coordinates.attach(model.bfloat16()).z
    transformer_loss(model).backward()
    assert z.grad.dtype == torch.float32
    close(z.grad, exact, 0.1)


def test_writing_between_forward_and_backward_is_an_error(net):
    attached = on(net, 100).attach(net)
    loss = net_loss(net)
    attached.bind(torch.randn(100, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified .*in ?place"):
        loss.backward()


def test_a_step_of_z_between_forward_and_backward_is_an_error(net):
    attached = on(net, 100).attach(net)
    loss = net_loss(net)
    with torch.no_grad():
        attached.z += 1
    attached.write()
    with pytest.raises(RuntimeError, match="modified .*in ?place"):
        loss.backward()


def test_writing_is_no_error_where_no_derivative_needs_the_weight():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Tanh()).double()
    coordinates = on(module)
    ids = tokens(2, 4, below=5)
    dense = coordinates.pull(dense_gradient(module, lambda m: m(ids).sum()))
    attached = coordinates.attach(module)
    loss = module(ids).sum()
    attached.bind(torch.randn(15, dtype=torch.float64))
    (actual,) = torch.autograd.grad(loss, attached.z)
    close(actual, dense, 1e-12)


def test_binding_the_values_of_the_moment_keeps_a_graph_valid(net):
    attached = on(net, 100).attach(net)
    (gradient,) = torch.autograd.grad(net_loss(net), attached.z, create_graph=True)
    before = torch.autograd.grad(gradient.sum(), attached.z, retain_graph=True)[0]
    attached.bind(torch.zeros(100, dtype=torch.float64))
    attached.bind(attached.z)
    assert torch.equal(torch.autograd.grad(gradient.sum(), attached.z)[0], before)


def test_a_deep_copy_is_a_plain_model_with_the_tuned_values(net):
    attached = on(net, 100).attach(net)
    attached.bind(torch.randn(100, dtype=torch.float64))
    twin = copy.deepcopy(net)
    ids = tokens(3, 5, below=11)
    with torch.no_grad():
        tuned = net(ids)
        assert torch.equal(twin(ids), tuned)
        assert all(type(p) is nn.Parameter for p in twin.parameters()) and twin.head.weight is twin.table.weight
        for p in twin.parameters():
            p.zero_()
        assert torch.equal(net(ids), tuned)
    attached.detach()
    assert not any(isinstance(p, Resident) for p in (*net.parameters(), *twin.parameters()))


def test_a_state_dict_holds_plain_tensors_with_the_tuned_values(net):
    attached = on(net, 100).attach(net)
    attached.bind(torch.randn(100, dtype=torch.float64))
    state = net.state_dict()
    torch.manual_seed(0)
    twin = Net()
    twin.load_state_dict(state)
    ids = tokens(3, 5, below=11)
    assert all(type(t) is Tensor and not t.requires_grad for t in state.values())
    assert torch.equal(twin(ids), net(ids))
