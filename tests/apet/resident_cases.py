"""Models, losses and dense oracles for the tests of resident weights."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from apet.subspaces import KERNELS, Attached
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import random_entries
from apet.subspaces.scope import all_names
from apet.subspaces.space import ParameterSpace

Loss = Callable[[nn.Module], Tensor]


class Net(nn.Module):
    """Norms with weight and bias, a layer used twice, a table tied with the head, entries unlike their initial values."""

    def __init__(self, checkpointed: bool = False):
        super().__init__()
        self.table, self.norm, self.last = nn.Embedding(11, 6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.twice, self.narrow, self.wide = nn.Linear(6, 6), nn.Linear(6, 4, bias=False), nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight
        self.checkpointed, self.blocks_run = checkpointed, 0
        randomise(self.double())

    def block(self, h: Tensor) -> Tensor:
        self.blocks_run += 1
        h = h + torch.tanh(self.twice(self.norm(h)))
        return h + self.wide(F.gelu(self.narrow(self.scale * h)))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids)
        for _ in range(2):
            h = checkpoint(self.block, h, use_reentrant=False) if self.checkpointed else self.block(h)
        return self.head(self.last(h))


def randomise(model: nn.Module) -> nn.Module:
    """Move every parameter, so that no bias is zero and no norm's weight one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator).to(p.dtype)
    return model


def tokens(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(1, below, shape, generator=torch.Generator().manual_seed(seed))


def net_loss(model: nn.Module, seed: int = 0) -> Tensor:
    return F.cross_entropy(model(tokens(3, 5, below=11, seed=seed)).flatten(0, 1), tokens(15, below=11, seed=seed + 100))


SMALL = {"vocab_size": 40, "attn_implementation": "eager"}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            **SMALL,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**SMALL, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0, decoder_start_token_id=0)
    ),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SMALL, **NO_DROPOUT, hidden_size=32, n_layer=2, n_head=2)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ),
}


def transformer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(MODELS[name]())


def transformer_loss(model: nn.Module, seed: int = 0) -> Tensor:
    ids = tokens(3, 7, below=40, seed=seed)
    labels = torch.tensor([0, 1, 1]) if isinstance(model, BertForSequenceClassification) else tokens(3, 7, below=40, seed=seed + 100)
    return model(input_ids=ids, labels=labels).loss


def on(model: nn.Module, k: int | None = None, seed: int = 0) -> Coordinates:
    space = ParameterSpace.of(model, "all")
    return Coordinates(space, random_entries(space.size, k or space.size, seed))


def dense_gradient(model: nn.Module, loss: Loss) -> dict[str, Tensor]:
    parameters = all_names(model)
    gradients = torch.autograd.grad(loss(model), list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def dense_hessian_product(model: nn.Module, loss: Loss, direction: dict[str, Tensor]) -> dict[str, Tensor]:
    parameters = all_names(model)
    gradients = torch.autograd.grad(loss(model), list(parameters.values()), create_graph=True, materialize_grads=True)
    slope = sum((g * direction[name]).sum() for name, g in zip(parameters, gradients, strict=True) if name in direction)
    return dict(zip(parameters, torch.autograd.grad(slope, list(parameters.values()), materialize_grads=True), strict=True))


def hessian_product(model: nn.Module, loss: Loss, z: Tensor, v: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss(model), z, create_graph=True)
    return torch.autograd.grad(gradient @ v, z)[0]


def added(model: nn.Module, coordinates: Coordinates, z: Tensor) -> dict[str, Tensor]:
    moved = {name: p.detach() for name, p in all_names(model).items()}
    return {name: moved[name] + change for name, change in coordinates.lift(z).items()}


def close(found: Tensor, expected: Tensor, relative: float, scale: Tensor | float = 0.0) -> None:
    """The error is below `relative` of the expected vector's norm, or of `scale` where the vector may be small by chance."""
    assert (found - expected).norm() <= relative * (expected.norm() + scale)


def typical(gradient: dict[str, Tensor], k: int) -> Tensor:
    """The norm of k entries of ordinary size."""
    every = torch.cat([g.flatten() for g in gradient.values()])
    return every.norm() * (k / len(every)) ** 0.5


every_kernel = pytest.mark.parametrize("kernel", [None, *KERNELS])
every_k = pytest.mark.parametrize("k", [1, 300, None])
every_transformer = pytest.mark.parametrize("name", MODELS)


def by_example(model: nn.Module, coordinates: Coordinates, x: Tensor) -> Iterator[Tensor]:
    for i in range(len(x)):
        yield coordinates.pull(dense_gradient(model, lambda m, i=i: m(x[i : i + 1]).sin().sum()))


def bound_by_example(attached: Attached, batch: int) -> Tensor:
    z = torch.zeros(batch, len(attached.z), dtype=torch.float64, requires_grad=True)
    attached.bind(z)
    return z
