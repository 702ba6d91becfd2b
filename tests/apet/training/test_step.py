"""One step: the exact mean gradient for any division of a batch, also when memory runs out."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from resident_cases import Net, every_transformer, transformer, transformer_loss
from tiny_cases import tiny
from train_cases import ANSWER_ROWS, ANSWERS, OPTIONS, ROWS, chosen, gradient, ready, same, state, stepper

from apet.errors import ApetError, UsageError
from apet.machine.memory import checkpointed, out_of_memory
from apet.machine.processes import accelerator_for
from apet.methods import METHODS, PlacementConfig, make_tunable
from apet.scoring import scorer_of
from apet.tasks.task_table import TASKS
from apet.training.batches import Batches
from apet.training.checkpoints import packed, unpack
from apet.training.options import Progress
from apet.training.step import Stepper

MINI = TASKS["mini-sentiment"]
CPU_SAYS = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
tasks = pytest.mark.parametrize(("task", "rows"), [(MINI, ROWS), (ANSWERS, ANSWER_ROWS)], ids=["classes", "texts"])


@tasks
@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
def test_the_gradient_is_that_of_the_mean_over_the_batch_however_it_is_split(task, rows, accumulate):
    model, mounted, scorer = ready(task=task)
    found = gradient(stepper(model, mounted, scorer, rows), accumulate)
    encoded = scorer.encode(rows)
    examples = Batches([len(item["input_ids"]) for item in encoded], OPTIONS.batch, OPTIONS.train_seed).at(0)
    sums, pieces = torch.zeros(mounted.k), 0
    for i in examples:  # one example at a time, with an explicit formula for the loss
        batch = scorer.collate([encoded[i]])
        logits, labels = scorer.logits(model, batch).flatten(0, -2), batch["labels"].flatten()
        kept = labels >= 0
        loss = -logits.log_softmax(-1)[kept, labels[kept]].sum()
        sums, pieces = sums + torch.autograd.grad(loss, mounted.trainable["z"])[0], pieces + int(kept.sum())
    assert task is MINI or pieces > 2 * len(examples)
    torch.testing.assert_close(found, sums / pieces, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_split_batch_takes_the_same_steps(method):
    losses = []
    for accumulate in (1, 4):
        run = stepper(*ready(method))
        progress = Progress(lr=1e-3, accumulate=accumulate)
        losses.append([run.gradient(chosen(run, step), Progress(accumulate=accumulate)) for step in range(6) if run.step(progress)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@tasks
@pytest.mark.parametrize("method", [m for m in METHODS if m != "prefix"])
def test_checkpointed_gradients_are_the_same_and_keep_less(method, task, rows):
    model, mounted, scorer = ready(method, task=task)
    run = stepper(model, mounted, scorer, rows)

    def measured() -> tuple[torch.Tensor, int]:
        """Return the gradient and the number of bytes that autograd keeps."""
        kept = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scorer.logits(model, scorer.collate(run.encoded[:8]))
        return gradient(run), sum(storage.nbytes() for storage in kept.values())

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    whole, much = measured()
    training = [module.training for module in model.modules()]
    with checkpointed(model):
        again, little = measured()
    assert [module.training for module in model.modules()] == training
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(measured()[0], whole)
    assert little < 0.5 * much


def scaled(scale: float):
    """Return a stepper in float16 on the CPU, which accelerate does not offer. The loss is scaled as on a GPU."""
    model, mounted, scorer = ready()
    accelerator = accelerator_for("cpu", "no")
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return Stepper(accelerator, model, mounted, scorer, ROWS, OPTIONS)


def test_a_float16_step_that_overflows_is_skipped_and_the_scale_halved():
    run, progress = scaled(2.0**30), Progress(lr=0.02)
    while run.accelerator.scaler.get_scale() > 2.0**17:
        before = state(run.tunable)
        assert run.step(progress)
        if run.optimizer.step_was_skipped:
            assert same(before, state(run.tunable))
    assert all(run.step(progress) for _ in range(5))
    assert not same(before, state(run.tunable))
    assert run.parameters[0].grad.norm() <= 1.001 * OPTIONS.clip
    state_of = packed(run.tunable, run.optimizer.optimizer, {}, progress, {}, run.accelerator.scaler)
    other = scaled(4.0)
    assert unpack(state_of, other.tunable, other.optimizer.optimizer, {}, {}, other.accelerator.scaler) == progress
    assert other.accelerator.scaler.state_dict() == run.accelerator.scaler.state_dict()


def test_float16_gradients_that_overflow_without_any_scaling_end_the_run():
    run, progress = scaled(4.0), Progress(lr=0.02)
    run.parameters[0].register_hook(lambda grad: grad * float("inf"))
    before = state(run.tunable)
    assert [run.step(progress) for _ in range(3)] == [True, True, False]
    assert same(before, state(run.tunable))


@every_transformer
def test_every_family_has_the_same_gradient_checkpointed(name):
    model = transformer(name).eval()
    z = make_tunable("apet", model, PlacementConfig(500)).trainable["z"]
    (whole,) = torch.autograd.grad(transformer_loss(model), z)
    with checkpointed(model):
        (again,) = torch.autograd.grad(transformer_loss(model), z)
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)


def test_models_that_cannot_be_checkpointed_are_refused():
    with pytest.raises(UsageError, match="prefix tuning cannot be used with gradient checkpointing"):
        checkpointed(ready("prefix")[0]).__enter__()
    with pytest.raises(UsageError, match="Net has no blocks"):
        checkpointed(Net()).__enter__()


def fails_above(most: int, error: Exception, scorer, monkeypatch) -> list[int]:
    """Make `scorer` run out of memory above `most` examples, after part of the work. Return the batch sizes that succeeded."""
    fitted, logits = [], scorer.logits

    def limited(model, batch):
        result = logits(model, batch)
        if len(result) > most:
            raise error
        fitted.append(len(result))
        return result

    monkeypatch.setattr(scorer, "logits", limited)
    return fitted


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("Tried to allocate 2 GiB"), RuntimeError(CPU_SAYS)])
def test_where_memory_runs_out_the_same_step_is_taken_in_smaller_parts(error, monkeypatch):
    states = []
    for most in (8, 3):
        model, mounted, scorer = ready()
        fitted = fails_above(most, error, scorer, monkeypatch)
        progress = Progress(lr=0.02, accumulate=4 if most == 8 else 1)
        run = stepper(model, mounted, scorer)
        assert all(run.step(progress) for _ in range(3))
        assert (progress.step, progress.accumulate) == (3, 4)
        assert fitted == [2] * 12
        states.append(state(mounted))
    assert same(*states)


def test_part_of_a_batch_that_was_done_before_memory_ran_out_is_not_counted_twice(monkeypatch):
    model, mounted, scorer = ready()
    whole = gradient(stepper(model, mounted, scorer), 4)
    calls, logits = [], scorer.logits

    def once(model, batch):
        calls.append(None)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return logits(model, batch)

    monkeypatch.setattr(scorer, "logits", once)
    assert torch.equal(gradient(stepper(model, mounted, scorer), 2), whole)


@pytest.mark.parametrize("kind", ["fastfood", "said"])
def test_a_gradient_that_memory_did_not_suffice_to_pull_back_is_not_counted_twice(kind, monkeypatch):
    """Memory runs out when a tensor has a gradient that is not yet part of z's. The next attempt begins without gradients."""
    model, mounted, scorer = ready(k=60, subspace=kind)
    whole = gradient(stepper(model, mounted, scorer), 4)
    projection, calls = mounted.attached.projection, []
    pull_one = projection.pull_one

    def once(*arguments):
        calls.append(None)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pull_one(*arguments)

    monkeypatch.setattr(projection, "pull_one", once)
    assert torch.equal(gradient(stepper(model, mounted, scorer), 2), whole)
    assert all(p.grad is None for p in model.parameters())


def test_a_failed_attempt_leaves_no_gradient_on_frozen_tensors(monkeypatch):
    """No gradient remains after a failure within the hook, even before the hook removes the gradient."""
    model, mounted, scorer = ready(k=60, subspace="fastfood")
    whole = gradient(stepper(model, mounted, scorer), 4)
    hook = next(p for p in model.parameters() if p.requires_grad).register_post_accumulate_grad_hook(lambda p: fail(p))
    calls = []

    def fail(parameter):
        calls.append(None)
        parameter.grad = torch.ones_like(parameter)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        parameter.grad = None

    assert torch.equal(gradient(stepper(model, mounted, scorer), 2), whole)
    hook.remove()
    assert len(calls) > 1


def test_too_little_memory_for_one_example_is_said(monkeypatch):
    model, mounted, scorer = ready()
    fails_above(0, torch.OutOfMemoryError("CUDA out of memory."), scorer, monkeypatch)
    with pytest.raises(ApetError, match="out of memory with one example at a time"):
        stepper(model, mounted, scorer).step(Progress(lr=0.1))


def test_another_error_is_not_taken_for_too_little_memory(monkeypatch):
    model, mounted, scorer = ready()
    fails_above(0, RuntimeError("shapes do not match"), scorer, monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        stepper(model, mounted, scorer).step(Progress(lr=0.1))


def test_the_cpu_allocators_own_error_is_recognised():
    code = """if True:
        import resource, torch
        from apet.machine.memory import out_of_memory
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        try:
            torch.empty(16 << 30, dtype=torch.uint8)
        except RuntimeError as error:
            print(out_of_memory(error))"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True", found.stderr
    assert not out_of_memory(RuntimeError("expected scalar type Float"))


def test_the_gradient_of_a_model_that_reads_padding_is_that_of_its_examples_one_by_one():
    def gradient_of(batch: int, accumulate: int) -> torch.Tensor:
        loaded = tiny("fnet", 2)
        mounted = make_tunable("apet", loaded.model, PlacementConfig(200))
        run = stepper(mounted.model, mounted, scorer_of(loaded, TASKS["mini-sentiment"]), ROWS[:8], replace(OPTIONS, batch=batch))
        run.gradient(np.arange(8), Progress(accumulate=accumulate))
        return torch.cat([p.grad.flatten() for p in run.parameters])

    together, one_by_one = gradient_of(8, 1), gradient_of(8, 8)
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)
