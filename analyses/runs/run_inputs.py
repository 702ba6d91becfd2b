"""Load the model and the data of a spec, and prepare them for a run: subsets, scorer, tuned model, row maker."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from analyses.specs import Spec
from analyses.store import Row
from apet.errors import UsageError
from apet.scoring import VERBALISER_FILE, saved_verbaliser
from apet.subspaces import SCORE_NAMES


@dataclass(frozen=True)
class Inputs:
    """Loaded model and data of a spec, and the device of the run."""

    loaded: Any  # apet.models.loading.Loaded
    data: Any  # apet.tasks.task_table.TaskData
    device: str


DIGITS = 8  # hex digits of a fingerprint in rows
Report = Callable[[str, float, float], None]  # (task, amount done, total amount)


@dataclass(frozen=True)
class Context:
    """Folder of a run's checkpoint, receiver of its progress, tracker, and timings in seconds, which are not in the rows."""

    folder: Path
    report: Report
    track: str | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """Properties of a run before it starts: its inputs, training examples, k (None if not chosen) and number of layers in scope."""

    inputs: Inputs
    examples: list
    k: int | None
    layers: int


def inputs(spec: Spec, data: Path | None, device: str = "cpu", shapes_only: bool = False) -> Inputs:
    """Load the spec's model and data. Both are cached in this process: a run restores the model or works on a copy."""
    return Inputs(model_of(spec, device, shapes_only), task_data(spec.task, data, spec.test), device)


def model_of(spec: Spec, device: str = "cpu", shapes_only: bool = False) -> Any:
    """Return the spec's base model before tuning (apet.models.loading.Loaded), with a new head if the readout is a head.

    With `shapes_only` the model has no weights and takes no memory. A slice converts the spec's weights to float32. The conversion is
    exact, and a lower precision would round small displacements away.
    """
    from apet.tasks import task_named

    classes = task_named(spec.task).classes
    wide = spec.in_float32 and spec.weights != "float32"
    load = partial(_model, *_drawn_as(spec), device, spec.weights, spec.attention, shapes_only, wide=wide)
    loaded = load(None)
    if _takes_head(spec, loaded.form):
        loaded = load(classes)
    if spec.readout == "head" and loaded.form not in ("head", "image"):
        raise UsageError(f"{spec.model} answers {spec.task} in words: a classification head needs a BERT model and a task with classes")
    return loaded


def fingerprints(spec: Spec, data: Path | None) -> tuple[str, str]:
    """Return the fingerprints of the spec's model and data. Each model and task is loaded at most once per process for this purpose."""
    from apet.tasks import task_named

    classes = task_named(spec.task).classes
    form, weights = _of_weights(*_drawn_as(spec), spec.weights, None)
    if _takes_head(spec, form):
        form, weights = _of_weights(*_drawn_as(spec), spec.weights, classes)
    return identity_of_model(spec, form, weights), _of_data(spec.task, data, spec.test)


def origin(spec: Spec, inputs: Inputs, dtype: str | None = None) -> dict[str, str]:
    """Return the columns `weights` and `data` of a run's rows, which identify the inputs that the spec does not determine.

    `weights` holds the first DIGITS hex digits of the fingerprint of the base model in `dtype` (default: the spec's), without a new
    classification head. `data` holds the first digits of the fingerprint of the training and validation examples.
    """
    _, weights = _of_weights(*_drawn_as(spec), dtype or spec.weights, None)
    return {"weights": weights[:DIGITS], "data": inputs.data.fingerprint_without_test[:DIGITS]}


@cache
def _of_weights(name: str, random_init: bool, seed: int, dtype: str, classes: int | None) -> tuple[str, str]:
    """Return (form, fingerprint) of a model. Neither depends on the device or the attention implementation."""
    loaded = _model(name, random_init, seed, "cpu", dtype, "eager", False, classes)
    return loaded.form, loaded.fingerprint


@cache
def _of_data(name: str, folder: Path | None, test: bool) -> str:
    return task_data(name, folder, test).fingerprint


def _drawn_as(spec: Spec) -> tuple[str, bool, int]:
    return spec.model, spec.random_init, spec.train_seed if spec.random_init else 0


def _takes_head(spec: Spec, form: str) -> bool:
    """Return whether a model answers by a classification head: a masked model does if the task has classes, unless readout is words."""
    from apet.tasks import task_named

    return spec.readout != "words" and form == "masked" and bool(task_named(spec.task).classes)


@lru_cache(maxsize=4)
def task_data(name: str, folder: Path | None, test: bool) -> Any:
    """Load a task's data (apet.tasks.task_table.TaskData) from this machine."""
    from apet.tasks import load_task

    return load_task(name, folder, test)


@lru_cache(maxsize=4)
def _model(
    name: str, random_init: bool, seed: int, device: str, dtype: str, attention: str, shapes_only: bool, classes: int | None,
    wide: bool = False,
) -> Any:  # fmt: skip
    from apet.models import load_model

    loaded = load_model(name, random_init, seed, device, dtype=dtype, attention=attention, classes=classes, shapes_only=shapes_only)
    if wide:
        loaded.model.float()
    return loaded


WATCHED_SHARE, WATCHED_MOST = 0.1, 500  # of the training split: share and maximum number of monitored examples
CALIBRATION = 256  # examples on which the label words' prior is measured


def subsets(spec: Spec, inputs: Inputs) -> tuple[list, list]:
    """Return (examples to train on, monitored examples). All runs of a task draw them with one fixed seed.

    With early stopping the two lists are disjoint parts of the training split. Otherwise both lists are equal.
    """
    examples = shuffled(inputs)
    if not spec.early_stop:
        return examples[: spec.examples], examples[: spec.examples]
    watched = min(WATCHED_MOST, max(1, int(WATCHED_SHARE * len(examples))))
    return examples[watched:][: spec.examples], examples[:watched]


def shuffled(inputs: Inputs) -> list:
    """Return the training split in the fixed random order from which all subsets are taken."""
    examples = inputs.data.splits["train"]
    return [examples[i] for i in np.random.default_rng(20261120).permutation(len(examples))]


def scorer_for(spec: Spec, inputs: Inputs) -> Any:
    """Return the task's scorer for the model. The label words' prior is read from the model's folder, or measured if not stored there."""
    import torch

    scorer = plain_scorer(spec, inputs.loaded, inputs.device)
    known = kept_verbaliser(spec, inputs.loaded.form)
    if known is None:
        scorer.calibrate(inputs.loaded.model, shuffled(inputs)[:CALIBRATION])
    elif list(known.label_ids) != scorer.label_ids.tolist():
        raise UsageError(
            f"{VERBALISER_FILE} and the tokenizer in {spec.model} give the label words different ids: the files do not belong together"
        )
    else:
        scorer.prior = torch.tensor(known.prior, device=inputs.device)
    return scorer


def plain_scorer(spec: Spec, loaded: Any, device: str = "cpu") -> Any:
    """Return the task's scorer for the model, without a prior."""
    from apet.methods import METHODS
    from apet.scoring import scorer_of
    from apet.tasks import task_named

    return scorer_of(loaded, task_named(spec.task), spec.max_length, device, METHODS[spec.method].virtual_tokens)


def kept_verbaliser(spec: Spec, form: str) -> Any:
    """Return the `apet.scoring.verbaliser.Verbaliser` that a merged model's folder stores for the spec's task, or None."""
    from apet.models import locate
    from apet.tasks import task_named

    if spec.random_init or form in ("head", "image") or not task_named(spec.task).classes:
        return None
    folder = locate(spec.model).folder
    known = None if folder is None else saved_verbaliser(folder)
    return known if known is not None and known.asks(task_named(spec.task)) else None


def identity_of_model(spec: Spec, form: str, weights: str) -> str:
    """Return the model's part of a run's identity: the fingerprint of its weights and the prior that its folder stores, if any."""
    known = kept_verbaliser(spec, form)
    return weights if known is None else f"{weights} prior {list(known.prior)}"


def mounted_for(spec: Spec, model: Any, scorer: Any, examples: list) -> Any:
    """Mount the spec's method on `model`. If the order is a score of the entries, `examples` determine the scores."""
    from apet.methods import PlacementConfig, make_tunable
    from apet.subspaces import score_entries

    def measured(space: Any) -> Any:
        return score_entries(spec.order, model, space, scorer, examples)

    order, score = ("score", measured) if spec.order in SCORE_NAMES else (spec.order, None)
    choice = PlacementConfig(
        spec.k, spec.matched, spec.position_seed, spec.operation_names, spec.scope, spec.unit, order, score, spec.subspace
    )
    return make_tunable(spec.method, model, choice)


@contextmanager
def tuned(spec: Spec, model: Any, scorer: Any, examples: list) -> Iterator[Any]:
    """Mount the spec's method (`mounted_for`) for the duration of the block. Afterwards `model` is bitwise unchanged.

    Existing entries, projections and a classification head are tuned in `model` itself and restored. All other methods change the
    model's modules or tensors and are mounted on a copy.
    """
    import torch

    in_place = spec.method == "apet" and spec.operations == "add"
    mounted = mounted_for(spec, model if in_place else copy.deepcopy(model), scorer, examples)
    head = {name: mounted.trainable[name].detach().clone() for name in mounted.head}
    try:
        yield mounted
    finally:
        if in_place:
            for name, value in head.items():
                with torch.no_grad():
                    mounted.trainable[name].copy_(value)
                mounted.trainable[name].grad = None
            mounted.attached.detach()


def row_maker(spec: Spec, inputs: Inputs) -> Callable[..., Row]:
    """Return a function that makes rows of this run and fills in the columns for the run's kind and setting."""
    name = f"{spec.model} (random init)" if spec.random_init else spec.model
    protocol = f"{spec.protocol}, head" if inputs.loaded.form == "head" else spec.protocol
    common = {"kind": spec.kind, "protocol": protocol, **spec.tuned, **origin(spec, inputs)}

    def make(quantity: str, value: float, **columns: Any) -> Row:
        return Row(name, inputs.loaded.parameters, spec.task, quantity, float(value), **{**common, **columns})

    return make
