"""The output head at the label words and the slot alone: the same logits, without the rest of the vocabulary."""

import copy

import pytest
import torch
from scoring_cases import REVIEWS, ready
from tiny_cases import tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apet.methods import make_tunable
from apet.scoring import cross_entropy, scorer_of
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import place
from apet.subspaces.space import ParameterSpace
from apet.tasks.task_table import TASKS

TASK = TASKS["sst2"]
LOADERS = {name: (lambda name=name: ready(name)) for name in ("t5", "bloom", "bert")} | {
    name: (lambda name=name: tiny(name)) for name in ("llama", "gemma2", "gpt2", "roberta")
}
every_model = pytest.mark.parametrize("name", LOADERS)


def both_ways(name: str):
    """Return a copy of the model, a scorer that computes only the label words' rows, and a scorer that computes all rows."""
    loaded = LOADERS[name]()
    parts, whole = scorer_of(loaded, TASK), scorer_of(loaded, TASK)
    assert not parts.whole_head
    whole.whole_head = True
    return copy.deepcopy(loaded.model), parts, whole


class Widest(TorchDispatchMode):
    """Record the largest result of an operation with this many columns, in elements, except for a layer's own gradient."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns, self.most = columns, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, Tensor) and each.dim() and each.shape[-1] == self.columns:
                self.most = max(self.most, each.numel())
        return out


@every_model
@pytest.mark.parametrize("scope", ["", "head|token-tables", "all"])
def test_logits_and_derivatives_of_tuned_entries_are_those_of_the_whole_head(name, scope):
    model, parts, whole = both_ways(name)
    (batch,) = parts.batches(REVIEWS, 4)
    space = ParameterSpace.of(model, scope)
    placement = place(space, min(space.size, 400 if scope != "all" else space.size // 8), 0)
    with Coordinates(space, placement.index).attach(model) as attached:
        attached.z.data = 1e-3 * torch.randn(len(attached.z), generator=torch.Generator().manual_seed(0))
        attached.write()
        found = []
        for scorer in (parts, whole):
            attached.bind(attached.z)
            logits = scorer.logits(model, batch)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, batch)[0], attached.z, create_graph=True)
            direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(1))
            (second,) = torch.autograd.grad(gradient @ direction, attached.z)
            found.append((logits, gradient, second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4 * float(other.detach().abs().max()))


def test_entries_of_an_untied_head_keep_a_gradient_for_each_example():
    model, parts, whole = both_ways("llama")
    (batch,) = parts.batches(REVIEWS, 4)
    space = ParameterSpace.of(model, "head")
    great = int(parts.label_ids[1])
    width = dict(space.tensors)[space.names[0]][1]
    index = torch.cat([torch.arange(width) + great * width, torch.tensor([0, 5])]).numpy()  # one word's row completely, and other entries
    with Coordinates(space, index).attach(model) as attached:
        rows = attached.z.detach().expand(4, -1).clone().requires_grad_()
        gradients = []
        for scorer in (parts, whole):
            attached.bind(rows)
            gradients.append(torch.autograd.grad(cross_entropy(scorer.logits(model, batch), batch)[0], rows)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert gradients[0].abs().sum(1).min() > 0 and not gradients[0][:, :2].any()


@every_model
def test_no_tensor_of_the_vocabularys_width_is_made_in_a_training_step(name):
    model, parts, whole = both_ways(name)
    mounted = make_tunable("bitfit", model)
    (batch,) = parts.batches(REVIEWS, 4)
    widths = []
    for scorer in (parts, whole):
        with Widest(4096) as seen:
            loss, _ = cross_entropy(scorer.logits(mounted.model, batch), batch)
            loss.backward()
        widths.append(seen.most)
    assert widths[0] <= 4096  # a bias's own gradient
    assert widths[1] >= 4 * 4096


def test_a_head_with_something_behind_it_is_computed_as_a_whole():
    loaded = tiny("bart")  # adds a bias of the vocabulary's length to the head's output
    loaded.model.final_logits_bias += torch.arange(4096) / 4096
    scorer = scorer_of(loaded, TASK)
    assert scorer.whole_head
    (batch,) = scorer.batches(REVIEWS[:1], 1)
    with torch.no_grad():
        logits = loaded.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(scorer.logits(loaded.model, batch), logits[:, -1, scorer.label_ids])
