"""The gradient of a tuned weight equals the dense gradient for every operation, also for each example separately."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from resident_cases import (
    bound_by_example,
    by_example,
    close,
    dense_gradient,
    dense_hessian_product,
    every_kernel,
    hessian_product,
    on,
    randomise,
    transformer,
    transformer_loss,
)
from torch import Tensor, nn

from apet.subspaces.coordinates import Coordinates
from apet.subspaces.kernels import NotPerExample
from apet.subspaces.space import ParameterSpace

X = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Used(nn.Module):
    """A weight (3, 4), a vector (4,) and a function that uses them."""

    def __init__(self, use: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.weight, self.vector, self.use = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(4)), use
        randomise(self.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.weight, self.vector, x)


USES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "left factor": lambda w, v, x: w @ x.t() + (w @ v)[:, None],
    "right factor": lambda w, v, x: x @ w.t() + (x @ v)[:, None],
    "transposed": lambda w, v, x: torch.matmul(x, w.T) * v.sum(),
    "slice": lambda w, v, x: F.linear(x[:, 1:], w[1:].t()[1:].t()) + v[1:3],
    "row": lambda w, v, x: x * w[1] + v[-1],
    "gathered rows": lambda w, v, x: x @ w[torch.tensor([0, 2, 2])].t() + v.index_select(0, torch.tensor([3])),
    "iterated": lambda w, v, x: sum(torch.outer(x @ row, v) for row in w),
    "einsum": lambda w, v, x: torch.einsum("tj,ij,j->ti", x, w, v),
    "concatenated": lambda w, v, x: torch.cat([w, v[None], x]).pow(2),
    "stacked": lambda w, v, x: torch.stack((v, v * 2)) @ w.t(),
    "functions": lambda w, v, x: x * torch.exp(-v) / (1 + w.norm()),
    "own square": lambda w, v, x: (w * w).sum() * x + v * v,
    "masked": lambda w, v, x: torch.where(x > 0, v, x) @ w.t(),
    "in place": lambda w, v, x: x.clone().add_(v).mul_(v) @ w.t(),
    "bmm": lambda w, v, x: torch.bmm(x[None], w.t()[None]) * v[0],
    "convolution": lambda w, v, x: F.conv1d(x[None, :, :, None].flatten(2), v.view(1, 1, 4).expand(1, len(x), 4)) + w.sum(),
    "linear": lambda w, v, x: F.linear(x, w, v[:3]),
    "linear of one vector": lambda w, v, x: F.linear(x[0] * v, w),
    "addmm": lambda w, v, x: torch.addmm(v, x[:, :3], w),
    "scaled addmm": lambda w, v, x: torch.addmm(v, x[:, :3], w, beta=0.5, alpha=2.0),
    "scale": lambda w, v, x: (v * x) @ w.t() + (x * v) @ w.t(),
    "layer norm": lambda w, v, x: F.layer_norm(x, (4,), v, v * 2) @ w.t(),
    "rms norm": lambda w, v, x: F.rms_norm(x, (4,), v) @ w.t(),
}


@every_kernel
@pytest.mark.parametrize("use", USES)
def test_any_use_of_a_weight_has_the_right_gradient_and_hessian(use, kernel):
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v = torch.linspace(-1, 1, 9, dtype=torch.float64)

    def loss(module: nn.Module) -> Tensor:
        return module(x).sin().sum()

    module = Used(USES[use])
    coordinates = on(module, 9)
    bare, dense = module(x), dense_gradient(module, loss)
    curved = coordinates.pull(dense_hessian_product(module, loss, coordinates.lift(v)))
    attached = coordinates.attach(module, kernel)
    assert torch.equal(module(x), bare)
    close(torch.autograd.grad(loss(module), attached.z)[0], coordinates.pull(dense), 1e-10)
    close(hessian_product(module, loss, attached.z, v), curved, 1e-10)


@pytest.mark.parametrize("use", ["linear", "addmm", "scale", "layer norm", "rms norm", "right factor", "row"])
def test_each_use_notices_a_write_before_its_backward(use):
    module = Used(USES[use])
    attached = on(module).attach(module)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    loss = module(x).sum()
    attached.bind(torch.ones(16, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified .*in ?place"):
        torch.autograd.grad(loss, x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(4, 4),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
    "convolution": lambda: nn.Conv1d(5, 5, 2),
    "group norm": lambda: nn.GroupNorm(5, 5),
    "batch norm": lambda: nn.BatchNorm1d(5),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "prelu": lambda: nn.PReLU(5),
    "lookup": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.Softmax(-1), nn.Unflatten(1, (3, 1)), nn.Linear(1, 2)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_unknown_to_us_have_the_right_gradient(layer):
    torch.manual_seed(0)
    module = randomise(LAYERS[layer]().double())
    x = torch.randn(3, 5, 4, dtype=torch.float64)

    def loss(module: nn.Module) -> Tensor:
        y = module(x)
        return (y[0] if isinstance(y, tuple) else y).sin().sum()

    dense = dense_gradient(module, loss)
    coordinates = on(module)
    z = coordinates.attach(module).z
    loss(module).backward()
    close(z.grad, coordinates.pull(dense), 1e-10)


def test_each_example_has_its_own_gradient_of_a_frozen_layers_bias():
    module, x = nn.Linear(4, 3).double(), torch.randn(6, 5, 4, dtype=torch.float64)
    coordinates = Coordinates(ParameterSpace.of(module, "biases"), np.array([0, 2]))
    alone = torch.stack(list(by_example(module, coordinates, x)))
    z = bound_by_example(coordinates.attach(module), 6)
    module(x).sin().sum().backward()
    close(z.grad, alone, 1e-10)


def test_a_table_looked_up_outside_the_examples_has_no_gradient_of_each():
    model = transformer("t5")
    space = ParameterSpace.of(model)
    offset = dict(zip(space.names, space.offsets, strict=False))["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    attached = Coordinates(space, np.array([offset])).attach(model)
    attached.bind(torch.zeros(3, 1, requires_grad=True))
    with pytest.raises(NotPerExample):
        transformer_loss(model)
    attached.write()
    transformer_loss(model).backward()
    assert attached.z.grad is not None


def test_a_weight_used_as_a_whole_has_no_gradient_of_each_example():
    module = Used(lambda w, v, x: w @ x.t())
    bound_by_example(on(module, 5).attach(module), 5)
    with pytest.raises(NotPerExample):
        module(torch.randn(5, 4, dtype=torch.float64))


def test_a_number_of_rows_unlike_the_number_of_examples_is_refused():
    module = nn.LayerNorm(4).double()
    bound_by_example(on(module, 5).attach(module), 6)
    with pytest.raises(NotPerExample, match="5 rows, not 6 examples"):
        module(torch.randn(5, 2, 4, dtype=torch.float64))


class Rows(nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6, bias=bias), nn.LayerNorm(6), nn.Linear(6, 3, bias=bias)
        self.scale = nn.Parameter(torch.ones(6))
        randomise(self.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.scale * self.norm(self.first(x))))


@every_kernel
@pytest.mark.parametrize("k", [20, None])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [(5,), (), (2, 3)])
def test_each_example_has_its_own_gradient(k, kernel, bias, length):
    module, x = Rows(bias), torch.randn(6, *length, 4, dtype=torch.float64)
    coordinates = on(module, k)
    alone = torch.stack(list(by_example(module, coordinates, x)))
    z = bound_by_example(coordinates.attach(module, kernel), 6)
    module(x).sin().sum().backward()
    close(z.grad, alone, 1e-10)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 3), lambda: nn.Linear(4, 3, bias=False)])
@pytest.mark.parametrize("length", [(5,), ()])
def test_a_linear_layer_has_a_gradient_of_each_example(layer, length):
    module, x = layer().double(), torch.randn(6, *length, 4, dtype=torch.float64)
    coordinates = on(module)
    alone = torch.stack(list(by_example(module, coordinates, x)))
    z = bound_by_example(coordinates.attach(module), 6)
    module(x).sin().sum().backward()
    close(z.grad, alone, 1e-10)


def test_a_layer_that_mixes_the_examples_rows_has_no_gradient_of_each():
    from transformers.pytorch_utils import Conv1D

    module, x = randomise(Conv1D(3, 4).double()), torch.randn(6, 5, 4, dtype=torch.float64)
    bound_by_example(on(module).attach(module), 6)
    with pytest.raises(NotPerExample, match="30 rows, not 6 examples"):
        module(x)


def test_a_model_bound_by_example_can_be_saved_and_shown():
    module = nn.Linear(4, 3).double()
    bound_by_example(on(module).attach(module), 6)
    assert set(module.state_dict()) == {"weight", "bias"}
    assert "tensor" in repr(module.weight)


UNUSUAL_USES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "two indices": lambda w, v, x: w[0, 1] * x,
    "two slices": lambda w, v, x: x[:, 1:3] @ w[1:, 1:3].t(),
    "addmm left factor": lambda w, v, x: torch.addmm(x.new_zeros(4), w, x[:4].t() @ x[:4]) * v,
    "addmm matrix added": lambda w, v, x: torch.addmm(x * v, x[:, :3], w),
    "addmm both factors": lambda w, v, x: torch.addmm(v[:3], w, w.t()),
    "linear of a weight": lambda w, v, x: F.linear(w, x) * v[0],
    "linear of two weights": lambda w, v, x: F.linear(w, w) * v[0],
    "linear of one vector and a bias": lambda w, v, x: F.linear(x[0], w, v[:3]),
    "linear of one vector and its own bias": lambda w, v, x: F.linear(x[0], w.t() @ w, v),
    "linear with a vector as weight": lambda w, v, x: F.linear(x, v) * w.sum(),
    "linear by name": lambda w, v, x: F.linear(input=x, weight=w, bias=None) * v[0],
    "mul by name": lambda w, v, x: torch.mul(input=v, other=x) @ w.t(),
    "layer norm of a weight": lambda w, v, x: F.layer_norm(w, (4,), v) @ x.t(),
    "embedding with padding": lambda w, v, x: F.embedding(torch.tensor([0, 1, 1, 2]), w, padding_idx=0) * v,
    "embedding scaled by count": lambda w, v, x: F.embedding(torch.tensor([0, 1, 1, 2]), w, scale_grad_by_freq=True) * v,
    "empty embedding": lambda w, v, x: F.embedding(torch.zeros(0, dtype=torch.long), w).sum() + x * v,
}


@pytest.mark.parametrize("use", UNUSUAL_USES)
def test_an_unusual_use_of_a_weight_has_the_right_gradient(use):
    module = Used(UNUSUAL_USES[use])
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    bare = module(x)
    dense = dense_gradient(module, lambda m: m(x).sin().sum())
    coordinates = on(module)
    z = coordinates.attach(module).z
    assert torch.equal(module(x), bare)
    module(x).sin().sum().backward()
    close(z.grad, coordinates.pull(dense), 1e-10)


def test_the_weight_of_a_first_layer_may_be_written_before_the_backward():
    module, x = nn.Linear(4, 3).double(), X
    attached = on(module).attach(module)
    loss = module(x).sum()
    attached.bind(torch.ones(15, dtype=torch.float64))
    loss.backward()


def test_a_frozen_flag_can_be_set_on_an_attached_model():
    module = nn.Linear(4, 3)
    on(module).attach(module)
    for p in module.parameters():
        p.requires_grad = False


def test_a_model_is_not_moved_or_cast_while_attached():
    module = nn.Linear(4, 3)
    on(module).attach(module)
    with pytest.raises(RuntimeError, match="detach the coordinates before"):
        module.double()


def test_float64_is_left_alone_by_autocast():
    module = nn.Linear(4, 3).double()
    on(module).attach(module)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(X).dtype == torch.float64


def test_a_weight_that_is_not_contiguous_can_be_tuned():
    module = nn.Linear(4, 4, bias=False)
    module.weight = nn.Parameter(torch.randn(4, 4).t())
    attached = on(module).attach(module)
    attached.bind(torch.ones(16))
    attached.detach()
