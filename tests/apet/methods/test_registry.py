"""The table of methods: each fact is in one record, and a new record is available as a method everywhere."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from train_cases import OPTIONS, ROWS, ready

from apet.errors import UsageError
from apet.methods import BASELINES, METHODS, Method, TunableModel, count_tuned, default_rate, registry
from apet.methods.tunable_model import tune_only
from apet.scoring import evaluate
from apet.training import train


def tune_scales(model: nn.Module) -> TunableModel:
    """IA3 (Liu et al. 2022, arXiv 2205.05638), peft's: a scale for every key, value and hidden unit."""
    from peft import IA3Config, inject_adapter_in_model

    inject_adapter_in_model(IA3Config(target_modules=r".*SelfAttention\.[kv]|.*DenseReluDense\.wo", feedforward_modules=[]), model)
    return tune_only(model, [p for p in model.parameters() if p.requires_grad])


IA3 = Method("ia3", "IA3", "X", 0.05, tune_scales)


def test_a_method_is_one_record_and_trains(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "ia3", IA3)
    model, tunable, scorer = ready("ia3", None)
    assert tunable.k == count_tuned("ia3", ready("full", None)[0]) > 0
    before = evaluate(model, scorer, ROWS)["loss"].value
    options = replace(OPTIONS, lr=default_rate("ia3", tunable.k))
    train(model, tunable, scorer, ROWS, ROWS, options, tmp_path / "c", keep_best=False)
    assert evaluate(model, scorer, ROWS)["loss"].value < before
    z = ready("ia3", 7, subspace="fastfood")[1]  # a projected subspace of all parameters that the method tunes
    assert z.k == 7 and z.space.size == tunable.k


def test_the_default_rates_are_those_of_the_records():
    rates = {"full": 1e-3, "bitfit": 1e-2, "adapter": 1e-2, "lora": 3e-3, "prompt": 0.1, "prefix": 3e-2}
    assert {name: default_rate(name, None) for name in BASELINES} == rates
    assert default_rate("apet", 64) == 3.0 * 64**-0.6
    assert default_rate("lora", 64, "fastfood") == default_rate("apet", 64, "fastfood") == 1 / 8
    with pytest.raises(UsageError, match="depends on k"):
        default_rate("apet", None)
    with pytest.raises(UsageError, match="unknown method 'loar': did you mean lora"):
        default_rate("loar", 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_low_precision_tunes_float32_beside_bfloat16_weights(method):
    from apet.methods import PlacementConfig, make_tunable
    from apet.models import load_model

    model = load_model("mini-bloom-120k", random_init=True, dtype="bfloat16").model
    tunable = make_tunable(method, model, PlacementConfig(50 if method == "apet" else None))
    dtypes = {p.dtype for p in tunable.trainable.values()}
    if METHODS[method].low_precision:
        assert dtypes == {torch.float32}
    elif method != "lora":  # peft's new tensors are float32, but the weights into which they are merged are not
        assert dtypes == {torch.bfloat16}


def test_what_is_merged_displaces_the_models_own_tensors():
    assert {name for name in METHODS if METHODS[name].mergeable} == {"apet", "full", "lora", "bitfit"} and set(BASELINES) == set(
        METHODS
    ) - {"apet"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lora"}, "`name` must be set and different for every method: 'lora' is used twice"),
        ({"words": ""}, "`words` must be set and different for every method: one method has none"),
        ({"marker": "o"}, "`marker` must be set and different for every method: 'o' is used twice"),
        ({"marker": "?"}, "unknown marker"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"build": None}, "cannot be built"),
    ],
)
def test_a_record_that_lacks_a_fact_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        registry.table(*METHODS.values(), replace(IA3, **change))
    assert registry.table(*METHODS.values(), IA3)["ia3"] is IA3
