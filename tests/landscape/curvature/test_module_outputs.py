"""An objective over the entries of any module has the derivatives that torch.func computes."""

import pytest
import torch
from torch import nn

from landscape import CrossEntropy, Hessian, ModuleOutputs, Objective, to_dense


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])


def objective_of(outputs, batch):
    return Objective(outputs, CrossEntropy(lambda batch: batch[1]), [batch], outputs.size, torch.float64)


def test_all_parameters_are_displaced(module, batch):
    outputs = ModuleOutputs(module)
    assert outputs.size == sum(parameter.numel() for parameter in module.parameters())
    z = torch.linspace(-0.3, 0.3, outputs.size, dtype=torch.float64)
    expected = torch.cat([parameter.detach().flatten() for parameter in module.parameters()]) + z
    result = outputs(z, batch)
    torch.nn.utils.vector_to_parameters(expected, module.parameters())
    torch.testing.assert_close(result, module(batch[0]))


def test_the_hessian_over_chosen_entries_is_a_block_of_the_whole_one(module, batch):
    entries = torch.tensor([7, 2, 11])
    whole = ModuleOutputs(module, ["2.weight", "0.weight"])
    chosen = ModuleOutputs(module, ["2.weight", "0.weight"], entries)
    origin = torch.zeros(whole.size, dtype=torch.float64)
    dense = torch.func.hessian(lambda z: nn.functional.cross_entropy(whole(z, batch), batch[1]))(origin)
    torch.testing.assert_close(to_dense(Hessian(objective_of(whole, batch), origin)), dense)
    block = to_dense(Hessian(objective_of(chosen, batch), origin[:3]))
    torch.testing.assert_close(block, dense[entries][:, entries])


def test_wrong_names_and_positions_are_refused(module):
    with pytest.raises(ValueError, match="no parameter 'bias'; it has 0.weight"):
        ModuleOutputs(module, ["bias"])
    for entries in ([0, 0], [22], [-1]):
        with pytest.raises(ValueError, match="different positions from 0 to 21"):
            ModuleOutputs(module, ["0.weight", "2.weight", "2.bias"], torch.tensor(entries))
