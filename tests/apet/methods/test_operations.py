"""New parameters do not change the model's function at the start, share one index space, and follow their formulas."""

import math

import pytest
import torch
from resident_cases import MODELS, close, dense_gradient, dense_hessian_product, hessian_product, transformer, transformer_loss

from apet.errors import UsageError
from apet.methods import PlacementConfig, make_tunable, tunable_space
from apet.methods.operations import OPERATIONS, ROWS, SIZE, ParallelPrefixAttention, inject
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import random_entries
from apet.subspaces.space import ParameterSpace

NEW = [operation for operation in OPERATIONS if operation != "add"]
every_family = pytest.mark.parametrize("name", MODELS)


@every_family
@pytest.mark.parametrize("operations", [*[(one,) for one in NEW], ("add", *NEW)])
def test_the_initial_function_is_the_base_models_bitwise(name, operations):
    model = transformer(name)
    before = transformer_loss(model)
    inject(model, operations)
    assert torch.equal(transformer_loss(model), before)


@every_family
@pytest.mark.parametrize("operation", ["prefix", "prompt", "plug"])
def test_every_block_gets_its_new_parameters_and_all_can_be_learnt(name, operation):
    model = transformer(name)
    names = inject(model, (operation,))
    blocks = {"t5": 4}.get(name, 2)
    assert len(names) == blocks * {"prefix": 2, "prompt": 1, "plug": 8}[operation]
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if parameter_name in names:
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    gradients = dense_gradient(model, transformer_loss)
    assert all(gradients[name].abs().max() > 0 for name in names)


@every_family
def test_something_of_each_operation_has_a_gradient_from_the_start(name):
    for operation in ("prefix", "prompt", "plug"):
        model = transformer(name)
        names = inject(model, (operation,))
        assert any(dense_gradient(model, transformer_loss)[name].abs().max() > 0 for name in names)


@every_family
def test_own_and_new_entries_share_one_space_with_exact_derivatives(name):
    model = transformer(name)
    operations = ("add", *NEW)
    existing = ParameterSpace.of(model, "all").size
    space = tunable_space(model, operations, "all")
    assert space.size > existing
    dense = dense_gradient(model, transformer_loss)
    coordinates = Coordinates(space, random_entries(space.size, 400, 0))
    v = torch.randn(400, generator=torch.Generator().manual_seed(1))
    expected = coordinates.pull(dense_hessian_product(model, transformer_loss, coordinates.lift(v)))
    with coordinates.attach(model) as attached:
        transformer_loss(model).backward()
        close(attached.z.grad, coordinates.pull(dense), 1e-5, dense_scale(dense))
        close(hessian_product(model, transformer_loss, attached.z, v), expected, 1e-4, expected.norm() / math.sqrt(400))


def dense_scale(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradient.values()]).norm() / 100


def test_without_add_only_new_parameters_can_be_tuned():
    model = transformer("t5")
    mounted = make_tunable("apet", model, PlacementConfig(60, operations=("prefix", "plug")))
    assert mounted.space is not None and all("apet_" in name for name in mounted.space.names)


def test_the_space_of_a_dry_look_is_the_real_one_and_changes_nothing():
    model = transformer("bert")
    names = [name for name, _ in model.named_parameters()]
    dry = tunable_space(model, ("add", "plug"), "attention", dry=True)
    assert [name for name, _ in model.named_parameters()] == names
    assert dry.fingerprint == tunable_space(model, ("add", "plug"), "attention").fingerprint


def test_attention_beside_is_a_softmax_over_its_own_rows():
    torch.manual_seed(0)
    beside = ParallelPrefixAttention(torch.zeros(1, dtype=torch.float64), 6, 2, 0.5, None)
    q, k, v = torch.randn(3, 5, 6).double(), torch.randn(ROWS, 6).double(), torch.randn(ROWS, 6).double()
    actual = beside(q, k, v)
    for head in (slice(0, 3), slice(3, 6)):
        expected = torch.softmax(0.5 * q[..., head] @ k[:, head].T, -1) @ v[:, head]
        torch.testing.assert_close(actual[..., head], expected, rtol=1e-12, atol=1e-12)


def test_a_prompt_reads_the_layers_own_projections():
    """Check that in T5, which has no biases, rows R are equivalent to a prefix with keys W_k R and values W_v R."""
    rows = torch.randn(ROWS, 32, generator=torch.Generator().manual_seed(0))
    losses = []
    for operation in ("prompt", "prefix"):
        model = transformer("t5")
        inject(model, (operation,))
        with torch.no_grad():
            for attention in (m for name, m in model.named_modules() if name.endswith("SelfAttention")):
                if operation == "prompt":
                    attention.apet_prompt.inputs.copy_(rows)
                else:
                    attention.apet_prefix.keys.copy_(rows @ attention.k.weight.T)
                    attention.apet_prefix.values.copy_(rows @ attention.v.weight.T)
            losses.append(transformer_loss(model))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)


def test_a_bottleneck_is_two_small_layers_around_a_gelu():
    model = transformer("bert")
    inject(model, ("plug",))
    module = model.bert.encoder.layer[0].output.dense
    assert module.apet_plug.down.weight.shape == (SIZE, 32) and module.apet_plug.up.weight.shape == (32, SIZE)
    x = torch.randn(2, 3, 48)
    with torch.no_grad():
        module.apet_plug.up.weight += 0.1
        h = torch.nn.functional.linear(x, module.weight, module.bias)
        inner = torch.nn.functional.gelu(module.apet_plug.down(h))
        torch.testing.assert_close(module(x), h + inner.sum(-1, keepdim=True) * 0.1, rtol=1e-5, atol=1e-5)


def test_biases_are_added_where_there_are_none_and_not_to_the_head():
    model = transformer("t5")
    names = inject(model, ("bias",))
    assert names and all(name.endswith(".bias") for name in names) and not any("lm_head" in name for name in names)
    assert inject(transformer("bloom"), ("bias",)) == []


def test_an_unknown_operation_or_architecture_is_one_clear_error():
    with pytest.raises(UsageError, match="unknown operation 'prefx': did you mean prefix"):
        inject(transformer("t5"), ("prefx",))
    with pytest.raises(UsageError, match="do not support Linear models: use a model of the kinds t5, bert"):
        inject(torch.nn.Linear(2, 2), ("prefix",))
    with pytest.raises(UsageError, match="Linear has no self-attention in a list of blocks: lora, adapter and plug need a Transformer"):
        inject(torch.nn.Linear(2, 2), ("plug",))
