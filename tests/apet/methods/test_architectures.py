"""LoRA and adapters work on any Transformer: their modules are found by structure, and what cannot be done is refused in one line."""

import copy
import re
from functools import lru_cache
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from resident_cases import MODELS, transformer
from tiny_cases import SIZES, random_model
from torch import Tensor, nn

from apet.errors import UsageError
from apet.methods import PlacementConfig, count_tuned, displacement, make_tunable
from apet.methods.lora import ALPHA, RANK, TARGETS, targets
from apet.methods.operations import inject

METHODS = ("lora", "adapter")
NO_ATTENTION = "has no self-attention in a list of blocks"
REFUSED = {  # (architecture, method): what the architecture lacks
    **{(kind, method): NO_ATTENTION for kind in ("mamba", "mamba2", "rwkv", "fnet") for method in METHODS},
    ("xlnet", "adapter"): r"self-attention of XLNetLMHeadModel \(transformer.layer.0.rel_attn\) has no last linear projection",
    ("xlm", "adapter"): "XLMWithLMHeadModel has no feed-forward part in one block with transformer.attentions.0",
}
COMMON = ("llama", "gpt2", "roberta", "bart", "mixtral")
PAIRS = [(kind, method) for kind in SIZES for method in METHODS]
# The names of the old table of families.
PLUGGED = {
    "t5": (r"SelfAttention\.o$", r"DenseReluDense\.wo$"),
    "bert": (r"attention\.output\.dense$", r"(?<!attention)\.output\.dense$"),
    "bloom": (r"self_attention\.dense$", r"mlp\.dense_4h_to_h$"),
    "gpt2": (r"attn\.c_proj$", r"mlp\.c_proj$"),
}
every_old_family = pytest.mark.parametrize("name", MODELS)
every_working_pair = pytest.mark.parametrize(("kind", "method"), [pair for pair in PAIRS if pair not in REFUSED])


@lru_cache
def base(kind: str) -> nn.Module:
    changes = {"cls_token_id": 2, "sep_token_id": 2} if kind == "modernbert" else {}
    return random_model(kind, vocab_size=96, **changes)[0]


def new(kind: str) -> Any:
    return copy.deepcopy(base(kind))


def answer(model: Any) -> Any:
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    return model(input_ids=ids, labels=ids)


def gradients(tunable: Any) -> dict[str, Tensor]:
    loss = answer(tunable.model).loss
    return dict(zip(tunable.trainable, torch.autograd.grad(loss, list(tunable.trainable.values())), strict=True))


@every_working_pair
def test_a_method_starts_at_the_base_model_and_learns_with_every_tensor(kind: str, method: str) -> None:
    model = new(kind)
    with torch.no_grad():
        before = answer(model)
    tunable = make_tunable(method, model)
    with torch.no_grad():
        torch.testing.assert_close(answer(tunable.model).logits, before.logits, rtol=0, atol=1e-5)
    assert 0 < tunable.k == sum(p.numel() for p in tunable.model.parameters() if p.requires_grad) == count_tuned(method, new(kind))
    optimiser = torch.optim.AdamW(tunable.trainable.values(), lr=1e-2)
    for name, gradient in gradients(tunable).items():
        tunable.trainable[name].grad = gradient
    optimiser.step()
    with torch.no_grad():
        assert answer(tunable.model).loss < before.loss
    assert all(gradient.abs().max() > 0 for gradient in gradients(tunable).values())


@pytest.mark.parametrize(("kind", "method"), REFUSED)
def test_what_an_architecture_lacks_is_one_line(kind: str, method: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[kind, method]) as error:
        make_tunable(method, new(kind))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in COMMON else pytest.mark.long) for kind in SIZES if (kind, "lora") not in REFUSED]
)
def test_lora_is_a_displacement_of_the_base_models_tensors(kind: str) -> None:
    tunable, merged = make_tunable("lora", new(kind)), new(kind)
    with torch.no_grad():
        for i, p in enumerate(tunable.trainable.values()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        for name, change in displacement({}, tunable.model).items():
            merged.get_parameter(name).add_(change)
        found, before = answer(merged).logits, answer(base(kind)).logits
        torch.testing.assert_close(found, answer(tunable.model).logits, rtol=1e-4, atol=1e-5)
        assert (found - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "names", "count"),
    [
        ("llama", r"self_attn\.[qv]_proj", 4),  # peft's own
        ("phi", r"self_attn\.[qv]_proj|mlp\.fc[12]", 8),  # peft's own
        ("bart", r"(self|encoder)_attn\.[qv]_proj", 12),  # peft's own
        ("pegasus", r"self_attn\.[qv]_proj", 8),
        ("distilbert", r"attention\.[qv]_lin", 4),
        ("modernbert", r"attn\.Wqkv", 2),
        ("mixtral", r"self_attn\.[qv]_proj", 4),
        ("xlnet", r"ff\.layer_[12]", 4),  # queries and values are not linear layers
    ],
)
def test_lora_is_on_queries_and_values_where_these_are_known(kind: str, names: str, count: int) -> None:
    found = targets(base(kind))
    assert len(found) == count and all(re.search(rf"\.({names})$", name) for name in found)


@every_old_family
def test_lora_on_the_old_families_is_unchanged_bitwise(name: str) -> None:
    ours, old = transformer(name), transformer(name)
    torch.manual_seed(0)
    tunable = make_tunable("lora", ours)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, fan_in_fan_out=name == "gpt2")
    inject_adapter_in_model(config, old)
    expected = {path: p for path, p in old.named_parameters() if "lora_" in path}
    assert [path for path in tunable.trainable if path not in tunable.head] == list(expected)
    assert all(torch.equal(tunable.trainable[path], p) for path, p in expected.items())


@every_old_family
def test_bottlenecks_on_the_old_families_are_where_they_were(name: str) -> None:
    model = transformer(name)
    expected = [path for path, _ in model.named_modules() for pattern in PLUGGED[name] if re.search(pattern, path)]
    expected = [path for path in expected if "EncDecAttention" not in path]
    leaves = [f"{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")]
    assert inject(model, ("plug",)) == sorted(f"{path}.apet_plug.{leaf}" for path in expected for leaf in leaves)


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        ("bart", ["decoder.layers.0.self_attn.out_proj", "decoder.layers.0.fc2"]),
        (
            "albert",
            ["encoder.albert_layer_groups.0.albert_layers.0.attention.dense", "encoder.albert_layer_groups.0.albert_layers.0.ffn_output"],
        ),
        ("mixtral", ["layers.0.self_attn.o_proj", "layers.0.mlp"]),
        ("qwen2_moe", ["layers.1.self_attn.o_proj", "layers.1.mlp"]),
    ],
)
def test_cross_attention_and_single_experts_take_no_bottleneck(kind: str, paths: list[str]) -> None:
    names = inject(new(kind), ("plug",))
    plugged = {name.partition(".apet_plug")[0].partition(".")[2] for name in names}
    assert plugged.issuperset(paths)
    assert not any(re.search(r"encoder_attn|experts|router", path) for path in plugged)
    assert len(plugged) == {"bart": 8, "albert": 2}.get(kind, 4)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "roberta", "bart"])
def test_apet_tunes_entries_of_bottlenecks(kind: str) -> None:
    tunable = make_tunable("apet", new(kind), PlacementConfig(k=50, operations=("plug",)))
    assert tunable.space is not None and all("apet_plug" in name for name in tunable.space.names)
    assert gradients(tunable)["z"].abs().max() > 0


def test_pytorchs_own_attention_is_refused() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)
    for method in METHODS:
        with pytest.raises(UsageError, match="TransformerEncoder has torch.nn.MultiheadAttention, which does not call its projections"):
            make_tunable(method, model)
