"""APET's subspace: the adjoint, resident weights, a bitwise detach, and gradients equal to dense gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import T5ForConditionalGeneration

from apet.errors import UsageError
from apet.models.ladder import config_of
from apet.models.loading import load_model
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import random_entries
from apet.subspaces.space import ParameterSpace


@pytest.fixture
def model() -> nn.Module:
    return load_model("mini-t5-240k", random_init=True).model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(40, 4096, (3, 9), generator=generator)
    return {"input_ids": ids, "labels": torch.randint(40, 4096, (3, 4), generator=generator)}


def on(model: nn.Module, k: int | None = 500, seed: int = 0) -> Coordinates:
    space = ParameterSpace.of(model)
    return Coordinates(space, random_entries(space.size, k or space.size, seed))


def test_the_space_counts_every_scalar_once_and_leaves_token_tables_out(model):
    inside, everything = ParameterSpace.of(model), ParameterSpace.of(model, "all")
    assert everything.size == sum(p.numel() for p in model.parameters())
    assert everything.size - inside.size == model.shared.weight.numel()  # tied with the output head, once
    assert inside.names == sorted(inside.names)
    assert inside.fingerprint != everything.fingerprint


def test_the_space_does_not_depend_on_device_or_values(model):
    with torch.device("meta"):
        other = T5ForConditionalGeneration(config_of("t5", "240k"))
    assert ParameterSpace.of(other).fingerprint == ParameterSpace.of(model).fingerprint


def test_locate_inverts_the_global_integers(model):
    space = ParameterSpace.of(model)
    index = random_entries(space.size, 300, 1)
    offsets = dict(zip(space.names, space.offsets, strict=False))
    index.sort()
    back = np.empty(300, dtype=np.int64)
    for name, where, flat in space.locate(index):
        back[where] = offsets[name] + flat
    assert np.array_equal(back, index)


def test_lift_and_pull_are_adjoint(model):
    coordinates = on(model)
    z = torch.randn(500, dtype=torch.float64)
    w = {name: torch.randn(shape, dtype=torch.float64) for name, shape in coordinates.space.tensors}
    lifted = coordinates.lift(z)
    left = sum((lifted[name] * w[name]).sum() for name in lifted)
    torch.testing.assert_close(left, z @ coordinates.pull(w), rtol=1e-12, atol=1e-12)


def test_the_loss_at_z_zero_is_the_models_bitwise(model, batch):
    coordinates = on(model)
    with torch.no_grad():
        bare = model(**batch).loss
        attached = coordinates.attach(model)
        attached.write()
        resident = model(**batch).loss
    assert torch.equal(bare, resident)
    assert torch.equal(bare, model(**batch).loss)


def test_detach_restores_every_tensor_bitwise(model, batch):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attached = on(model).attach(model)
    model(**batch).loss.backward()
    with torch.no_grad():
        attached.z += torch.randn(500)
    attached.write()
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())
    attached.detach()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(type(p) is nn.Parameter and p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("k", [1, 50, None])
def test_the_gradient_of_z_is_the_dense_gradients_entries(model, batch, k):
    dense = dict(
        zip([n for n, _ in model.named_parameters()], torch.autograd.grad(model(**batch).loss, list(model.parameters())), strict=True)
    )
    coordinates = on(model, k)
    z = coordinates.attach(model).z
    model(**batch).loss.backward()
    torch.testing.assert_close(z.grad, coordinates.pull(dense), rtol=1e-5, atol=1e-8)
    assert all(p.grad is None for p in model.parameters())


def test_resident_and_added_weights_agree(model, batch):
    coordinates = on(model)
    value = 0.1 * torch.randn(500)
    moved = {name: p.detach() for name, p in model.named_parameters()}
    moved |= {name: moved[name] + delta for name, delta in coordinates.lift(value).items()}
    with torch.no_grad():
        added = functional_call(model, moved, kwargs=batch).loss
        coordinates.attach(model).bind(value)
        assert torch.equal(model(**batch).loss, added)


def test_attaching_twice_is_refused(model):
    coordinates = on(model)
    coordinates.attach(model)
    with pytest.raises(RuntimeError, match="detach them first"):
        coordinates.attach(model)


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000, 65_537])
def test_the_order_is_a_permutation(size):
    assert np.array_equal(np.sort(random_entries(size, size, 3)), np.arange(size))


def test_placements_are_nested_in_k():
    assert np.array_equal(random_entries(10**6, 10_000, 5)[:100], random_entries(10**6, 100, 5))


def test_seeds_share_no_more_than_chance():
    first, second = (set(random_entries(10**6, 20_000, seed)) for seed in (0, 1))
    shared = len(first & second)  # hypergeometric: mean 400, standard deviation 19.6
    assert abs(shared - 400) < 5 * 20


def test_positions_are_uniform_over_the_space():
    counts = np.histogram(random_entries(11_300_000_000, 100_000, 0), bins=20, range=(0, 11_300_000_000))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 45  # chi-squared, 19 degrees of freedom, p about 7e-4


@pytest.mark.parametrize("k", [0, 11, -1])
def test_a_k_outside_the_space_is_one_clear_error(k):
    with pytest.raises(UsageError, match=rf"k = {k} is outside 1..10"):
        random_entries(10, k, 0)
