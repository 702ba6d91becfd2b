"""The Gram matrix of label-word logit differences equals J J' with the Jacobian J from autograd (row by row), summed in float64."""

import pytest
import torch
import torch.nn.functional as F
from scoring_cases import fresh
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertForMaskedLM, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from apet.gram.factors import Factors
from apet.gram.jacobian import gram_matrix
from apet.models.loading import Loaded, load_model
from apet.scoring import Scorer, scorer_of
from apet.subspaces.scope import all_names, only_trainable
from apet.subspaces.space import ParameterSpace
from apet.tasks.generated.sentiment import generate
from apet.tasks.task_table import TASKS, Task

ROWS = generate("train", 5)
THREE = Task("three", "{sentence} it was {slot}.", ("sentence",), words=("terrible", "fine", "great"))
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 4096}
CAUSAL = WIDE | {"num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
OTHERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**CAUSAL, tie_word_embeddings=True)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**CAUSAL, num_local_experts=4, num_experts_per_tok=1)),  # experts in one tensor
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(**WIDE, embedding_size=16, pad_token_id=0)),  # one layer, used twice
}
MODELS = ("t5", "bert", "bloom", "gpt2", *OTHERS)


def loaded(name: str) -> Loaded:
    if name not in OTHERS:
        return fresh(name)
    torch.manual_seed(0)
    model, masked = OTHERS[name]().eval(), name == "albert"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 8
    like = load_model("mini-bert-120k" if masked else "mini-bloom-120k", random_init=True, shapes_only=True)
    return Loaded(name, model, like.tokenizer, 0, 0, "", like.form)


def jacobian(model: nn.Module, space: ParameterSpace, scorer: Scorer) -> Tensor:
    """Return J (m, D)."""
    tensors, rows = [all_names(model)[name] for name in space.names], []
    with only_trainable(model, tensors):
        for batch in scorer.batches(ROWS, 1):
            logits = scorer.logits(model, batch)[0]
            for difference in logits[1:] - logits[0]:
                gradients = torch.autograd.grad(difference, tensors, retain_graph=True, allow_unused=True, materialize_grads=True)
                rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows).double().cpu()


def agrees(model: nn.Module, space: ParameterSpace, scorer: Scorer, **options) -> None:
    rows = jacobian(model, space, scorer)
    expected = rows @ rows.T
    actual, active = gram_matrix(model, space, scorer, ROWS, **options)
    assert actual.dtype == torch.float64
    norms = expected.diag().sqrt()
    assert float(((actual - expected) / norms / norms[:, None]).abs().max()) < 1e-5
    assert active == pytest.approx(float((rows != 0).any(0).double().mean()), abs=1e-4)


@pytest.mark.parametrize("scope", ["", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_that_of_the_jacobian(name, scope, device):
    model = loaded(name)
    model.model.to(device)
    space = ParameterSpace.of(model.model, *([scope] if scope else []))
    flags = [p.requires_grad for p in model.model.parameters()]
    agrees(model.model, space, scorer_of(model, THREE, device=device))
    assert [p.requires_grad for p in model.model.parameters()] == flags


@pytest.mark.parametrize("memory", [0, 300_000])
def test_little_memory_takes_the_tensors_in_groups(memory):
    model, reports = loaded("bert"), []
    space = ParameterSpace.of(model.model, "all")
    agrees(model.model, space, scorer_of(model, THREE), memory=memory, report=lambda done, total: reports.append((done, total)))
    assert reports[-1][0] == reports[-1][1] and reports[-1][1] > 2 * len(ROWS) * 2


@pytest.mark.parametrize("way", [Factors._by_rows, Factors._by_tokens])
def test_both_ways_to_the_inner_products_agree_in_small_blocks(way, monkeypatch):
    monkeypatch.setattr("apet.gram.factors.BLOCK", 3_000)
    random = torch.Generator().manual_seed(0)
    weights = Factors((7, 5), 3), Factors((7, 5), 3)
    gradients = torch.zeros(2, 3, 7, 5, dtype=torch.float64)
    for row in range(3):
        for tokens in (4, 1, 9):
            right = torch.randn(tokens, 5, generator=random, dtype=torch.float64)
            left = torch.randn(tokens, 7, generator=random, dtype=torch.float64)
            read = torch.randint(7, (tokens,), generator=random)
            weights[0].add(row, left, right)
            weights[1].add(row, read, right)
            gradients[0, row] += left.T @ right
            gradients[1, row] += F.one_hot(read, 7).double().T @ right
    for weight, gradient in zip(weights, gradients.flatten(2), strict=True):
        torch.testing.assert_close(way(weight), gradient @ gradient.T, rtol=1e-12, atol=1e-12)


class Odd(nn.Module):
    """A weight in a linear layer whose output is changed in place, and in an operation that has no known factors."""

    def __init__(self):
        super().__init__()
        self.inner, self.twice, self.last = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        h.mul_(torch.sigmoid(x)).relu_()
        h = self.twice(h)
        h += x @ self.twice.weight.t().tanh()
        return self.last(h.relu_())


class Vectors(Scorer):
    """An example is its own input."""

    def __init__(self):
        self.task, self.device = THREE, "cpu"

    def _tokenize(self, examples):
        raise NotImplementedError

    def _write(self, model, batch, pieces):
        raise NotImplementedError

    def encode(self, examples):
        return [{"input_ids": torch.randn(6, generator=torch.Generator().manual_seed(i)).tolist()} for i in range(len(examples))]

    def collate(self, items):
        return {"x": torch.tensor([item["input_ids"] for item in items])}

    def logits(self, model, batch):
        return model(batch["x"])


def test_operations_in_place_and_weights_that_are_used_otherwise_too():
    torch.manual_seed(0)
    model = Odd()
    agrees(model, ParameterSpace.of(model, "all"), Vectors())


def test_sentences_of_a_known_task_are_scored_in_two_classes():
    model = loaded("t5")
    agrees(model.model, ParameterSpace.of(model.model), scorer_of(model, TASKS["mini-sentiment"]))
