"""Every method, mounted and trained on a model itself, leaves no trace."""

import copy

import pytest
import torch

from apet.methods import METHODS, PlacementConfig, make_tunable, restored
from tests.apet.tiny_cases import random_model

KINDS = ["llama", "bert", "bart", "gpt2", "t5", "modernbert", "mixtral"]
CHOICES = {
    "apet": PlacementConfig(k=20),
    "plug": PlacementConfig(k=20, operations=("bias", "plug")),
    "fastfood": PlacementConfig(k=5, subspace="fastfood"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [*METHODS, *(name for name in CHOICES if name not in METHODS)])
def test_a_model_is_bitwise_restored(kind, method):
    model, _ = random_model(kind)
    ids = torch.arange(4, 12).view(2, 4)
    with torch.no_grad():
        logits = model(input_ids=ids, **_decoder(model, ids)).logits
    before = copy.deepcopy(model)
    attributes = [(type(module), sorted(vars(module))) for module in model.modules()]
    settings = vars(copy.deepcopy(model.config))
    with restored(model) as keep:
        try:
            mounted = make_tunable(method if method in METHODS else "apet", model, CHOICES.get(method, PlacementConfig()))
        except Exception as error:
            pytest.skip(f"{kind} has no {method}: {error}")
        kept = keep(mounted.model)
        with torch.no_grad():
            for parameter in mounted.trainable.values():
                parameter.add_(0.5)
        mounted.write()
        if mounted.attached is not None:
            mounted.attached.detach()
    assert set(kept) <= {name for name, _ in before.named_parameters()}
    assert (method == "full") == (len(kept) == len(list(before.parameters())))
    assert [(type(module), sorted(vars(module))) for module in model.modules()] == attributes
    assert vars(model.config) == settings
    pairs = zip(model.state_dict().items(), before.state_dict().items(), strict=True)
    assert all(name == other and value.equal(expected) for (name, value), (other, expected) in pairs)
    with torch.no_grad():
        assert model(input_ids=ids, **_decoder(model, ids)).logits.equal(logits)


def _decoder(model, ids):
    return {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}


def test_values_come_back_after_an_error():
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()

    def fails():
        with restored(model) as keep, torch.no_grad():
            keep(model)
            model.weight.add_(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert model.weight.equal(before)
