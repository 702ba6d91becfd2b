"""Options of methods as text: canonical, checked, and with a dial that takes a requested number of parameters."""

import pytest
import torch
from resident_cases import transformer
from tiny_cases import random_model

from apet.errors import UsageError
from apet.methods import (
    METHODS,
    PlacementConfig,
    chosen_options,
    count_tuned,
    make_tunable,
    method_named,
    read_options,
    tokens_taken,
    written,
)


@pytest.mark.parametrize(
    ("method", "text", "canonical"),
    [
        ("lora", "r=4,alpha=32", "alpha=32,r=4"),
        ("lora", " r = 4 , alpha=16", "r=4"),
        ("lora", "alpha=32.0", "alpha=32"),
        ("lora", "alpha=0.5", "alpha=0.5"),
        ("lora", "targets=q|v,r=08", "targets=q|v"),
        ("prompt", "tokens=100", ""),
        ("peft:vera", "target_modules=q_proj|v_proj,r=256", "target_modules=q_proj|v_proj"),
        ("peft:hira", "init_weights=gaussian", "init_weights=gaussian"),
        ("peft:oft", "coft=TRUE", "coft=true"),
        ("peft:osf", "effective_rank=0.5", "effective_rank=0.5"),
        ("peft:vera", "layers_to_transform=1", "layers_to_transform=1"),
    ],
)
def test_the_canonical_text_has_neither_defaults_nor_an_order_of_its_own(method, text, canonical):
    options = read_options(method_named(method), text)
    assert written(options) == canonical
    assert read_options(method_named(method), canonical) == options


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("lora", "rank=4", "lora has no option 'rank'"),
        ("lora", "alph=4", "lora has no option 'alph': did you mean alpha"),
        ("lora", "r=0", "r = 0 is not possible: r of lora is a whole number of at least 1"),
        ("lora", "r=4.5", "r = 4.5 is not possible"),
        ("lora", "alpha=nan", "alpha = nan is not possible: alpha of lora is a number of at least 0"),
        ("lora", "r=4,r=8", "the option r of lora is given twice"),
        ("lora", "r", "'r' does not set an option of lora: use method_option"),
        ("full", "r=4", "full has no options, but r=4 is given"),
        ("peft:deft", "decomposition_method=svd", "decomposition_method of peft:deft is one of relu, qr"),
    ],
)
def test_a_wrong_option_is_one_line(method, text, message):
    with pytest.raises(UsageError, match=message) as error:
        read_options(method_named(method), text)
    assert "\n" not in str(error.value)


def test_options_reach_the_method():
    tunable = make_tunable("lora", transformer("t5"), PlacementConfig(options="r=2,alpha=8,targets=SelfAttention.k"))
    assert {min(p.shape) for p in tunable.trainable.values()} == {2}
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in tunable.trainable} == {"k"}
    scales = {layer.scaling["default"] for layer in tunable.model.modules() if hasattr(layer, "lora_A")}
    assert scales == {4.0}
    small, usual = (make_tunable("adapter", transformer("t5"), PlacementConfig(options=text)) for text in ("size=6", ""))
    biases = sum(p.numel() for name, p in usual.trainable.items() if name.endswith("up.bias"))
    assert small.k - biases == (usual.k - biases) / 4
    assert make_tunable("prompt", transformer("t5"), PlacementConfig(options="tokens=3")).k == 3 * 32
    assert (
        tokens_taken("prompt", transformer("t5"), "tokens=3"),
        tokens_taken("prompt", transformer("t5")),
        tokens_taken("full", transformer("t5")),
    ) == (3, 100, 0)


def test_all_linear_is_every_projection_but_the_output_head():
    model = random_model("llama", vocab_size=96)[0]
    tunable = make_tunable("lora", model, PlacementConfig(options="targets=all-linear"))
    assert len(tunable.trainable) == 2 * 7 * 2 and not any("lm_head" in name for name in tunable.trainable)
    with pytest.raises(UsageError, match="LlamaForCausalLM has no linear projection 'q_prj': did you mean q_proj"):
        make_tunable("lora", random_model("llama", vocab_size=96)[0], PlacementConfig(options="targets=q_prj"))


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt", "prefix", "peft:vera", "peft:tinylora", "peft:unilora", "peft:lora"])
@pytest.mark.parametrize("k", [1, 700, 5000])
def test_a_requested_k_gives_the_nearest_number_of_all_settings(method, k):
    model = random_model("llama", vocab_size=96)[0]
    ((dial, value),) = chosen_options(method, model, k=k).items()
    assert dial == method_named(method).dial
    around = {near: count_tuned(method, model, f"{dial}={near}") for near in {1, value - 1, value, value + 1} if near >= 1}
    assert min(abs(count - k) for count in around.values()) == abs(around[value] - k)
    tunable = make_tunable(method, model, PlacementConfig(k=k))
    assert tunable.k == around[value] and (tunable.options or {dial: value}) == {dial: value}


def test_a_requested_k_stops_at_the_largest_setting_that_a_tuner_permits():
    model = random_model("llama", vocab_size=96)[0]
    assert chosen_options("peft:fourierft", model, k=10**6) == {"n_frequency": 512}  # of values with 32 inputs and 16 outputs


def test_a_requested_k_needs_a_dial_that_nothing_else_sets():
    model = transformer("t5")
    with pytest.raises(UsageError, match="peft:ia3 has no option that sets its number of tuned parameters: leave out k = 5"):
        chosen_options("peft:ia3", model, k=5)
    with pytest.raises(UsageError, match="k = 5 sets the option r of lora, but r = 4 is given too"):
        chosen_options("lora", model, "r=4", k=5)


def test_options_belong_to_the_matched_method_if_the_method_is_apet():
    mounted = make_tunable("apet", transformer("t5"), PlacementConfig(matched="lora", options="r=1"))
    assert mounted.k == count_tuned("lora", transformer("t5"), "r=1") == count_tuned("lora", transformer("t5")) // 8
    projected = PlacementConfig(matched="prompt", subspace="fastfood", options="r=7", scope="all")
    assert make_tunable("lora", transformer("t5"), projected).k == 100 * 32


def test_every_dial_is_an_option_that_makes_k_grow():
    model = transformer("t5")
    for name, method in METHODS.items():
        if method.dial:
            with torch.device("meta"):
                one, two = (count_tuned(name, model, f"{method.dial}={value}") for value in (1, 2))
            assert one < two
