"""Pretraining resumes bitwise, and the shipped ladder agrees with its cards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from apet.errors import UsageError
from apet.models.ladder import LADDER, SIZES, ladder_card, ladder_names
from apet.models.loading import load_model
from apet.pretraining.pretraining_loop import Recipe, learning_rate, pretrain, schedule

RECIPES = [Recipe("t5", "130k", schedule(6, 2e-2)), *(Recipe(f, "120k", schedule(6, 5e-3)) for f in ("bert", "bloom"))]


def stream() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 4096, 12_000).astype(np.uint16)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


QUICK_AND_LONG = [pytest.param(recipe, marks=pytest.mark.long) if recipe.family == "bloom" else recipe for recipe in RECIPES]


@pytest.mark.parametrize("recipe", QUICK_AND_LONG, ids=lambda recipe: recipe.family)
def test_pretraining_stopped_and_resumed_is_bitwise_the_uninterrupted_one(recipe, tmp_path: Path):
    whole, curve, finished = pretrain(recipe, stream(), stream(), tmp_path / "a")
    assert finished
    assert curve[-1]["step"] == 6
    for _ in range(6):
        part, other, finished = pretrain(recipe, stream(), stream(), tmp_path / "b", minutes=0)
    assert finished
    assert other == curve
    assert all(map(torch.equal, weights(whole), weights(part)))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    pretrain(RECIPES[0], stream(), stream(), tmp_path / "a", minutes=0)
    with pytest.raises(UsageError, match="another recipe"):
        pretrain(replace(RECIPES[0], seed=1), stream(), stream(), tmp_path / "a")


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    recipe = Recipe("t5", "240k", schedule(8000, 2e-2))
    rates = [learning_rate(recipe, step) for step in range(recipe.steps + 1)]
    assert rates[0] == pytest.approx(2e-2 / 200)
    assert rates[200] == rates[3999] == 2e-2
    assert rates[5999] == pytest.approx(1e-2)
    assert rates[7999] == rates[8000] == 0


def test_a_sqrt_stretch_moves_fast_first():
    recipe = Recipe("t5", "240k", ((1, 1.0, "linear"), (100, 0.0, "sqrt")))
    assert learning_rate(recipe, 25) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [2, 6, 399, 8000])
def test_a_schedule_has_the_asked_number_of_steps(steps):
    assert Recipe("t5", "240k", schedule(steps, 1e-2)).steps == steps


@pytest.mark.parametrize("name", ladder_names())
def test_the_cards_of_the_ladder_hold_what_the_weights_are(name):
    about, model = ladder_card(name), load_model(name).model
    stored = load_file(LADDER / name / "model.safetensors")  # with the heads of BERT's pretraining
    assert about["parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert {key for key, _ in model.named_parameters()} <= set(stored)
    assert about["curve"][-1]["heldout_loss"] == about["heldout_loss"]
    assert about["tokens"] == about["curve"][-1]["tokens"]


def shipped(family: str) -> list[dict]:
    return [ladder_card(name) for name in ladder_names() if name.split("-")[1] == family]


@pytest.mark.parametrize("family", SIZES)
def test_held_out_loss_falls_strictly_with_size(family):
    losses = [(each["parameters"], each["heldout_loss"]) for each in shipped(family)]
    assert [loss for _, loss in sorted(losses)] == sorted((loss for _, loss in losses), reverse=True)


@pytest.mark.parametrize("family", [family for family, sizes in SIZES.items() if len(shipped(family)) == len(sizes)])
def test_a_whole_family_spans_25_times_in_four_sizes_or_more(family):
    parameters = [each["parameters"] for each in shipped(family)]
    assert len(parameters) >= 4
    assert max(parameters) / min(parameters) >= 25


def test_the_shipped_weights_are_small_enough():
    sizes = [p.stat().st_size for p in LADDER.rglob("*.safetensors")]
    assert sum(sizes) <= 40e6
    assert max(sizes) <= 16 * 2**20
