"""The search for a learning rate changes nothing except its result."""

import math
from dataclasses import replace

import pytest
import torch
from train_cases import OPTIONS, ROWS, ready, same, state, stepper

from apet.methods import METHODS
from apet.scoring.evaluation import evaluate
from apet.training import rate_search as module
from apet.training.loop import train
from apet.training.options import Progress
from apet.training.rate_search import FACTORS, find_lr


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "PILOT_STEPS", 6)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_bitwise_what_it_was_and_the_lowest_loss_wins(method):
    model, mounted, scorer = ready(method)
    run, random = stepper(model, mounted, scorer), torch.get_rng_state()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    best, found = find_lr(run, lambda: evaluate(model, scorer, ROWS)["loss"].value, Progress())
    assert [rate for rate, _ in found] == [OPTIONS.lr * factor for factor in FACTORS]
    assert dict(found)[best] == min(loss for _, loss in found)
    assert len({loss for _, loss in found}) == len(FACTORS)
    assert same(before, dict(model.named_parameters()))
    assert torch.equal(random, torch.get_rng_state())
    assert run.options == OPTIONS and not run.optimizer.optimizer.state


def test_a_pilot_that_diverges_does_not_win_and_does_not_harm_the_next():
    model, mounted, scorer = ready("full")
    run = stepper(model, mounted, scorer, options=replace(OPTIONS, lr=1e6))
    losses = iter([math.nan, 0.7, math.inf, 0.5, 0.6])
    start = state(mounted)
    best, found = find_lr(run, lambda: next(losses), Progress())
    assert math.isinf(found[0][1]) and best in (rate for rate, _ in found)
    assert not any(math.isnan(loss) for _, loss in found)
    assert same(start, state(mounted))


def test_of_equal_losses_the_lowest_rate_wins():
    run = stepper(*ready())
    assert find_lr(run, lambda: 0.5, Progress())[0] == OPTIONS.lr * FACTORS[0]


def test_memory_that_ran_out_in_a_pilot_is_remembered(monkeypatch):
    model, mounted, scorer = ready()
    collate = scorer.collate

    def small(items):
        if len(items) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return collate(items)

    monkeypatch.setattr(scorer, "collate", small)
    progress = Progress()
    find_lr(stepper(model, mounted, scorer), lambda: 0.5, progress)
    assert progress.accumulate == 2


@pytest.mark.long
def test_a_run_that_looks_for_its_rate_is_bitwise_the_run_with_that_rate(tmp_path):
    found = train(*ready(), ROWS, ROWS[:8], replace(OPTIONS, find_lr=True), tmp_path / "a", keep_best=True)
    states = []
    for name, options in (("b", replace(OPTIONS, find_lr=True)), ("c", replace(OPTIONS, lr=found.lr))):
        model, mounted, scorer = ready()
        progress = train(model, mounted, scorer, ROWS, ROWS[:8], options, tmp_path / name, keep_best=True)
        states.append(state(mounted))
        assert progress.history == found.history
    assert same(*states)
    assert [rate for rate, _ in found.pilot] == [OPTIONS.lr * factor for factor in FACTORS]


def test_a_resumed_run_does_not_look_again(tmp_path, monkeypatch):
    path, options = tmp_path / "c.safetensors", replace(OPTIONS, find_lr=True)
    found = train(*ready(), ROWS, ROWS[:8], options, path, keep_best=True, checkpoint_every=0)
    monkeypatch.setattr("apet.training.loop.find_lr", lambda *_: pytest.fail("looked again"))
    assert train(*ready(), ROWS, ROWS[:8], options, path, keep_best=True) == found
