"""The loop: every method learns, k = all follows full fine-tuning, a stop and resume is bitwise invisible."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apet.errors import ApetError
from apet.jacobian import gram_matrix
from apet.methods import METHODS, Choice, mount
from apet.models import load_model
from apet.scoring import Scorer, evaluate
from apet.space import ParameterSpace
from apet.tasks import TASKS, load_task
from apet.train import Interrupted, Progress, TrainOptions, batch_indices, train


def ready(method: str, k: int | None = 2000):
    loaded = load_model("mini-t5-240k", random_init=True)
    torch.manual_seed(0)
    mounted = mount(method, loaded.model, Choice(k))
    return mounted.model, mounted, Scorer(TASKS["sst2"], loaded.tokenizer, 0)


OPTIONS = TrainOptions(lr=0.02, steps=30, batch=8, warmup=2, check=10)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_training_loss(method, folder, tmp_path):
    rows = load_task("sst2", folder).splits["train"]
    model, mounted, scorer = ready(method)
    before = evaluate(model, scorer, rows)["loss"]
    assert mounted.k == sum(p.numel() for p in mounted.trainable.values())
    options = replace(OPTIONS, lr={"prompt": 1.0, "prefix": 0.3}.get(method, OPTIONS.lr))
    train(model, mounted, scorer, rows, rows, options, tmp_path / "c", keep_best=False)
    assert evaluate(model, scorer, rows)["loss"] < before - 0.05


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep_best", [False, True])
def test_a_run_stopped_and_resumed_is_bitwise_the_uninterrupted_one(method, keep_best, folder, tmp_path: Path):
    rows = load_task("sst2", folder).splits["train"]

    def finish(checkpoint: Path, stop_at: int | None) -> tuple[dict[str, torch.Tensor], Progress]:
        def stop(progress: Progress) -> None:
            if progress.step == stop_at:
                signal.raise_signal(signal.SIGINT)

        model, mounted, scorer = ready(method)
        progress = train(model, mounted, scorer, rows[8:], rows[:8], OPTIONS, checkpoint, keep_best, stop)
        return {name: p.detach() for name, p in mounted.trainable.items()}, progress

    whole, history = finish(tmp_path / "a", None)
    with pytest.raises(Interrupted, match="step 20"):
        finish(tmp_path / "b", 20)
    parts, again = finish(tmp_path / "b", None)
    assert again.history == history.history
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_all_coordinates_follow_full_fine_tuning(folder, tmp_path):
    rows = load_task("sst2", folder).splits["train"]
    losses = []
    options = TrainOptions(lr=1e-3, steps=20, batch=8, check=5, clip=1e9)
    for method in ("apet", "full"):
        loaded = load_model("mini-t5-240k", random_init=True)
        space = ParameterSpace.of(loaded.model)
        mounted = mount(method, loaded.model, Choice(space.size))
        if method == "full":  # the same scope: without the token table
            mounted.trainable = {name: mounted.trainable[name] for name in space.names}
        scorer = Scorer(TASKS["sst2"], loaded.tokenizer, 0)
        history = train(loaded.model, mounted, scorer, rows, rows, options, tmp_path / method, keep_best=False).history
        losses.append([loss for _, loss in history])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_clearly(folder, tmp_path):
    rows = load_task("sst2", folder).splits["train"]
    model, mounted, scorer = ready("apet")
    with torch.no_grad():
        mounted.trainable["z"].fill_(float("nan"))
    mounted.write()
    with pytest.raises(ApetError, match="lower --lr"):
        train(model, mounted, scorer, rows, rows, OPTIONS, tmp_path / "c", keep_best=False)


def test_an_epoch_visits_each_example_once():
    lengths = list(range(240))
    batches = [batch_indices(lengths, 8, 0, step) for step in range(30)]
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(240))
    assert not np.array_equal(batches[0], batch_indices(lengths, 8, 1, 0))
    assert not np.array_equal(batches[0], batch_indices(lengths, 8, 0, 30))


def test_batches_hold_examples_of_similar_length():
    lengths = np.random.default_rng(0).integers(5, 60, 320)
    padded = sum(8 * lengths[batch_indices(lengths, 8, 0, step)].max() for step in range(40))
    assert padded < 1.3 * lengths.sum()


def test_the_gram_matrix_is_that_of_the_explicit_jacobian(folder, monkeypatch):
    loaded = load_model("mini-t5-240k", random_init=True)
    rows = load_task("sst2", folder).splits["validation"]
    scorer = Scorer(TASKS["sst2"], loaded.tokenizer, 0)
    space = ParameterSpace.of(loaded.model)
    named = dict(loaded.model.named_parameters())
    tensors = [named[name] for name in space.names]
    jacobian = []
    for batch in scorer.batches(rows, 1):
        logits = scorer.logits(loaded.model, batch)[0]
        jacobian.append(torch.cat([g.flatten() for g in torch.autograd.grad(logits[1] - logits[0], tensors)]).double())
    wanted = torch.stack(jacobian) @ torch.stack(jacobian).T
    torch.testing.assert_close(gram_matrix(loaded.model, space, scorer, rows), wanted, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("apet.jacobian.GROUP_BYTES", 4 * len(rows) * 10_000)  # many groups of tensors
    torch.testing.assert_close(gram_matrix(loaded.model, space, scorer, rows), wanted, rtol=1e-4, atol=1e-6)
    assert all(p.requires_grad for p in loaded.model.parameters())
