"""The loop: every method learns, k = all equals full fine-tuning, and resuming does not change the result bitwise."""

import itertools
import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_cases import OPTIONS, ROWS, ready, same, state

from apet.errors import ApetError, UsageError
from apet.methods import METHODS, PlacementConfig, make_tunable
from apet.models.loading import load_model
from apet.scoring import scorer_of
from apet.scoring.evaluation import evaluate
from apet.subspaces.space import ParameterSpace
from apet.tasks.task_data import load_task
from apet.tasks.task_table import TASKS
from apet.training.batches import Batches, parts
from apet.training.loop import Interrupted, train
from apet.training.options import CHECKS, DIVERGED, Progress, TrainOptions, over, rate_factor


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_training_loss(method, folder, tmp_path):
    rows = load_task("sst2", folder).splits["train"]
    model, mounted, scorer = ready(method, task=TASKS["sst2"])
    before = evaluate(model, scorer, rows)["loss"].value
    assert mounted.k == sum(p.numel() for p in mounted.trainable.values())
    options = replace(OPTIONS, lr={"prompt": 1.0, "prefix": 0.3, "full": 0.005}.get(method, OPTIONS.lr))
    train(model, mounted, scorer, rows, rows, options, tmp_path / "c", keep_best=False)
    assert evaluate(model, scorer, rows)["loss"].value < before - 0.05


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_schedule_and_precision_lowers_the_training_loss(schedule, precision, tmp_path):
    model, mounted, scorer = ready()
    options = replace(OPTIONS, schedule=schedule, precision=precision)
    history = train(model, mounted, scorer, ROWS, ROWS, options, tmp_path / "c", keep_best=False).history
    assert history[-1][1] < history[0][1] - 0.02
    assert mounted.trainable["z"].dtype == torch.float32


def stop_at(step: int) -> Callable[[Progress], None]:
    return lambda progress: signal.raise_signal(signal.SIGINT) if progress.step == step else None


CHANGES = ({"accumulate": 3}, {"find_lr": True, "steps": 20}, {"schedule": "cosine"})
RESUMED = [*((method, OPTIONS, True) for method in METHODS), ("apet", OPTIONS, False)]
RESUMED += [pytest.param("apet", replace(OPTIONS, **change), True, marks=pytest.mark.long) for change in CHANGES]


@pytest.mark.parametrize(("method", "options", "keep_best"), RESUMED)
def test_a_run_stopped_and_resumed_is_bitwise_the_uninterrupted_one(method, options, keep_best, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("apet.training.rate_search.PILOT_STEPS", 6)

    def finish(checkpoint: Path, report: Callable[[Progress], None] = lambda _: None) -> tuple[dict[str, torch.Tensor], Progress]:
        model, mounted, scorer = ready(method)
        clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=partial(next, itertools.count()))
        monkeypatch.setattr("apet.training.loop.time", clock)  # a step takes one unit
        progress = train(model, mounted, scorer, ROWS[8:], ROWS[:8], options, checkpoint, keep_best, report)
        return state(mounted), progress

    whole, progress = finish(tmp_path / "a")
    with pytest.raises(Interrupted, match="step 10"):
        finish(tmp_path / "b", stop_at(10))
    parted, again = finish(tmp_path / "b")
    assert again == progress
    assert again.elapsed == progress.elapsed > 10
    assert same(whole, parted)


@pytest.mark.long
def test_a_run_that_goes_on_after_memory_ran_out_keeps_its_smaller_parts(tmp_path, monkeypatch):
    def finish(
        checkpoint: Path, report: Callable[[Progress], None] = lambda _: None
    ) -> tuple[dict[str, torch.Tensor], Progress, list[int]]:
        model, mounted, scorer = ready()
        sizes, collate = [], scorer.collate

        def small(items):
            if len(items) > 3 and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(items))
            return collate(items)

        monkeypatch.setattr(scorer, "collate", small)
        progress = train(model, mounted, scorer, ROWS[8:], ROWS[:8], OPTIONS, checkpoint, True, report)
        return state(mounted), progress, sizes

    whole, progress, sizes = finish(tmp_path / "a")
    assert progress.accumulate == 4
    assert sizes.count(2) == 4 * progress.step
    with pytest.raises(Interrupted):
        finish(tmp_path / "b", stop_at(20))
    parted, again, _ = finish(tmp_path / "b")
    assert again == progress
    assert same(whole, parted)


def test_checkpoints_after_every_step_are_bitwise_invisible(tmp_path):
    found = []
    for every in (0, 1e9):
        model, mounted, scorer = ready(k=50)
        train(model, mounted, scorer, ROWS, ROWS[:8], OPTIONS, tmp_path / str(every) / "c.safetensors", True, checkpoint_every=every)
        found.append(state(mounted))
    assert same(*found)
    assert {p.name for p in (tmp_path / "0").iterdir()} == {"c.safetensors", "c.previous.safetensors"}
    assert not list((tmp_path / str(1e9)).iterdir())


@pytest.mark.parametrize("change", [{"lr": 0.03}, {"train_seed": 1}, {"schedule": "cosine"}])
def test_a_checkpoint_of_other_options_is_not_gone_on_from(change, tmp_path):
    path = tmp_path / "c.safetensors"
    model, mounted, scorer = ready()
    train(model, mounted, scorer, ROWS, ROWS[:8], OPTIONS, path, True, checkpoint_every=0)
    before = state(mounted)
    with pytest.raises(ApetError, match=f"belongs to another run: {next(iter(change))} was .* and is now .*force: true"):
        train(model, mounted, scorer, ROWS, ROWS[:8], replace(OPTIONS, **change), path, True)
    assert same(before, state(mounted))


def test_a_checkpoint_of_other_entries_is_not_gone_on_from(tmp_path):
    for seed in (0, 1):
        loaded = load_model("mini-t5-240k", random_init=True)
        mounted = make_tunable("apet", loaded.model, PlacementConfig(50, position_seed=seed))
        run = (mounted.model, mounted, scorer_of(loaded, TASKS["sst2"]), ROWS, ROWS[:8], OPTIONS, tmp_path / "c.safetensors", True)
        if seed == 0:
            train(*run, checkpoint_every=0)
        else:
            with pytest.raises(ApetError, match="belongs to another run: entries"):
                train(*run)


def test_all_coordinates_follow_full_fine_tuning(tmp_path):
    losses = []
    options = TrainOptions(lr=1e-3, steps=20, batch=8, check=5, clip=1e9)
    for method in ("apet", "full"):
        loaded = load_model("mini-t5-240k", random_init=True)
        space = ParameterSpace.of(loaded.model)
        mounted = make_tunable(method, loaded.model, PlacementConfig(space.size if method == "apet" else None))
        if method == "full":  # the same scope, which excludes the token table
            mounted.trainable = {name: mounted.trainable[name] for name in space.names}
        scorer = scorer_of(loaded, TASKS["mini-sentiment"])
        history = train(loaded.model, mounted, scorer, ROWS, ROWS, options, tmp_path / method, keep_best=False).history
        losses.append([loss for _, loss in history])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_start_that_is_not_finite_ends_the_run_before_its_first_step(tmp_path):
    model, mounted, scorer = ready()
    with torch.no_grad():
        mounted.trainable["z"].fill_(float("nan"))
    mounted.write()
    progress = train(model, mounted, scorer, ROWS, ROWS, OPTIONS, tmp_path / "c", keep_best=True)
    assert progress.diverged == 0
    assert progress.step == 0


def test_a_rate_that_is_far_too_high_ends_the_run_and_the_best_state_stays(tmp_path):
    model, mounted, scorer = ready("full")
    progress = train(model, mounted, scorer, ROWS, ROWS, replace(OPTIONS, lr=100.0, steps=200), tmp_path / "c", keep_best=True)
    assert progress.diverged is not None and progress.diverged < 200
    after = evaluate(model, scorer, ROWS)["loss"].value
    assert after == progress.best < math.inf


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["apet", "lora"])
def test_a_gradient_that_is_not_finite_ends_the_run_without_touching_the_parameters(bad, method, tmp_path):
    model, mounted, scorer = ready(method)
    calls, states = [], []

    def spoil(grad: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        states.append(state(mounted))
        return grad * bad if len(calls) == 6 else grad

    next(iter(mounted.trainable.values())).register_hook(spoil)
    progress = train(model, mounted, scorer, ROWS, ROWS, OPTIONS, tmp_path / "c", keep_best=False)
    assert progress.diverged == progress.step == 5
    assert same(state(mounted), states[5])


def test_a_run_diverges_where_its_loss_stays_over_the_stated_multiple_of_its_start():
    def diverged(losses: list[float]) -> int | None:
        progress = Progress()
        for loss in losses:
            progress.check(loss, 3)
            progress.step += 10
        return progress.diverged

    high = 1.01 * DIVERGED
    assert diverged([1.0, *[high] * CHECKS]) == 10 * CHECKS
    assert diverged([1.0, *([high] * (CHECKS - 1) + [2.0]) * 3]) is None
    assert diverged([1.0, 0.99 * DIVERGED] * 5) is None
    assert diverged([1.0, float("nan")]) == 10


def rates(schedule: str, steps: int = 100, warmup: int = 10) -> list[float]:
    options = TrainOptions(lr=1.0, steps=steps, warmup=warmup, schedule=schedule)
    return [rate_factor(options, Progress(step=step)) for step in range(steps)]


def test_the_schedules_warm_up_and_then_follow_their_curves():
    for schedule in ("plateau", "constant", "linear", "cosine"):
        np.testing.assert_allclose(rates(schedule)[:10], 0.1 * np.arange(1, 11))
    left = np.arange(90) / 90
    np.testing.assert_allclose(rates("constant")[10:], 1.0)
    np.testing.assert_allclose(rates("linear")[10:], 1 - left)
    np.testing.assert_allclose(rates("cosine")[10:], (1 + np.cos(np.pi * left)) / 2)
    assert rate_factor(TrainOptions(lr=1.0), Progress(step=50, reductions=2)) == pytest.approx(0.09)


def test_schedules_that_end_at_zero_take_all_their_steps_and_the_others_end_at_the_plateau():
    stalled = Progress(step=50, reductions=3)
    for schedule, ended in (("plateau", True), ("constant", True), ("linear", False), ("cosine", False)):
        assert over(TrainOptions(lr=1.0, steps=60, schedule=schedule), stalled) == ended
        assert over(TrainOptions(lr=1.0, steps=50, schedule=schedule), Progress(step=50))
        assert over(TrainOptions(lr=1.0, steps=60, schedule=schedule), Progress(diverged=0))


@pytest.mark.parametrize("steps", [7, 25])
def test_the_last_steps_are_looked_at_wherever_the_run_ends(steps, tmp_path):
    model, mounted, scorer = ready("full")
    start = state(mounted)
    progress = train(model, mounted, scorer, ROWS, ROWS, replace(OPTIONS, lr=1e-3, steps=steps), tmp_path / "c.safetensors", True)
    assert progress.history[-1][0] == steps
    assert progress.best < progress.history[0][1] and not same(state(mounted), start)


def test_weight_decay_draws_tuned_entries_to_their_pretrained_values(tmp_path):
    sizes = []
    for decay in (0.0, 5.0):
        model, mounted, scorer = ready(k=200)
        train(model, mounted, scorer, ROWS, ROWS, replace(OPTIONS, weight_decay=decay), tmp_path / str(decay), keep_best=False)
        sizes.append(mounted.trainable["z"].norm().item())
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean cosine"),
        ({"precision": "float32"}, "unknown precision 'float32'"),
        ({"accumulate": 0}, "accumulate = 0 must be positive"),
        ({"accumulate": 9}, "accumulate = 9 must be at most batch = 8"),
        ({"lr": float("nan")}, "lr = nan must be positive"),
        ({"warmup": -1}, "warmup = -1 must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 must be at least 0"),
    ],
)
def test_options_outside_their_range_are_usage_errors(change, message):
    with pytest.raises(UsageError, match=message):
        replace(OPTIONS, **change)


def test_an_epoch_visits_each_example_once():
    lengths = list(range(240))
    batches = [Batches(lengths, 8, 0).at(step) for step in range(30)]
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(240))
    assert not np.array_equal(batches[0], Batches(lengths, 8, 1).at(0))
    assert not np.array_equal(batches[0], Batches(lengths, 8, 0).at(30))


def test_a_batch_does_not_depend_on_those_asked_for_before():
    lengths = np.random.default_rng(0).integers(5, 60, 45)
    batches = Batches(lengths, 8, 3)
    for step in (0, 1, 7, 6, 0, 12, 4):
        assert np.array_equal(batches.at(step), Batches(lengths, 8, 3).at(step))


def test_batches_hold_examples_of_similar_length():
    lengths = np.random.default_rng(0).integers(5, 60, 320)
    padded = sum(8 * lengths[Batches(lengths, 8, 0).at(step)].max() for step in range(40))
    assert padded < 1.3 * lengths.sum()


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_the_parts_of_a_batch_are_the_batch(count):
    chosen = np.arange(8)[::-1]
    found = parts(chosen, count)
    assert len(found) == min(count, 8)
    assert np.array_equal(np.concatenate(found), chosen)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_orders_that_saved_runs_depend_on_are_those_of_the_pinned_numpy():
    """numpy does not guarantee these streams. A version that changes them would give runs of one name other batches and examples."""
    assert [Batches(np.arange(10), 3, seed).at(0).tolist() for seed in (0, 1)] == [[3, 4, 5], [7, 8, 9]]
    assert np.random.default_rng(20261120).permutation(8).tolist() == [5, 2, 3, 0, 7, 4, 6, 1]  # analyses.runs.run_inputs.shuffled
