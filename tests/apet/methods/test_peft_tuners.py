"""Every tuner of the installed peft is a method: it trains, has peft's own k, and is exported, or it is refused by name with a reason."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tiny_cases import random_model
from torch import Tensor, nn

from apet.errors import UsageError
from apet.methods import (
    METHOD_NAMES,
    PEFT_METHODS,
    PlacementConfig,
    TunableModel,
    count_tuned,
    default_rate,
    final_values,
    make_tunable,
    restored,
)
from apet.methods.peft_folder import save_peft
from apet.methods.peft_tuners import REFUSED, peft_method

# Options without which a tuner's defaults do not fit a model this small, or without which it tunes nothing.
OPTIONS = {
    "c3a": "block_size=8", "fourierft": "n_frequency=50", "miss": "r=4", "psoft": "r=4", "road": "group_size=8", "shira": "r=2",
    "trainable_tokens": f"token_indices={'|'.join(map(str, range(3, 90)))}",
    "vblora": "num_vectors=16,vector_length=8", "waveft": "n_frequency=50",
}  # fmt: skip
SUPPORTED = [name for name in PEFT_METHODS if name.removeprefix("peft:") not in REFUSED]
every_tuner = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("llama", "t5") for name in SUPPORTED])


@lru_cache
def base(kind: str) -> nn.Module:
    return random_model(kind, vocab_size=96)[0]


def answer(model: Any) -> Any:
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    return model(input_ids=ids, labels=ids)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return answer(model).logits[:, -9:]  # without the positions of virtual tokens


def mounted(kind: str, name: str) -> TunableModel:
    return make_tunable(name, copy.deepcopy(base(kind)), PlacementConfig(options=options_of(name)))


def options_of(name: str) -> str:
    return OPTIONS.get(name.removeprefix("peft:"), "")


def trained(kind: str, name: str) -> tuple[TunableModel, list[float]]:
    """Return the model after two steps, and the losses before each and after them."""
    tunable = mounted(kind, name)
    optimiser = torch.optim.AdamW(tunable.trainable.values(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = answer(tunable.model).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return tunable, [*losses, answer(tunable.model).loss.item()]


def test_the_names_are_those_of_the_installed_peft():
    assert {name.removeprefix("peft:").upper() for name in PEFT_METHODS} == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert set(PEFT_METHODS) < set(METHOD_NAMES)


@every_tuner
def test_a_tuner_trains_and_has_pefts_own_k_and_function(kind, name):
    torch.manual_seed(0)
    tunable = mounted(kind, name)
    config = copy.deepcopy(tunable.model.peft_config["default"])
    own = get_peft_model(copy.deepcopy(base(kind)), config).get_nb_trainable_parameters()[0]
    assert tunable.k == own == count_tuned(name, base(kind), options_of(name))
    assert {p.dtype for p in tunable.trainable.values()} == {torch.float32}
    moved = (logits(tunable.model) - logits(base(kind))).abs().max()
    assert (moved < 1e-5) == peft_method(name).starts_at_base
    _, losses = trained(kind, name)
    assert len(set(losses)) == 3
    assert default_rate(name, tunable.k) > 0


@pytest.mark.parametrize("tuner", REFUSED)
def test_a_tuner_that_needs_what_a_run_does_not_have_is_refused_by_name_in_one_line(tuner):
    for attempt in (lambda: mounted("llama", f"peft:{tuner}"), lambda: default_rate(f"peft:{tuner}", 5)):
        with pytest.raises(UsageError, match=rf"^peft:{tuner} is not supported: it [\w ]+") as error:
            attempt()
        assert "\n" not in str(error.value)


@every_tuner
def test_a_tuner_leaves_no_trace(kind, name):
    model = copy.deepcopy(base(kind))
    with restored(model) as keep:
        tunable = make_tunable(name, model, PlacementConfig(options=options_of(name)))
        assert keep(tunable.model) == {}
        with torch.no_grad():
            for parameter in tunable.trainable.values():
                parameter.add_(0.1)
        assert not torch.equal(logits(tunable.model), logits(base(kind)))
    pairs = zip(model.state_dict().items(), base(kind).state_dict().items(), strict=True)
    assert all(path == other and torch.equal(value, expected) for (path, value), (other, expected) in pairs)
    assert torch.equal(logits(model), logits(base(kind)))


@every_tuner
def test_final_values_merge_into_the_base_model_where_the_record_says_so(kind, name):
    tunable, _ = trained(kind, name)
    wanted, values = logits(tunable.model), final_values(name, {}, tunable)
    assert sum(value.numel() for value in values["new"].values()) == tunable.k and values["head"] == {}
    assert bool(values["end"]) == peft_method(name).mergeable
    if values["end"]:
        model = copy.deepcopy(base(kind))
        with torch.no_grad():
            for parameter, change in values["end"].items():
                model.get_parameter(parameter).add_(change)
        tolerance = 5e-5 if name == "peft:fourierft" and kind == "t5" else 5e-6
        torch.testing.assert_close(logits(model), wanted, rtol=0, atol=tolerance)
        assert (wanted - logits(base(kind))).abs().max() > 1e-4


@every_tuner
def test_peft_alone_loads_an_exported_adapter_with_the_same_logits(kind, name, tmp_path):
    tunable, _ = trained(kind, name)
    check_reload(name, kind, tunable, tmp_path)


@pytest.mark.parametrize("kind", ["llama", "t5", "gpt2"])
@pytest.mark.parametrize("name", ["lora", "prompt", "prefix"])
def test_peft_alone_loads_our_own_methods_with_the_same_logits(kind, name, tmp_path):
    tunable, _ = trained(kind, name)
    check_reload(name, kind, tunable, tmp_path)


def check_reload(name: str, kind: str, tunable: TunableModel, folder: Path) -> None:
    torch.manual_seed(5)  # nothing that is not stored may depend on the generator
    values = final_values(name, {}, tunable)
    save_peft(name, kind, copy.deepcopy(base(kind)), tunable.options, values["new"], values["head"], folder / "adapter")
    torch.manual_seed(7)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base(kind)), str(folder / "adapter")).eval()
    torch.testing.assert_close(logits(loaded), logits(tunable.model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("peft:fourierft", "", "peft:fourierft does not fit LlamaForCausalLM: `n_frequency` should be less than .*method_option"),
        ("peft:trainable_tokens", "", "peft:trainable_tokens .*method_option"),
        ("peft:lora", "target_modules=q_prj", "peft:lora does not fit LlamaForCausalLM: Target modules .*q_prj.* not found"),
        ("peft:vera", "vera_dropout=0.1", "peft:vera has no option 'vera_dropout'"),
        ("peft:vera", "r=many", "r = many is not possible: r of peft:vera is a whole number"),
        ("peft:lora", "init_lora_weights=pissa", "init_lora_weights of peft:lora is true or false or one of gaussian"),
    ],
)
def test_an_option_that_does_not_fit_is_one_line(name, options, reason):
    with pytest.raises(UsageError, match=reason) as error:
        make_tunable(name, copy.deepcopy(base("llama")), PlacementConfig(options=options))
    assert "\n" not in str(error.value)


def test_a_tuner_of_a_model_type_that_peft_does_not_know_is_where_lora_would_be():
    from apet.methods.lora import targets

    model = random_model("olmoe", vocab_size=96)[0]
    wanted = set(targets(model))
    found = {name.removeprefix("base_model.model.").partition(".vera_")[0] for name in make_tunable("peft:vera", model).trainable}
    assert found == wanted
    norms = make_tunable("peft:ln_tuning", random_model("olmoe", vocab_size=96)[0]).trainable
    assert norms and all("norm" in name for name in norms)


def test_a_projection_of_a_tuner_has_its_parameters_as_space():
    tunable = make_tunable("peft:vera", copy.deepcopy(base("llama")), PlacementConfig(k=7, subspace="fastfood"))
    assert tunable.k == 7 and tunable.space is not None and tunable.space.size == count_tuned("peft:vera", base("llama"))
    before = logits(tunable.model)
    with torch.no_grad():
        tunable.trainable["z"].add_(1.0)
    tunable.write()
    assert not torch.equal(logits(tunable.model), before)
