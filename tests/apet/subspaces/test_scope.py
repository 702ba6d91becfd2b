"""Scope: every tensor of four architectures has the expected roles and layer, and a line of text selects exactly the expected tensors."""

import re
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from resident_cases import MODELS, SMALL, Net, transformer
from tiny_cases import SIZES, random_model
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from apet.errors import UsageError
from apet.methods import make_tunable
from apet.subspaces.placement import place
from apet.subspaces.scope import kind_label, layer_label, layer_of, tensor_roles
from apet.subspaces.space import ParameterSpace

CASES = {
    **MODELS,
    "bert of words": lambda: BertForMaskedLM(BertConfig(**SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)),
}

BERT = {
    "bert.embeddings.word_embeddings.weight": "embeddings token-tables",
    "bert.embeddings.position_embeddings.weight": "embeddings positions",
    "bert.embeddings.token_type_embeddings.weight": "embeddings",
    "bert.embeddings.LayerNorm.weight": "norms",
    "bert.embeddings.LayerNorm.bias": "norms biases",
    "bert.encoder.layer.[01].attention.self.*.weight": "encoder attention weights",
    "bert.encoder.layer.[01].attention.self.*.bias": "encoder attention biases",
    "bert.encoder.layer.[01].attention.output.dense.weight": "encoder attention weights",
    "bert.encoder.layer.[01].attention.output.dense.bias": "encoder attention biases",
    "bert.encoder.layer.[01].intermediate.dense.weight": "encoder feed-forward weights",
    "bert.encoder.layer.[01].intermediate.dense.bias": "encoder feed-forward biases",
    "bert.encoder.layer.[01].output.dense.weight": "encoder feed-forward weights",
    "bert.encoder.layer.[01].output.dense.bias": "encoder feed-forward biases",
    "bert.encoder.layer.[01]*LayerNorm.weight": "encoder norms",
    "bert.encoder.layer.[01]*LayerNorm.bias": "encoder norms biases",
}
ROLES = {
    "bert": {
        **BERT,
        "bert.pooler.dense.weight": "weights",
        "bert.pooler.dense.bias": "biases",
        "classifier.weight": "head weights",
        "classifier.bias": "head biases",
    },
    "bert of words": {
        **{tensor: roles for tensor, roles in BERT.items() if "word_embeddings" not in tensor},
        "cls.predictions.decoder.weight": "embeddings token-tables head weights",
        "cls.predictions.bias": "head token-tables biases",
        "cls.predictions.transform.dense.weight": "head weights",
        "cls.predictions.transform.dense.bias": "head biases",
        "cls.predictions.transform.LayerNorm.weight": "head norms",
        "cls.predictions.transform.LayerNorm.bias": "head norms biases",
    },
    "t5": {
        "shared.weight": "embeddings token-tables head weights encoder decoder",
        "encoder.block.[01].layer.0.SelfAttention.[qkvo].weight": "encoder attention weights",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "encoder attention positions embeddings",
        "encoder.block.[01].layer.1.DenseReluDense.w[io].weight": "encoder feed-forward weights",
        "encoder.*layer_norm.weight": "encoder norms",
        "decoder.block.[01].layer.0.SelfAttention.[qkvo].weight": "decoder attention weights",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "decoder attention positions embeddings",
        "decoder.block.[01].layer.1.EncDecAttention.[qkvo].weight": "decoder attention weights",
        "decoder.block.[01].layer.2.DenseReluDense.w[io].weight": "decoder feed-forward weights",
        "decoder.*layer_norm.weight": "decoder norms",
    },
    "bloom": {
        "lm_head.weight": "embeddings token-tables head weights",
        "transformer.word_embeddings_layernorm.weight": "norms",
        "transformer.word_embeddings_layernorm.bias": "norms biases",
        "transformer.h.[01].*_layernorm.weight": "decoder norms",
        "transformer.h.[01].*_layernorm.bias": "decoder norms biases",
        "transformer.h.[01].self_attention.*.weight": "decoder attention weights",
        "transformer.h.[01].self_attention.*.bias": "decoder attention biases",
        "transformer.h.[01].mlp.*.weight": "decoder feed-forward weights",
        "transformer.h.[01].mlp.*.bias": "decoder feed-forward biases",
        "transformer.ln_f.weight": "decoder norms",
        "transformer.ln_f.bias": "decoder norms biases",
    },
    "gpt2": {
        "lm_head.weight": "embeddings token-tables head weights",
        "transformer.wpe.weight": "embeddings positions",
        "transformer.h.[01].ln_[12].weight": "decoder norms",
        "transformer.h.[01].ln_[12].bias": "decoder norms biases",
        "transformer.h.[01].attn.*.weight": "decoder attention weights",
        "transformer.h.[01].attn.*.bias": "decoder attention biases",
        "transformer.h.[01].mlp.*.weight": "decoder feed-forward weights",
        "transformer.h.[01].mlp.*.bias": "decoder feed-forward biases",
        "transformer.ln_f.weight": "decoder norms",
        "transformer.ln_f.bias": "decoder norms biases",
    },
}
IN_A_BLOCK = re.compile(r"(encoder|decoder)\.(?:block|layer)\.(\d)\.|transformer\.(h)\.(\d)\.")
every_model = pytest.mark.parametrize("name", CASES)


def bare(name: str) -> nn.Module:
    with torch.device("meta"):
        return CASES[name]()


def selected(model: nn.Module, scope: str) -> set[str]:
    return set(ParameterSpace.of(model, scope).names)


def names(model: nn.Module) -> set[str]:
    """Return the name of every parameter, and the shortest name of a tied parameter."""
    shortest: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        shortest[id(p)] = min(shortest.get(id(p), name), name, key=lambda candidate: (len(candidate), candidate))
    return set(shortest.values())


def matching(model: nn.Module, pattern: str) -> set[str]:
    return {name for name in names(model) if re.search(pattern, name)}


@every_model
def test_every_tensor_has_its_roles(name):
    roles_by_name = tensor_roles(bare(name))
    for tensor, roles in roles_by_name.items():
        (expected,) = [expected for pattern, expected in ROLES[name].items() if fnmatchcase(tensor, pattern)]
        assert roles == {"all", *expected.split()}, tensor
    assert all(any(fnmatchcase(tensor, pattern) for tensor in roles_by_name) for pattern in ROLES[name])


@every_model
def test_every_tensor_of_a_block_has_a_layer_and_a_side(name):
    for tensor in names(bare(name)):
        block = IN_A_BLOCK.search(tensor)
        side = block and (block[1] or "decoder")
        assert layer_of(tensor) == (int(block[2] or block[4]) if block else None)
        assert layer_label(tensor) == (f"{side} {layer_of(tensor)}" if block else "outside")


@every_model
def test_every_tensor_is_of_one_kind_that_is_among_its_roles(name):
    roles_by_name = tensor_roles(bare(name))
    assert all(kind_label(roles) in roles for roles in roles_by_name.values())
    assert {kind_label(roles) for roles in roles_by_name.values()} >= {"norms", "token-tables", "attention", "feed-forward"}


@every_model
def test_token_tables_are_in_scope_only_where_asked_for(name):
    model = bare(name)
    tables = {tensor for tensor, roles in tensor_roles(model).items() if "token-tables" in roles}
    assert tables == matching(model, r"word_embeddings\.weight|shared\.weight|lm_head\.weight|cls\.predictions\.(decoder\.weight|bias)")
    assert selected(model, "") == names(model) - tables
    for scope in ("weights", "!norms", "!head", "!token-tables", "layers:0-9", "!layers:0", "norms|attention"):
        assert not selected(model, scope) & tables, scope
    for scope in ("token-tables", "all", "token-tables|attention"):
        assert selected(model, scope) >= tables, scope
    assert selected(model, "embeddings") == {tensor for tensor, roles in tensor_roles(model).items() if "embeddings" in roles}
    assert selected(model, "all") == names(model)


def test_the_head_of_a_classifier_needs_no_asking():
    assert selected(bare("bert"), "") > selected(bare("bert"), "head") == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("scope", "pattern"),
    [
        ("attention", r"Attention\."),
        ("encoder attention", r"^encoder.*Attention\."),
        ("encoder attention weights", r"^encoder.*Attention\.[qkvo]\."),
        ("attention|feed-forward weights", r"Attention\.[qkvo]\.|Dense\."),
        ("norms|positions", r"norm\.|relative"),
        ("!attention", r"norm\.|Dense\."),
        ("!attention !norms", r"Dense\."),
        ("!attention|norms", r"norm\.|Dense\."),
        ("!attention|encoder", r"^encoder|norm\.|Dense\."),
        ("attention !positions", r"Attention\.[qkvo]\."),
        ("layers:1", r"block\.1\."),
        ("layer:1 decoder", r"decoder\.block\.1\."),
        ("layers:0-1", r"block\.[01]\."),
        ("layers:1-7", r"block\.1\."),
        ("!layers:0", r"block\.1\.|final"),
        ("layers:0 !norms decoder", r"decoder\.block\.0.*(Attention|Dense)\."),
        ("*.q.weight", r"\.q\.weight"),
        ("*.wi.weight|*.wo.weight decoder", r"^decoder.*\.w[io]\."),
        ("!*.q.weight !*.k.weight attention weights", r"Attention\.[vo]\."),
        ("!*.o.weight encoder|decoder", r"^(encoder|decoder)(?!.*\.o\.)"),
        ("encoder.final_layer_norm.weight", r"encoder\.final"),
        ("shared.weight", r"shared"),
        ("shared.*|norms", r"norm\."),
        ("encoder all", r"^encoder|shared"),
    ],
)
def test_a_scope_selects_exactly_what_it_says(scope, pattern):
    assert selected(bare("t5"), scope) == matching(bare("t5"), pattern)


@pytest.mark.parametrize(
    ("scope", "near"), [("atention", "attention"), ("norm", "norms"), ("bias|norms", "biases"), ("!decodr", "decoder")]
)
def test_an_unknown_term_is_one_error_that_suggests_the_nearest(scope, near):
    with pytest.raises(UsageError, match=f"unknown scope '.*': did you mean .*{near}"):
        ParameterSpace.of(bare("t5"), scope)


@pytest.mark.parametrize("scope", ["layers:", "layers:a", "layers:0-", "0-3", "norms|", "!"])
def test_a_term_that_is_no_role_range_or_pattern_is_a_usage_error(scope):
    with pytest.raises(UsageError, match="unknown scope"):
        ParameterSpace.of(bare("t5"), scope)


@pytest.mark.parametrize("scope", ["biases", "layers:7", "encoder decoder", "*.nothing", "attention !attention", "new"])
def test_a_scope_that_holds_nothing_is_an_error_that_names_it_and_what_is_there(scope):
    with pytest.raises(UsageError) as refused:
        ParameterSpace.of(bare("t5"), scope)
    assert f"'{scope}'" in str(refused.value)
    assert all(role in str(refused.value) for role in ("attention", "decoder", "encoder", "feed-forward", "norms", "token-tables"))
    assert "biases" not in str(refused.value).replace(f"'{scope}'", "")


@every_model
def test_the_space_holds_every_scalar_once_tied_or_not(name):
    model = bare(name)
    space = ParameterSpace.of(model, "all")
    assert space.size == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    assert space.names == sorted(set(space.names))
    assert space.offsets.tolist() == [0, *np.cumsum(space.sizes)]
    assert [roles for _, roles in sorted(tensor_roles(model).items())] == list(space.roles)


def test_a_tied_tensor_has_the_roles_of_all_its_places():
    net = Net()
    assert "table.weight" not in ParameterSpace.of(net, "all").names
    assert tensor_roles(net)["head.weight"] >= {"embeddings", "weights"}


def test_the_name_of_a_tied_tensor_does_not_depend_on_the_order_of_modules():
    def tied(order: tuple[str, str]) -> str:
        net, parts = nn.Module(), {"table": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)}
        parts["head"].weight = parts["table"].weight
        for part in order:
            net.add_module(part, parts[part])
        return ParameterSpace.of(net, "all").fingerprint

    assert tied(("table", "head")) == tied(("head", "table"))


def test_a_scope_beyond_the_last_layer_says_which_layers_there_are():
    with pytest.raises(UsageError, match="layers:0-1"):
        ParameterSpace.of(transformer("t5"), "layers:7")


def test_new_parameters_are_a_scope_of_their_own():
    model = transformer("t5")
    existing = names(model)
    make_tunable("adapter", model)
    assert selected(model, "new") == names(model) - existing
    assert selected(model, "!new all") == existing
    assert selected(model, "new layers:1 decoder") == matching(model, r"decoder\.block\.1\..*apet_")
    assert {kind_label(roles) for name, roles in tensor_roles(model).items() if name not in existing} == {"new"}


class Halves(nn.Module):
    def __init__(self, order: str):
        super().__init__()
        parts = {"a": nn.Linear(3, 4), "b": nn.LayerNorm(4), "c": nn.Embedding(5, 3)}
        for part in order:
            self.add_module(part, parts[part])


def test_the_space_does_not_depend_on_the_order_of_modules():
    one, *others = (ParameterSpace.of(Halves(order)) for order in ("abc", "cba", "bca"))
    for other in others:
        assert other == one and other.fingerprint == one.fingerprint
        assert np.array_equal(place(other, 9, 0).index, place(one, 9, 0).index)


@every_model
def test_the_space_does_not_depend_on_the_device(name):
    assert ParameterSpace.of(bare(name), "all") == ParameterSpace.of(CASES[name](), "all")


def test_different_scopes_and_shapes_have_different_fingerprints():
    scopes = ["", "all", "attention", "feed-forward", "encoder", "layers:0"]
    assert len({ParameterSpace.of(bare("t5"), scope).fingerprint for scope in scopes}) == len(scopes)
    shapes = [ParameterSpace.of(nn.Linear(*shape)).fingerprint for shape in ((3, 4), (4, 3), (3, 5))]
    assert len(set(shapes)) == 3


@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind not in ("mamba", "mamba2")])  # a state space is neither of the two
def test_every_tensor_of_any_block_has_a_layer_and_is_attention_feed_forward_or_norm(kind):
    changes = {"cls_token_id": 2, "sep_token_id": 2} if kind == "modernbert" else {}
    model, _ = random_model(kind, vocab_size=96, **changes)
    inside = {name: roles for name, roles in tensor_roles(model).items() if re.search(r"\.\d+\.", name)}
    assert {layer_of(name) for name in inside} >= {0}
    for name, roles in inside.items():
        assert layer_of(name) is not None, name
        assert len(roles & {"attention", "feed-forward", "norms", "positions"}) >= 1, name
        assert not {"attention", "feed-forward"} <= roles, name
        assert ("biases" in roles) == name.endswith("bias"), name
