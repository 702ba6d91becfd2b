"""The usual methods have the counts of the reference table and the base model's function at the start, and tune nothing else."""

import pytest
import torch
from resident_cases import MODELS, every_transformer, tokens, transformer, transformer_loss
from tiny_cases import tiny
from torch import Tensor, nn
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

from apet.errors import UsageError
from apet.methods import BASELINES, METHODS, PlacementConfig, TunableModel, count_tuned, make_tunable, tunable_space
from apet.methods.tunable_model import classification_head
from apet.scoring import scorer_of
from apet.tasks.task_table import TASKS

every_baseline = pytest.mark.parametrize("method", BASELINES)
SAME_FUNCTION = ("full", "bitfit", "adapter", "lora")
every_same_function = pytest.mark.parametrize("method", SAME_FUNCTION)
# A prompt of 100 tokens is longer than the position tables of the other two.
mounts = pytest.mark.parametrize(
    ("method", "name"), [(m, name) for m in BASELINES for name in MODELS if m in SAME_FUNCTION or name in ("t5", "bloom")]
)


def bloom(width: int, layers: int, heads: int) -> nn.Module:
    return BloomForCausalLM(BloomConfig(vocab_size=250_880, hidden_size=width, n_layer=layers, n_head=heads))


def t5(width: int, feed_forward: int, layers: int, heads: int) -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=32_128,
            d_model=width,
            d_kv=64,
            d_ff=feed_forward,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
        )
    )


SHAPES = {
    "bloom-560m": (bloom, (1024, 24, 16)),
    "bloom-1b1": (bloom, (1536, 24, 16)),
    "bloom-7b1": (bloom, (4096, 30, 32)),
    "t5-small": (t5, (512, 1024, 8, 6)),
    "t5-base": (t5, (768, 2048, 12, 12)),
    "t5-xxl": (t5, (4096, 10_240, 24, 64)),
}
# LoRA, adapter, prompt, BitFit: the reference table with two exceptions. Its adapter count of bloom-1b1 is a copy of bloom-560m's, and its
# BitFit count of T5 is not the sum of the biases of q, k, v, o, wi_0, wi_1 and wo.
COUNTS = {
    "bloom-560m": (786_432, 2_409_600, 102_400, 272_384),
    "bloom-1b1": (1_179_648, 3_613_824, 153_600, 408_576),
    "bloom-7b1": (3_932_160, 12_043_680, 409_600, 1_359_872),
    "t5-small": (229_376, 803_584, 51_200, 80_896),
    "t5-base": (589_824, 1_807_488, 76_800, 227_328),
    "t5-xxl": (6_291_456, 19_269_888, 409_600, 2_359_296),
}


def by_hand(name: str) -> tuple[int, int, int, int]:
    family, shape = SHAPES[name]
    if family is bloom:
        width, layers, _ = shape
        blocks, lora_shapes, biases = layers, [(width, 3 * width)], (layers * (2 + 3 + 1 + 4 + 1) + 2) * width
    else:
        width, feed_forward, layers, heads = shape
        attention, dense = 3 * 64 * heads + width, 2 * feed_forward + width
        blocks, lora_shapes, biases = 2 * layers, 2 * [(width, 64 * heads)], layers * (3 * attention + 2 * dense)
    lora = blocks * sum(8 * (inside + outside) for inside, outside in lora_shapes)
    return lora, blocks * 2 * (24 * width + 24 + width * 24 + width), 100 * width, biases


@pytest.mark.parametrize("name", COUNTS)
def test_the_counts_are_the_reference_tables_on_the_exact_shapes(name):
    family, shape = SHAPES[name]
    with torch.device("meta"):
        model = family(*shape)
    assert tuple(count_tuned(method, model) for method in ("lora", "adapter", "prompt", "bitfit")) == COUNTS[name] == by_hand(name)
    assert count_tuned("full", model) == sum(p.numel() for p in model.parameters())


def logits(model: nn.Module) -> Tensor:
    ids = tokens(3, 7, below=40)
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


@every_same_function
@every_transformer
def test_the_initial_function_is_the_base_models(name, method):
    model = transformer(name).eval()
    before = logits(model)
    after = logits(make_tunable(method, model).model)
    if method == "bitfit" and name == "t5":  # a product with a bias rounds in another order
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(after, before)


@mounts
def test_only_the_named_parameters_have_gradients_and_k_is_their_number_of_scalars(name, method):
    mounted = make_tunable(method, transformer(name))
    transformer_loss(mounted.model).backward()
    parameters = dict(mounted.model.named_parameters())
    assert {tensor for tensor, p in parameters.items() if p.grad is not None} == set(mounted.trainable)
    assert {tensor for tensor, p in parameters.items() if p.requires_grad} == set(mounted.trainable)
    assert all(parameters[tensor] is p and isinstance(p, nn.Parameter) for tensor, p in mounted.trainable.items())
    assert mounted.k + mounted.k_head == sum(p.numel() for p in mounted.trainable.values())
    assert mounted.k == count_tuned(method, transformer(name))


@mounts
def test_a_step_moves_what_is_trainable_and_leaves_the_base_model_bitwise(name, method):
    model = transformer(name)
    base = {tensor: (p, p.detach().clone()) for tensor, p in model.named_parameters()}
    mounted = make_tunable(method, model)
    first = {tensor: p.detach().clone() for tensor, p in mounted.trainable.items()}
    optimizer = torch.optim.SGD(mounted.trainable.values(), lr=1.0)
    for _ in range(2):  # the first step cannot move parameters behind a zero
        optimizer.zero_grad()
        transformer_loss(mounted.model).backward()
        optimizer.step()
    mounted.write()
    tuned = {id(p) for p in mounted.trainable.values()}
    assert all(torch.equal(p, before) for p, before in base.values() if id(p) not in tuned)
    moved = [not torch.equal(p, first[tensor]) for tensor, p in mounted.trainable.items()]
    assert any(moved) if method in ("full", "bitfit") else all(moved)


def test_apet_tunes_one_vector_of_k_scalars():
    model = transformer("t5")
    mounted = make_tunable("apet", model, PlacementConfig(k=50))
    transformer_loss(model).backward()
    assert list(mounted.trainable) == ["z"] and mounted.k == mounted.placement.k == 50
    assert mounted.trainable["z"].grad.count_nonzero() > 25
    assert all(p.grad is None for p in model.parameters())


def test_bitfit_gives_zero_biases_to_a_model_without_any_but_not_to_its_head():
    model = transformer("t5")
    before = {tensor for tensor, _ in model.named_parameters()}
    linear = {path for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    mounted = make_tunable("bitfit", model)
    assert {tensor for tensor, _ in model.named_parameters()} - before == {f"{path}.bias" for path in linear - {"lm_head"}}
    assert model.lm_head.bias is None
    assert all(tensor not in before and not p.any() for tensor, p in mounted.trainable.items())


@pytest.mark.parametrize("name", ["bert", "bloom", "gpt2"])
def test_bitfit_adds_nothing_to_a_model_with_biases_and_tunes_them_all(name):
    model = transformer(name)
    before = {tensor: id(p) for tensor, p in model.named_parameters()}
    mounted = make_tunable("bitfit", model)
    assert {tensor: id(p) for tensor, p in model.named_parameters()} == before
    assert set(mounted.trainable) == {tensor for tensor in before if tensor.endswith("bias")} | mounted.head


def test_a_single_bias_is_enough_for_bitfit_to_add_none():
    model = transformer("t5")
    wi = model.encoder.block[1].layer[1].DenseReluDense.wi
    wi.bias = nn.Parameter(torch.ones(48))
    assert list(make_tunable("bitfit", model).trainable) == ["encoder.block.1.layer.1.DenseReluDense.wi.bias"]


@pytest.mark.parametrize("method", ["bitfit", "adapter"])
def test_new_parameters_have_the_dtype_of_the_weights_beside_them(method):
    model = transformer("t5").to(torch.bfloat16).eval()
    before = logits(model)
    mounted = make_tunable(method, model)
    assert all(p.dtype == torch.bfloat16 for p in mounted.trainable.values())
    torch.testing.assert_close(logits(mounted.model), before, rtol=0.02, atol=0.02)


@every_baseline
def test_matched_tunes_as_many_entries_as_the_method_has(method):
    mounted = make_tunable("apet", transformer("t5"), PlacementConfig(matched=method, scope="all"))
    assert mounted.k == mounted.placement.requested == make_tunable(method, transformer("t5")).k


def test_either_k_or_a_method_to_match_is_needed():
    assert make_tunable("apet", transformer("t5"), PlacementConfig(matched="prompt")).k == 100 * 32
    for choice in (PlacementConfig(), PlacementConfig(k=3, matched="prompt")):
        with pytest.raises(UsageError, match="either the number of tuned parameters or a method to match"):
            make_tunable("apet", transformer("t5"), choice)


@pytest.mark.parametrize("method", ["prompt", "lora", "adapter"])
def test_an_unknown_architecture_is_a_usage_error(method):
    with pytest.raises(UsageError):
        make_tunable(method, nn.Sequential(nn.Linear(2, 2)))


def test_gpt2_takes_a_prompt():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=160))
    ids = torch.randint(1, 40, (3, 7))
    make_tunable("prompt", model).model(input_ids=ids, labels=ids).loss.backward()


def test_a_second_adapter_is_refused():
    model = transformer("t5")
    make_tunable("adapter", model)
    with pytest.raises(UsageError, match="already has new parameters"):
        make_tunable("adapter", model)


@every_baseline
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_counting_leaves_the_model_and_the_random_numbers_alone(name, method):
    model = transformer(name)
    frozen = next(model.parameters()).requires_grad_(False)
    modules = {path: id(m) for path, m in model.named_modules()}
    parameters = {tensor: (id(p), p.detach().clone(), p.requires_grad, p._version) for tensor, p in model.named_parameters()}
    numbers = torch.get_rng_state()
    counted = count_tuned(method, model)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert {path: id(m) for path, m in model.named_modules()} == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for tensor, p in model.named_parameters():
        identity, before, flag, version = parameters.pop(tensor)
        assert (id(p), p.requires_grad, p._version) == (identity, flag, version) and torch.equal(p, before)
    assert not parameters and not frozen.requires_grad
    assert counted == make_tunable(method, model).k


def test_a_tied_tensor_counts_once():
    model = transformer("bloom")
    assert count_tuned("full", model) == sum(p.numel() for p in model.parameters()) == make_tunable("full", model).k


@pytest.mark.parametrize(("method", "near"), [("bitfitt", "bitfit"), ("loar", "lora"), ("adaptor", "adapter"), ("promt", "prompt")])
def test_an_unknown_method_is_an_error_that_suggests_the_nearest(method, near):
    for attempt in (
        lambda: make_tunable(method, nn.Linear(2, 2)),
        lambda: count_tuned(method, nn.Linear(2, 2)),
        lambda: make_tunable("apet", nn.Linear(2, 2), PlacementConfig(matched=method)),
    ):
        with pytest.raises(UsageError, match=f"unknown method '{method}': did you mean {near}"):
            attempt()


def test_apet_without_a_number_of_entries_is_a_usage_error():
    with pytest.raises(UsageError, match="k: .*matched: "):
        make_tunable("apet", transformer("t5"))


def test_apet_with_more_entries_than_the_scope_holds_is_a_usage_error():
    with pytest.raises(UsageError, match="k = 65 is outside 1..64"):
        make_tunable("apet", transformer("t5"), PlacementConfig(k=65, scope="norms layers:0 encoder"))
    with pytest.raises(UsageError, match="is outside"):
        make_tunable("apet", transformer("t5"), PlacementConfig(matched="full"))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)


def test_an_adapter_on_an_unknown_architecture_is_a_usage_error_that_names_it():
    for attempt in (lambda: make_tunable("adapter", Plain()), lambda: count_tuned("adapter", Plain())):
        with pytest.raises(UsageError, match="Plain has no self-attention in a list of blocks"):
            attempt()


def test_two_bottlenecks_a_block_behind_self_attention_and_feed_forward():
    mounted = make_tunable("adapter", transformer("t5"))
    plugged = {tensor.partition(".apet_plug")[0] for tensor in mounted.trainable}
    expected = {f"{side}.block.{i}.layer.0.SelfAttention.o" for side in ("encoder", "decoder") for i in (0, 1)}
    expected |= {f"{side}.block.{i}.layer.{n}.DenseReluDense.wo" for side, n in (("encoder", 1), ("decoder", 2)) for i in (0, 1)}
    assert plugged == expected


def test_lora_is_of_rank_eight_on_the_queries_and_values_of_self_attention():
    mounted = make_tunable("lora", transformer("t5"))
    tuned = {tensor.partition(".lora")[0] for tensor in mounted.trainable}
    expected = {f"{side}.block.{i}.layer.0.SelfAttention.{p}" for side in ("encoder", "decoder") for i in (0, 1) for p in "qv"}
    assert tuned == expected
    assert all(min(p.shape) == 8 for p in mounted.trainable.values())


def test_a_prompt_stands_before_the_inputs():
    mounted = make_tunable("prompt", transformer("bloom"))
    assert mounted.model(input_ids=tokens(2, 5, below=40)).logits.shape[:2] == (2, 105)
    assert [tuple(p.shape) for p in mounted.trainable.values()] == [(100, 32)]


# A classification head: trained with the method, but not part of k

HEAD = 3 * 32 + 3
every_method = pytest.mark.parametrize("method", METHODS)


def classifier() -> BertForSequenceClassification:
    """Return a model with three classes and enough positions for a prompt of 100 tokens."""
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=128,
        num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def mounted_classifier(method: str, model: nn.Module) -> TunableModel:
    return make_tunable(method, model, PlacementConfig(k=50, scope="all") if method == "apet" else PlacementConfig())


def classifier_loss(model: nn.Module) -> Tensor:
    return model(input_ids=tokens(3, 7, below=40), labels=torch.tensor([0, 2, 1])).loss


def test_only_a_sequence_classifier_has_a_head_of_its_own():
    assert set(classification_head(classifier())) == {"classifier.weight", "classifier.bias"}
    for name in ("t5", "bloom", "gpt2"):
        assert classification_head(transformer(name)) == {}
        mounted = make_tunable("bitfit", transformer(name))
        assert mounted.head == frozenset() and mounted.k_head == 0


@every_method
def test_the_models_own_head_is_trained_by_every_method_and_counted_apart(method):
    model = classifier()
    head = {id(p) for p in classification_head(model).values()}
    mounted = mounted_classifier(method, model)
    assert {id(mounted.trainable[name]) for name in mounted.head} == head
    assert mounted.k_head == HEAD
    assert mounted.k == sum(p.numel() for p in mounted.trainable.values()) - HEAD
    assert mounted.k == (50 if method == "apet" else count_tuned(method, classifier()))


@every_method
def test_the_head_and_what_is_tuned_have_gradients_and_nothing_else_does(method):
    mounted = mounted_classifier(method, classifier())
    classifier_loss(mounted.model).backward()
    assert all(p.grad is not None and p.grad.any() for name, p in mounted.trainable.items() if name in mounted.head)
    assert all(p.grad is not None for p in mounted.trainable.values())
    tuned = {id(p) for p in mounted.trainable.values()}
    assert all((p.grad is not None) == p.requires_grad == (id(p) in tuned) for p in mounted.model.parameters())


@every_method
def test_one_step_moves_the_head_that_the_model_answers_with(method):
    model = classifier()
    mounted = mounted_classifier(method, model)
    before = {name: mounted.trainable[name].detach().clone() for name in mounted.head}
    classifier_loss(mounted.model).backward()
    torch.optim.SGD(mounted.trainable.values(), lr=1.0).step()
    mounted.write()
    assert all(not torch.equal(mounted.trainable[name], value) for name, value in before.items())
    with torch.no_grad():
        for name in mounted.head:
            mounted.trainable[name].zero_()
        assert not mounted.model(input_ids=tokens(3, 7, below=40)).logits.any()


def test_counts_on_a_classifier_are_those_of_its_blocks():
    model, width, layers = classifier(), 32, 2
    everything = sum(p.numel() for p in model.parameters())
    assert count_tuned("full", model) == everything - HEAD
    biases = sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias"))
    assert count_tuned("bitfit", model) == biases - 3
    assert count_tuned("lora", model) == layers * 2 * 8 * 2 * width
    assert count_tuned("adapter", model) == layers * 2 * (2 * 24 * width + 24 + width)
    assert count_tuned("prompt", model) == 100 * width
    assert count_tuned("prefix", model) == 100 * 2 * layers * width


@pytest.mark.parametrize("scope", ["", "all", "head|all", "*"])
def test_no_scope_of_apet_holds_the_head(scope):
    model = classifier()
    space = tunable_space(model, scope=scope)
    assert not {name for name in space.names if name.startswith("classifier")}
    if scope:
        assert make_tunable("apet", model, PlacementConfig(k=count_tuned("full", model), scope="all")).k == count_tuned("full", model)
        with pytest.raises(UsageError, match="is outside"):
            make_tunable("apet", classifier(), PlacementConfig(k=count_tuned("full", model) + 1, scope=scope))


@pytest.mark.parametrize("method", BASELINES)
def test_matched_on_a_classifier_is_without_its_head(method):
    assert make_tunable("apet", classifier(), PlacementConfig(matched=method, scope="all")).k == count_tuned(method, classifier())


def test_the_head_alone_is_nothing_to_place_entries_in():
    with pytest.raises(UsageError):
        make_tunable("apet", classifier(), PlacementConfig(k=1, scope="head"))


@pytest.mark.parametrize(("kind", "width"), [("t5", 4 * 12), ("llama", 2 * 8), ("gemma2", 2 * 8), ("gpt2", 32)])
def test_a_prefix_has_the_width_of_the_keys_whatever_the_models(kind, width):
    loaded = tiny(kind)  # this T5's heads are wider together than the model, these keys have fewer heads than the queries
    scorer = scorer_of(loaded, TASKS["sst2"], reserve=100)
    mounted = make_tunable("prefix", loaded.model)
    assert mounted.k == 100 * 2 * 2 * width  # tokens, keys and values, layers
    (batch,) = scorer.batches([{"sentence": "a lovely film", "label": 1}], 1)
    scorer.logits(mounted.model, batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mounted.trainable.values())
