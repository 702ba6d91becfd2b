"""A run of kind train: tune, then evaluate on what was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.runs.run_inputs import Context, Inputs, Planned, row_maker, scorer_for, subsets, tuned
from analyses.specs import TrainSpec
from analyses.store import Row
from apet.errors import UsageError
from apet.methods import METHODS, default_rate
from apet.subspaces import SCORE_NAMES

SEEN = 500  # training examples evaluated in a run with early stop


def train_run(spec: TrainSpec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.machine import checkpointed
    from apet.scoring import evaluate
    from apet.training import interruptible, minimise, train

    torch.manual_seed(spec.train_seed)  # LoRA draws its first factor from it
    model, scorer = found.loaded.model, scorer_for(spec, found)
    examples, watched = subsets(spec, found)
    # Where a training loss is compared with a prediction it is exact; else a sample of the training set tells enough.
    seen = examples[:SEEN] if spec.early_stop else examples
    reported = {split: found.data.splits[split] for split in ("validation", *(["test"] if spec.test else []))}
    before = {"train": evaluate(model, scorer, seen), "validation": evaluate(model, scorer, reported["validation"])}
    with tuned(spec, model, scorer, seen) as mounted:
        model, options = mounted.model, train_options(spec, mounted.k, len(examples))

        def report(p: Any) -> None:
            done = p.history[-1][0] if spec.optimizer == "lbfgs" else p.step  # whose steps are its gradients, more than its iterations
            context.report(f"{spec.method} {mounted.k}: watched loss {p.history[-1][1]:.3f}", done, spec.steps)

        if spec.optimizer == "lbfgs":
            with interruptible() as stopped, checkpointed(model, spec.gradient_checkpointing):
                progress = minimise(model, mounted, scorer, examples, spec.steps, spec.batch, spec.trajectory, report, stopped)
        else:
            progress = train(
                model, mounted, scorer, examples, watched, options, context.folder / "checkpoint.safetensors", keep_best=spec.early_stop,
                report=report, track=context.track,
            )  # fmt: skip
        context.timings["step_seconds"] = progress.seconds / max(1, progress.step)
        after = {"train": evaluate(model, scorer, seen)}
        after |= {split: evaluate(model, scorer, there, decode=True) for split, there in reported.items()}
        make = _maker(spec, found, mounted)
        rows = [
            *(row for split, there in reported.items() for row in _chance_rows(found.data, there, split, make)),
            *(row for prefix, scores in (("initial_", before), ("", after)) for row in _score_rows(prefix, scores, make)),
            *_loop_rows(spec, progress, examples_a_step(spec, len(examples)), make),
            make("residual_gradient", _residual_gradient(model, mounted, scorer, seen, spec.batch // progress.accumulate), split="train"),
            *([make("k_head", mounted.k_head)] if mounted.head else []),
            *_placement_rows(mounted, make),
        ]
        arrays = _arrays(spec, mounted, progress) | {"prior": scorer.prior.cpu().numpy()}
        return rows, arrays | (_end(found.loaded.model, model) if spec.keep_end else {})


def train_options(spec: TrainSpec, k: int, examples: int) -> Any:
    """Return the training loop's options (apet.training.options.TrainOptions) for a spec that tunes k parameters on `examples` examples."""
    from apet.training import PRECISIONS, TrainOptions

    precision = {dtype: name for name, dtype in PRECISIONS.items()}[spec.dtype]
    lr = default_rate(spec.method, k, spec.subspace) if spec.lr is None else spec.lr
    return TrainOptions(
        lr, spec.steps, spec.batch, spec.warmup, spec.clip, spec.weight_decay, _check_every(examples, spec.batch),
        train_seed=spec.train_seed, precision=precision, schedule=spec.schedule, accumulate=spec.accumulate,
        gradient_checkpointing=spec.gradient_checkpointing, trajectory=spec.trajectory, find_lr=spec.find_lr,
    )  # fmt: skip


def examples_a_step(spec: TrainSpec, examples: int) -> int:
    """How many of the examples a step takes the gradient of."""
    return examples if spec.optimizer == "lbfgs" else min(spec.batch, examples)


def most_steps(spec: TrainSpec) -> int:
    """At most how many gradients of `examples_a_step` examples the run takes."""
    from apet.training import FACTORS, PILOT_STEPS, most_gradients

    if spec.optimizer == "lbfgs":
        return most_gradients(spec.steps)
    return spec.steps + (len(FACTORS) * PILOT_STEPS if spec.find_lr else 0)


def train_gradients(spec: TrainSpec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples."""
    return most_steps(spec) * examples_a_step(spec, examples)


def train_plan(spec: TrainSpec, planned: Planned) -> dict[str, Any]:
    """Nothing more to tell; UsageError for what this model, these data and this type of weights do not allow."""
    from apet.methods import check_mergeable

    if spec.weights != "float32" and not spec.projected and not METHODS[spec.method].low_precision:
        raise UsageError(
            f"{spec.method} updates the base model's own tensors, where {spec.weights} rounds small updates away", weights="float32"
        )
    if spec.keep_end:
        check_mergeable(spec.method, planned.inputs.loaded.model)
    if not planned.examples:
        raise UsageError(f"{spec.task} has too few training examples to set some aside", early_stop=False)
    if spec.test and "test" not in planned.inputs.data.splits:
        raise UsageError(f"{spec.task} has no labelled test split here: leave out test")
    return {}


def _check_every(examples: int, batch: int) -> int:
    """Steps between looks at the watched loss: four epochs of a small subset, at most 100."""
    return int(min(100, max(20, 4 * examples // batch)))


def _maker(spec: TrainSpec, found: Inputs, mounted: Any) -> Callable[..., Row]:
    """Rows of this run, how many parameters it tuned filled in."""
    make = row_maker(spec, found)
    return lambda quantity, value, **columns: make(quantity, value, k=mounted.k, train_seed=spec.train_seed, **columns)


def _chance_rows(data: Any, heldout: list, split: str, make: Callable[..., Row]) -> list[Row]:
    """What needs no model: always the most common answer, a random one, and `chance`, the better of the two."""
    from apet.scoring import better_baseline, model_free_scores

    scores = model_free_scores(data.task, data.splits["train"], heldout)
    return [
        make(name, score.value, stderr=score.stderr, split=split) for name, score in [*scores.items(), ("chance", better_baseline(scores))]
    ]


def _score_rows(prefix: str, scores: dict[str, dict], make: Callable[..., Row]) -> list[Row]:
    return [
        make(prefix + name, score.value, stderr=score.stderr, split=split) for split, each in scores.items() for name, score in each.items()
    ]


def _loop_rows(spec: TrainSpec, progress: Any, batch: int, make: Callable[..., Row]) -> list[Row]:
    """Where the loop ended and at what cost, and what it had to change on the way."""
    return [
        make("plateau", progress.plateau),
        make("steps", progress.step),
        make("example_gradients", progress.step * batch),
        *([make("learning_rate", progress.lr)] if spec.optimizer == "adamw" else []),
        *[make("pilot_loss", loss, x=rate) for rate, loss in progress.pilot],
        *([make("accumulate", progress.accumulate, note="memory ran out")] if progress.accumulate > spec.accumulate else []),
        *([make("diverged", progress.diverged, note="the step at which it did")] if progress.diverged is not None else []),
    ]


def _arrays(spec: TrainSpec, mounted: Any, progress: Any) -> dict[str, np.ndarray]:
    """The loop's history, and what an artefact is made of."""
    arrays = {"history": np.array(progress.history)}
    if mounted.attached is not None:
        arrays["z"] = mounted.attached.z.detach().cpu().numpy()
        arrays |= {f"head.{name}": mounted.trainable[name].detach().cpu().numpy().copy() for name in sorted(mounted.head)}
        if spec.trajectory:  # one z for every line of the history
            arrays["trajectory"] = np.stack([z.numpy() for z in mounted.trajectory])
        if mounted.placement is not None:
            arrays["positions"] = np.frombuffer(bytes.fromhex(mounted.placement.digest), np.uint8)
            if spec.order in SCORE_NAMES:  # elsewhere the positions follow from the spec
                arrays["index"] = mounted.placement.index
    return arrays


def _end(base: Any, tuned: Any) -> dict[str, np.ndarray]:
    """Where a method that changes the model itself ended, tensor by tensor."""
    from apet.methods import displacement

    return {f"end.{name}": change.numpy() for name, change in displacement(base, tuned).items()}


def _placement_rows(mounted: Any, make: Callable[..., Row]) -> list[Row]:
    """The requested k (whole units may not fill it), and how many of the entries fall in each layer and kind of tensor."""
    if mounted.placement is None:
        return []
    histogram = mounted.placement.coordinates.histogram()
    counts = [
        make("entries", n, series=by, group=label, note=f"{by}: {label}") for by, bins in histogram.items() for label, n in bins.items()
    ]
    return [make("requested_k", mounted.placement.requested), *counts]


def _residual_gradient(model: Any, mounted: Any, scorer: Any, examples: list, size: int) -> float:
    """|gradient| of the mean training loss in the trainable coordinates at the end: how far from the minimum.

    `size` examples at a time, as many as training held.
    """
    import torch

    from apet.training import mean_loss

    mean_loss(model, scorer, scorer.batches(examples, size), scorer.total_weight(examples), mounted.trainable.values())
    squares = [p.grad.double().square().sum() for p in mounted.trainable.values() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())
