"""A run of kind train: tune a model, then evaluate it on held-out examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.runs.mounting import tuned
from analyses.runs.run_inputs import Context, Inputs, Planned, heldout, row_maker, subsets
from analyses.runs.untuned import scorer_for, untuned_scores
from analyses.specs import TrainSpec, asks_for_text
from analyses.store import Row
from apet.errors import UsageError
from apet.methods import chosen_options, count_tuned, method_named, written
from apet.subspaces import SCORE_NAMES

SEEN = 500  # training examples that a run with early stopping evaluates


def train_run(spec: TrainSpec, inputs: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.machine import checkpointed
    from apet.scoring import evaluate
    from apet.training import interruptible, minimise, train

    torch.manual_seed(spec.train_seed)  # LoRA draws its first factor from this generator
    model, scorer = inputs.loaded.model, scorer_for(spec, inputs, context)
    examples, watched = subsets(spec, inputs)
    seen = evaluated(spec, examples, watched)
    reported = {split: heldout(spec, inputs, split) for split in ("validation", *(["test"] if spec.test else []))}
    before = untuned_scores(spec, inputs, context, scorer, {"train": seen, "validation": reported["validation"]})
    with tuned(spec, model, scorer, seen if spec.early_stop else examples) as (mounted, untuned):
        model, options = mounted.model, train_options(spec, mounted.k, len(examples))

        def report(p: Any) -> None:
            done = p.history[-1][0] if spec.optimizer == "lbfgs" else p.step  # step of L-BFGS counts gradients, not iterations
            context.report(f"{spec.method} {mounted.k}: monitored loss {p.history[-1][1]:.3f}", done, spec.steps)

        if spec.optimizer == "lbfgs":
            with interruptible() as stopped, checkpointed(model, spec.gradient_checkpointing):
                progress = minimise(model, mounted, scorer, examples, spec.steps, spec.batch, spec.trajectory, report, stopped)
        else:
            progress = train(
                model, mounted, scorer, examples, watched, options, context.folder / "checkpoint.safetensors", keep_best=spec.early_stop,
                report=report, track=context.track,
            )  # fmt: skip
        context.parts.update(steps=progress.seconds, monitoring=progress.elapsed - progress.seconds)
        with context.timed("after"):
            after = {
                split: evaluate(
                    model, scorer, subset, spec.eval_batch, split != "train" and decodes(spec),
                    context.progress(f"tuned, {split}"),
                )
                for split, subset in {"train": seen, **reported}.items()
            }  # fmt: skip
            with_gradient = leaves_gradient(spec, examples, seen)
            residual = [_residual_gradient(model, mounted, scorer, seen, spec.batch // progress.accumulate)] if with_gradient else []
        make = _maker(spec, inputs, mounted)
        rows = [
            *(row for split, subset in reported.items() for row in _chance_rows(inputs.data, subset, split, make)),
            *(row for prefix, scores in (("initial_", before), ("", after)) for row in _score_rows(prefix, scores, make)),
            *_loop_rows(spec, progress, examples_a_step(spec, len(examples)), make),
            *(make("residual_gradient", norm, split="train") for norm in residual),
            *([make("prior_stderr", scorer.prior_stderr)] if scorer.has_prior and not math.isnan(scorer.prior_stderr) else []),
            *([make("k_head", mounted.k_head)] if mounted.head else []),
            make("without_embeddings", inputs.loaded.without_embeddings),
            *_placement_rows(mounted, make),
            *([] if spec.placed or spec.k is None else [make("requested_k", spec.k, group=written(mounted.options))]),
        ]
        arrays = _arrays(spec, mounted, progress) | {"prior": scorer.prior.cpu().numpy()}
        arrays |= {"scale": np.array(scorer.scale)} if scorer.task.regresses else {}
        return rows, arrays | (_end(spec, untuned, mounted) if spec.keep_end else {})


def evaluated(spec: TrainSpec, examples: list, watched: list) -> list:
    """Return the training examples on which a run measures the loss before and after training.

    Without early stopping the loss is compared with predictions, so it covers all examples unless fewer are asked for. Otherwise a sample
    suffices.
    """
    return examples[: min(SEEN, spec.eval_examples or SEEN)] if spec.early_stop else watched


def leaves_gradient(spec: TrainSpec, examples: list, seen: list) -> bool:
    """Return whether the run measures `residual_gradient`.

    A run with early stopping does not end at a minimum of the training loss, and only all examples together have that loss.
    """
    return not spec.early_stop and len(seen) == len(examples)


def train_options(spec: TrainSpec, k: int, examples: int) -> Any:
    """Return the training loop's options (apet.training.options.TrainOptions) for a spec that tunes k parameters on `examples` examples."""
    from apet.training import PRECISIONS, TrainOptions

    precision = {dtype: name for name, dtype in PRECISIONS.items()}[spec.dtype]
    return TrainOptions(
        spec.rate(k), spec.steps, spec.batch, spec.warmup, spec.clip, spec.weight_decay, _check_every(examples, spec.batch),
        train_seed=spec.train_seed, precision=precision, schedule=spec.schedule, accumulate=spec.accumulate,
        gradient_checkpointing=spec.gradient_checkpointing, trajectory=spec.trajectory, find_lr=spec.find_lr,
    )  # fmt: skip


def decodes(spec: TrainSpec) -> bool:
    """Return whether the tuned model writes its answers: a metric of texts needs them, a metric of classes only on request."""
    return spec.decode or asks_for_text(spec.task)


def examples_a_step(spec: TrainSpec, examples: int) -> int:
    """Return the number of examples in the gradient of one step."""
    return examples if spec.optimizer == "lbfgs" else min(spec.batch, examples)


def most_steps(spec: TrainSpec) -> int:
    """Return an upper bound on the number of gradients of `examples_a_step` examples in the run."""
    from apet.training import FACTORS, PILOT_STEPS, most_gradients

    if spec.optimizer == "lbfgs":
        return most_gradients(spec.steps)
    return spec.steps + (len(FACTORS) * PILOT_STEPS if spec.find_lr else 0)


def train_gradients(spec: TrainSpec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples."""
    return most_steps(spec) * examples_a_step(spec, examples)


def train_plan(spec: TrainSpec, planned: Planned) -> dict[str, Any]:
    """Return the k of a method that places no entries, with the requested k and the options that it set.

    Raise UsageError if the model, the data or the data type of the weights do not permit the run.
    """
    if spec.weights != "float32" and not spec.projected and not method_named(spec.method).low_precision:
        raise UsageError(
            f"{spec.method} updates the base model's own tensors, and weights in {spec.weights} round small updates away", weights="float32"
        )
    if not planned.examples:
        raise UsageError(f"{spec.task} has too few training examples to hold out some for early stopping", early_stop=False)
    if spec.test and "test" not in planned.inputs.data.splits:
        raise UsageError(f"{spec.task} has no labelled test split in these data: leave out test")
    if spec.placed:
        return {}
    model = planned.inputs.loaded.model
    options = written(chosen_options(spec.method, model, spec.method_option, spec.k))
    requested = {} if spec.k is None else {"requested_k": spec.k, "method_option": options}
    return {"k": count_tuned(spec.method, model, options), **requested}


def _check_every(examples: int, batch: int) -> int:
    """Return the number of steps between evaluations of the monitored loss: four epochs, but from 20 to 100 steps."""
    return int(min(100, max(20, 4 * examples // batch)))


def _maker(spec: TrainSpec, inputs: Inputs, mounted: Any) -> Callable[..., Row]:
    """Return a function that makes rows of this run and fills in the number of tuned parameters."""
    make = row_maker(spec, inputs)
    return lambda quantity, value, **columns: make(quantity, value, k=mounted.k, train_seed=spec.train_seed, **columns)


def _chance_rows(data: Any, heldout: list, split: str, make: Callable[..., Row]) -> list[Row]:
    """Return rows of the scores without a model: the most common answer, a random answer, and `chance`, the better of the two."""
    from apet.scoring import better_baseline, model_free_scores

    scores = model_free_scores(data.task, data.splits["train"], heldout)
    return [
        make(name, score.value, stderr=score.stderr, split=split) for name, score in [*scores.items(), ("chance", better_baseline(scores))]
    ]


def _score_rows(prefix: str, scores: dict[str, dict], make: Callable[..., Row]) -> list[Row]:
    return [
        make(prefix + name, score.value, stderr=score.stderr, split=split, note=score.remark)
        for split, split_scores in scores.items()
        for name, score in split_scores.items()
    ]


def _loop_rows(spec: TrainSpec, progress: Any, batch: int, make: Callable[..., Row]) -> list[Row]:
    """Return rows on the training loop: its end, its cost, and settings that changed during training."""
    return [
        make("plateau", progress.plateau),
        make("steps", progress.step),
        make("example_gradients", progress.step * batch),
        *([make("learning_rate", progress.lr)] if spec.optimizer == "adamw" else []),
        *[make("pilot_loss", loss, x=rate) for rate, loss in progress.pilot],
        *([make("accumulate", progress.accumulate, note="memory ran out")] if progress.accumulate > spec.accumulate else []),
        *([make("diverged", progress.diverged, note="the step at which the run diverged")] if progress.diverged is not None else []),
    ]


def _arrays(spec: TrainSpec, mounted: Any, progress: Any) -> dict[str, np.ndarray]:
    """Return the loop's history and the arrays from which an artefact is exported."""
    arrays = {"history": np.array(progress.history)}
    if mounted.attached is not None:
        arrays["z"] = mounted.attached.z.detach().cpu().numpy()
        arrays |= {f"head.{name}": mounted.trainable[name].detach().cpu().numpy().copy() for name in sorted(mounted.head)}
        if spec.trajectory:  # one z per line of the history
            arrays["trajectory"] = np.stack([z.numpy() for z in mounted.trajectory])
        if mounted.placement is not None:
            arrays["positions"] = np.frombuffer(bytes.fromhex(mounted.placement.digest), np.uint8)
            if spec.order in SCORE_NAMES:  # for other orders the positions follow from the spec
                arrays["index"] = mounted.placement.index
    return arrays


def _end(spec: TrainSpec, untuned: dict[str, Any], mounted: Any) -> dict[str, np.ndarray]:
    """Return the final values as arrays: `new.NAME`, `head.NAME`, and the displacements of the base model's tensors, `end.NAME`."""
    from apet.methods import final_values

    return {
        f"{part}.{name}": value.numpy()
        for part, values in final_values(spec.method, untuned, mounted).items()
        for name, value in values.items()
    }


def _placement_rows(mounted: Any, make: Callable[..., Row]) -> list[Row]:
    """Return rows of the requested k, which whole units may not fill, and of the number of entries per layer and kind of tensor."""
    if mounted.placement is None:
        return []
    histogram = mounted.placement.coordinates.histogram()
    counts = [
        make("entries", n, series=by, group=label, note=f"{by}: {label}") for by, bins in histogram.items() for label, n in bins.items()
    ]
    return [make("requested_k", mounted.placement.requested), *counts]


def _residual_gradient(model: Any, mounted: Any, scorer: Any, examples: list, size: int) -> float:
    """Return |gradient| of the mean training loss in the trainable coordinates at the end: 0 at a minimum.

    Batches have `size` examples, as in training.
    """
    import torch

    from apet.training import mean_loss

    mean_loss(model, scorer, scorer.batches(examples, size), scorer.total_weight(examples), mounted.trainable.values())
    squares = [p.grad.double().square().sum() for p in mounted.trainable.values() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())
