"""Load the model and the data of a spec, and prepare them for a run: subsets, scorer, tuned model, row maker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analyses.specs import Spec
from analyses.store import Row
from apet.errors import UsageError
from apet.scoring import saved_verbaliser


@dataclass(frozen=True)
class Inputs:
    """Loaded model and data of a spec, and the device of the run."""

    loaded: Any  # apet.models.loading.Loaded
    data: Any  # apet.tasks.task_data.TaskData
    device: str


DIGITS = 8  # hex digits of a fingerprint in rows
Report = Callable[[str, float, float], None]  # (task, amount done, total amount)


@dataclass(frozen=True)
class Context:
    """Folder of a run's checkpoint, receiver of its progress, tracker, and seconds of the run's parts, which are not in the rows."""

    folder: Path
    report: Report
    track: str | None = None
    afresh: bool = False  # measure again what the store holds for several runs
    parts: dict[str, float] = field(default_factory=dict)

    def progress(self, text: str) -> Callable[[int, int], None]:
        """Return a receiver of (amount done, total amount) of the work that `text` names."""
        return lambda done, total: self.report(text, done, total)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `parts` under the name of a part of the run."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - started


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
    """Return the spec's base model before tuning (apet.models.loading.Loaded), with a classification head if the readout is a head.

    Raises UsageError for a checkpoint without a language-model head if the readout is words.

    With `shapes_only` the model has no weights and takes no memory. A slice converts the spec's weights to float32. The conversion is
    exact, and a lower precision would round small displacements away.
    """
    from apet.models import BARE

    loaded = _model(*_drawn_as(spec), device, spec.weights, spec.attention, shapes_only, _outputs(spec), spec.in_float32)
    if spec.readout == "head" and loaded.form not in ("head", "image"):
        raise UsageError(f"{spec.task} has no classes, which a classification head needs", readout="words")
    if loaded.form == BARE:
        raise UsageError(
            f"{spec.model} has no language-model head, so it cannot answer {spec.task} in words (only training runs on a task with classes "
            "have a classification head)", readout="head",
        )  # fmt: skip
    return loaded


def fingerprints(spec: Spec, data: Path | None, device: str = "cpu") -> tuple[str, str]:
    """Return the fingerprints of the spec's model and data.

    The model is loaded at most once per process for this purpose. A run on `device` uses the same copy.
    """
    from apet.tasks import task_named

    _base_weights(spec, spec.weights, device)  # first, so that a model with a new head and the same model without it are not both kept
    key = (*_drawn_as(spec), spec.weights, _outputs(spec))
    if key not in _known:
        model_of(spec, device)
    form, weights = _known[key]
    return identity_of_model(spec, form, weights), _of_data(task_named(spec.task), data, spec.test)


def origin(spec: Spec, inputs: Inputs, dtype: str | None = None) -> dict[str, str]:
    """Return the columns `weights` and `data` of a run's rows, which identify the inputs that the spec does not determine.

    `weights` holds the first DIGITS hex digits of the fingerprint of the base model in `dtype` (default: the spec's), without a new
    classification head. `data` holds the first digits of the fingerprint of the training and validation examples.
    """
    weights = _base_weights(spec, dtype or spec.weights, inputs.device)
    return {"weights": weights[:DIGITS], "data": inputs.data.fingerprint_without_test[:DIGITS]}


_known: dict[tuple, tuple[str, str]] = {}  # (name, random_init, seed, dtype, classes) -> (form, fingerprint) of the models loaded so far


def _base_weights(spec: Spec, dtype: str, device: str) -> str:
    """Return the fingerprint of the base model in `dtype`, without a new head."""
    key = (*_drawn_as(spec), dtype, None)
    if key not in _known and _outputs(spec) is None and dtype == spec.weights:
        model_of(spec, device)
    elif key not in _known:
        _model.__wrapped__(*_drawn_as(spec), "cpu", dtype, "eager", False, None, False)  # not kept: the run does not use this model
    return _known[key][1]


@cache
def _of_data(task: Any, folder: Path | None, test: bool) -> str:
    return _data(task, folder, test).fingerprint


def _drawn_as(spec: Spec) -> tuple[str, bool, int]:
    return spec.model, spec.random_init, spec.train_seed if spec.random_init else 0


@cache
def _form(model: str, attention: str) -> str:
    from apet.models import saved_form

    return saved_form(model, attention)


def _outputs(spec: Spec) -> int | None:
    """Return the number of outputs of a head, or None if the model answers without one.

    Every model gets a head if the task asks for a number. If the task has classes, masked models and saved classifiers get a head with the
    readout auto, and all models with the readout head.
    """
    from apet.models import BARE
    from apet.tasks import task_named

    task = task_named(spec.task)
    if task.regresses:
        return task.outputs
    if spec.readout == "words" or not task.classes:
        return None
    form = _form(spec.model, spec.attention)
    return task.outputs if form in ("masked", BARE) or (spec.readout == "head" and form != "image") else None


def task_data(name: str, folder: Path | None, test: bool) -> Any:
    """Load a task's data (apet.tasks.task_data.TaskData) from this machine."""
    from apet.tasks import task_named

    return _data(task_named(name), folder, test)


@lru_cache(maxsize=4)
def _data(task: Any, folder: Path | None, test: bool) -> Any:
    from apet.tasks import load_data

    return load_data(task, folder, test)


@lru_cache(maxsize=4)
def _model(
    name: str, random_init: bool, seed: int, device: str, dtype: str, attention: str, shapes_only: bool, classes: int | None, wide: bool,
) -> Any:  # fmt: skip
    from apet.models import load_model

    loaded = load_model(name, random_init, seed, device, dtype=dtype, attention=attention, classes=classes, shapes_only=shapes_only)
    if not shapes_only:
        _known[name, random_init, seed, dtype, classes] = loaded.form, loaded.fingerprint
    if wide:
        loaded.model.float()
    return loaded


WATCHED_SHARE, WATCHED_MOST = 0.1, 500  # of the training split: share and maximum number of monitored examples


def subsets(spec: Spec, inputs: Inputs) -> tuple[list, list]:
    """Return (examples to train on, monitored examples). All runs of a task draw them with one fixed seed.

    With early stopping the two lists are disjoint parts of the training split. Otherwise the monitored ones are among the others.
    """
    examples = shuffled(inputs)
    if not spec.early_stop:
        return examples[: spec.examples], examples[: spec.examples][: spec.eval_examples]
    watched = min(spec.eval_examples or WATCHED_MOST, WATCHED_MOST, max(1, int(WATCHED_SHARE * len(examples))))
    return examples[watched:][: spec.examples], examples[:watched]


def shuffled(inputs: Inputs, split: str = "train") -> list:
    """Return a split in the fixed random order from which all subsets are taken."""
    examples = inputs.data.splits[split]
    return [examples[i] for i in np.random.default_rng(20261120).permutation(len(examples))]


def heldout(spec: Spec, inputs: Inputs, split: str) -> list:
    """Return the examples of a held-out split on which the run is evaluated: all of them, or a fixed subset of `eval_examples`."""
    examples = inputs.data.splits[split]
    return examples if spec.eval_examples is None or spec.eval_examples >= len(examples) else shuffled(inputs, split)[: spec.eval_examples]


def plain_scorer(spec: Spec, loaded: Any, device: str = "cpu") -> Any:
    """Return the task's scorer for the model, without a prior."""
    from apet.methods import tokens_taken
    from apet.scoring import scorer_of
    from apet.tasks import task_named

    k = None if spec.placed else spec.k
    taken = tokens_taken(spec.method, loaded.model, spec.method_option, k)
    return scorer_of(loaded, task_named(spec.task), spec.max_length, device, taken, chat=spec.prompt == "chat")


def kept_verbaliser(spec: Spec, form: str) -> Any:
    """Return the `apet.scoring.verbaliser.Verbaliser` that a merged model's folder stores for the spec's task, or None."""
    from apet.models import locate
    from apet.tasks import task_named

    if spec.random_init or form in ("head", "image") or not task_named(spec.task).classes:
        return None
    folder = locate(spec.model).folder
    known = None if folder is None else saved_verbaliser(folder)
    return known if known is not None and known.asks(task_named(spec.task), spec.prompt) else None


def identity_of_model(spec: Spec, form: str, weights: str) -> str:
    """Return the model's part of a run's identity: the fingerprint of its weights and the prior that its folder stores, if any."""
    known = kept_verbaliser(spec, form)
    return weights if known is None else f"{weights} prior {list(known.prior)}"


def row_maker(spec: Spec, inputs: Inputs) -> Callable[..., Row]:
    """Return a function that makes rows of this run and fills in the columns for the run's kind and setting."""
    from apet.scoring import metric_names

    name, task = f"{spec.model} (random init)" if spec.random_init else spec.model, inputs.data.task
    protocol = f"{spec.protocol}, head" if inputs.loaded.form == "head" else spec.protocol
    common = {"kind": spec.kind, "protocol": protocol, "metric": metric_names(task)[0], **spec.tuned, **origin(spec, inputs)}

    def make(quantity: str, value: float, **columns: Any) -> Row:
        return Row(name, inputs.loaded.parameters, task.name, quantity, float(value), **{**common, **columns})

    return make
