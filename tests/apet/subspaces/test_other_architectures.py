"""Mixtures of experts, whose experts lie in tensors of three dimensions, and state-space models: scopes and derivatives."""

import copy

import pytest
import torch
from tiny_cases import tiny
from torch import Tensor, nn

from apet.methods import PlacementConfig, make_tunable, tunable_space

EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
STATE_SPACES = ("mamba", "mamba2")
IDS = torch.randint(6, 4096, (2, 9), generator=torch.Generator().manual_seed(0))


def loss(model: nn.Module) -> Tensor:
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_are_feed_forward_entries_of_their_layer(kind: str) -> None:
    model = tiny(kind).model
    names = tunable_space(model, scope="feed-forward layers:1 weights").names
    experts = {name for name, p in model.named_parameters() if ".layers.1." in name and p.dim() == 3}
    assert len(experts) == 2 and experts < set(names)
    assert all(".layers.1.mlp." in name for name in names)
    assert not experts & set(tunable_space(model, scope="attention").names)


@pytest.mark.parametrize(("kind", "scope"), [*((kind, "*.experts.*") for kind in EXPERTS), *((kind, "weights") for kind in STATE_SPACES)])
def test_gradients_and_hessian_products_of_entries_are_those_of_the_whole_tensors(kind: str, scope: str) -> None:
    model = tiny(kind).model
    if kind in STATE_SPACES:  # a scan adds up rounding errors in float32; grouped experts do not take float64
        model.double()
    plain, before = copy.deepcopy(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    tunable = make_tunable("apet", model, PlacementConfig(k=40, scope=scope))
    assert tunable.placement is not None and tunable.attached is not None
    parts = tunable.placement.coordinates.by_tensor
    assert kind in STATE_SPACES or all(before[part.name].dim() == 3 for part in parts if not part.name.endswith("bias"))
    z = tunable.trainable["z"]
    v = torch.randn(40, generator=torch.Generator().manual_seed(1)).to(z)
    (gradient,) = torch.autograd.grad(loss(tunable.model), z, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ v, z)

    tensors = [plain.get_parameter(part.name) for part in parts]
    whole = torch.autograd.grad(loss(plain), tensors, create_graph=True)
    picked = torch.cat([part_of(g, part.flat) for g, part in zip(whole, parts, strict=True)])
    second = torch.autograd.grad(picked @ v, tensors)
    expected = torch.cat([part_of(g, part.flat) for g, part in zip(second, parts, strict=True)])
    assert gradient.abs().max() > 0 and expected.abs().max() > 0
    torch.testing.assert_close(gradient, picked, rtol=1e-4, atol=1e-5 * picked.abs().max().item())
    torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())

    with torch.no_grad():
        z.add_(0.01)
    tunable.write()
    tunable.attached.detach()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def part_of(tensor: Tensor, flat: object) -> Tensor:
    return tensor.flatten() if flat is None else tensor.flatten()[torch.as_tensor(flat)]
