"""L-BFGS on all examples: lower losses than AdamW's plateau, reproducible, and interruptible."""

import copy

import numpy as np
import pytest
import torch

from apet.errors import Interrupted
from apet.methods import PlacementConfig, make_tunable
from apet.models.loading import load_model
from apet.scoring import scorer_of
from apet.scoring.evaluation import evaluate
from apet.tasks.task_data import load_task
from apet.tasks.task_table import TASKS
from apet.training.lbfgs import FLOOR, minimise, most_gradients

LOADED = load_model("mini-t5-130k")
TASK = TASKS["mini-nli"]
EXAMPLES = load_task("mini-nli", None, False).splits["train"][:16]


def minimised(k: int, steps: int = 60, batch: int = 16, trajectory: bool = False, position_seed: int = 1, **options):
    model, scorer = copy.deepcopy(LOADED.model), scorer_of(LOADED, TASK)
    mounted = make_tunable("apet", model, PlacementConfig(k=k, position_seed=position_seed))
    return model, scorer, mounted, minimise(model, mounted, scorer, EXAMPLES, steps, batch, trajectory, **options)


def test_the_loss_falls_to_what_evaluation_finds_there() -> None:
    model, scorer, mounted, progress = minimised(30)
    losses = [loss for _, loss in progress.history]
    assert losses[-1] < 0.7 * losses[0]
    assert evaluate(model, scorer, EXAMPLES)["loss"].value == pytest.approx(losses[-1], rel=1e-4)
    assert progress.step >= len(losses)  # a line search may evaluate the loss several times
    assert mounted.attached.z.abs().max() > 0


def test_two_runs_are_bitwise_the_same_and_batches_do_not_matter() -> None:
    first, again, parts = (minimised(10, steps=15, batch=batch)[2].attached.z.detach() for batch in (16, 16, 5))
    assert torch.equal(first, again)
    assert torch.allclose(first, parts, rtol=0.05, atol=0.05 * float(first.abs().max()))


def test_enough_entries_reach_the_floor_and_stop_there() -> None:
    *_, progress = minimised(300, steps=400)
    assert progress.plateau
    assert progress.history[-1][1] < FLOOR * progress.history[0][1] <= progress.history[-2][1]


@pytest.mark.long
def test_it_goes_on_through_a_valley_in_which_it_gains_little_for_a_while() -> None:
    *_, progress = minimised(12, steps=200, position_seed=0)  # a loss with a long curved valley
    losses = [loss for _, loss in progress.history]
    slow = next(i for i in range(20, len(losses)) if losses[i] > 0.99 * losses[i - 20])
    assert losses[-1] < 0.85 * losses[slow]


def test_a_trajectory_has_a_place_for_every_look_and_few_steps_are_no_plateau() -> None:
    *_, mounted, progress = minimised(8, steps=4, trajectory=True)
    assert len(mounted.trajectory) == len(progress.history) == 5
    assert np.array_equal(mounted.trajectory[0].numpy(), np.zeros(8))
    assert not progress.plateau


@pytest.mark.parametrize("steps", [1, 2])
def test_no_run_takes_more_gradients_than_are_foreseen(steps, monkeypatch) -> None:
    """If line searches find no lower loss, L-BFGS takes its largest number of evaluations."""
    from apet.training import lbfgs as module

    honest, calls = module.mean_loss, []

    def rising(*arguments):
        calls.append(honest(*arguments))
        return float(len(calls))

    monkeypatch.setattr(module, "mean_loss", rising)
    *_, progress = minimised(8, steps=steps)
    assert len(calls) == progress.step
    assert 3 * steps < progress.step <= most_gradients(steps)


def test_a_stop_is_an_interruption() -> None:
    with pytest.raises(Interrupted, match="run the same command to start it again"):
        minimised(8, stopped=lambda: True)
