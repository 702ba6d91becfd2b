"""Inputs that are recomputed in the backward pass are never stale, whatever happens between the passes."""

import copy

import torch
import torch.nn.functional as F
from resident_cases import close, dense_gradient, on, randomise
from torch import Tensor, nn


class AfterNorm(nn.Module):
    def __init__(self, between: nn.Module, again: bool = False):
        super().__init__()
        self.before, self.norm, self.after = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.between, self.again = between, again
        randomise(self.double())

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.before(x))
        return self.after(self.between(self.norm(self.after(h)))) if self.again else self.after(self.between(h))


def gradients_agree(module: nn.Module, x: Tensor, first=lambda module: None) -> None:
    def loss(module: nn.Module) -> Tensor:
        torch.manual_seed(3)
        return module(x).sin().sum()

    dense = dense_gradient(module, loss)
    coordinates = on(module)
    attached = coordinates.attach(module)
    first(module)
    close(torch.autograd.grad(loss(module), attached.z)[0], coordinates.pull(dense), 1e-10)


X = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_norms_output_changed_in_place_is_not_made_again():
    torch.manual_seed(0)
    gradients_agree(AfterNorm(nn.ReLU(inplace=True)), X)
    gradients_agree(AfterNorm(nn.ReLU(inplace=True), again=True), X)


def test_dropout_in_place_after_a_norm_is_not_forgotten_after_an_evaluation():
    torch.manual_seed(0)

    def evaluated(module: nn.Module) -> None:
        module.eval()
        module(X).sum().backward()
        module.train()

    gradients_agree(AfterNorm(nn.Dropout(0.5, inplace=True)), X, evaluated)


class ShiftedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return F.layer_norm(x, (4,)) * self.weight + shift


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.norm, self.after, self.shift = nn.Linear(4, 4), ShiftedNorm(), nn.Linear(4, 4), 1.0
        randomise(self.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.norm(self.before(x), shift=self.shift))


def test_a_norm_with_named_arguments_is_not_made_again_without_them():
    def unshifted(module: nn.Module) -> None:
        module.shift = 0.0
        module(X).sum().backward()
        module.shift = 1.0

    gradients_agree(Shifted(), X, unshifted)


class Crossed(nn.Module):
    """Concatenate heads in an unusual order, which a batch of one token does not reveal."""

    def __init__(self):
        super().__init__()
        self.values, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        randomise(self.double())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        v = self.values(x).view(batch, length, 2, 2).transpose(1, 2).reshape(batch * 2, length, 2)
        h = torch.bmm(torch.softmax(v @ v.transpose(1, 2), -1), v).view(batch, 2, length, 2)
        return self.out(h.transpose(2, 3).reshape(batch, length, 4))


def test_what_a_batch_of_one_token_showed_is_not_taken_for_granted():
    gradients_agree(Crossed(), X[:, :4], lambda module: module(X[:1, :1]).sum().backward())


def test_a_norm_is_not_run_through_its_hooks_again():
    module = AfterNorm(nn.Identity())
    calls = []
    module.norm.register_forward_hook(lambda *_: calls.append(None))
    on(module).attach(module)
    loss = module(X).sum()
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 1


def test_a_deep_copy_has_no_hooks():
    module = AfterNorm(nn.Identity())
    on(module).attach(module)
    assert not any(m._forward_hooks for m in copy.deepcopy(module).modules())
