"""What a spec's names stand for on this machine: its model, its data, and what every kind of run makes of them."""

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
from apet.errors import UsageError, lookup
from apet.scoring import VERBALISER_FILE, saved_verbaliser
from apet.subspaces import SCORE_NAMES


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for on this machine."""

    loaded: Any  # apet.models.loading.Loaded
    data: Any  # apet.tasks.task_table.TaskData
    device: str


DIGITS = 8  # of a fingerprint, in rows
Report = Callable[[str, float, float], None]  # what is being done, done so far, of how much


@dataclass(frozen=True)
class Context:
    """Where a run keeps its checkpoint, who is told how far it is, and what it took (seconds; kept out of the rows)."""

    folder: Path
    report: Report
    track: str | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """What is known of a run before it starts: its inputs, its training examples, its k (None: not chosen), and the layers in scope."""

    inputs: Inputs
    examples: list
    k: int | None
    layers: int


def inputs(spec: Spec, data: Path | None, device: str = "cpu", shapes_only: bool = False) -> Inputs:
    """Load the spec's model and data (cached in this process; a run leaves the model as it found it, or drops it)."""
    return Inputs(model_of(spec, device, shapes_only), task_data(spec.task, data, spec.test), device)


def model_of(spec: Spec, device: str = "cpu", shapes_only: bool = False) -> Any:
    """The spec's base model (apet.models.loading.Loaded), before anything is tuned; where it reads out by a head, with a fresh one.

    With `shapes_only` it has no weights and takes no memory. Slices have the spec's weights in float32, which holds every one of
    them exactly: in less a small displacement would be rounded away.
    """
    from apet.tasks import TASKS

    lookup(TASKS, spec.task, "task")
    wide = spec.in_float32 and spec.weights != "float32"
    load = partial(_model, *_drawn_as(spec), device, spec.weights, spec.attention, shapes_only, wide=wide)
    loaded = load(None)
    if _takes_head(spec, loaded.form):
        loaded = load(TASKS[spec.task].classes)
    if spec.readout == "head" and loaded.form not in ("head", "image"):
        raise UsageError(
            f"{spec.model} answers {spec.task} in words: only BERT's kin take a classification head, and only where there are classes"
        )
    return loaded


def fingerprints(spec: Spec, data: Path | None) -> tuple[str, str]:
    """(of the spec's model, of its data); each model and each task is loaded for it once a process."""
    from apet.tasks import TASKS

    classes = lookup(TASKS, spec.task, "task").classes
    form, weights = _of_weights(*_drawn_as(spec), spec.weights, None)
    if _takes_head(spec, form):
        form, weights = _of_weights(*_drawn_as(spec), spec.weights, classes)
    return identity_of_model(spec, form, weights), _of_data(spec.task, data, spec.test)


def origin(spec: Spec, found: Inputs, dtype: str | None = None) -> dict[str, str]:
    """The columns `weights` and `data` of a run's rows: what else than its spec it was made of.

    They are the first hex digits of the fingerprints of the base model, in `dtype` (the spec's if None) and without a new classification
    head, and of the training and validation examples.
    """
    _, weights = _of_weights(*_drawn_as(spec), dtype or spec.weights, None)
    return {"weights": weights[:DIGITS], "data": found.data.fingerprint_without_test[:DIGITS]}


@cache
def _of_weights(name: str, random_init: bool, seed: int, dtype: str, classes: int | None) -> tuple[str, str]:
    """(form, fingerprint); neither the device nor the attention changes them."""
    loaded = _model(name, random_init, seed, "cpu", dtype, "eager", False, classes)
    return loaded.form, loaded.fingerprint


@cache
def _of_data(name: str, folder: Path | None, test: bool) -> str:
    return task_data(name, folder, test).fingerprint


def _drawn_as(spec: Spec) -> tuple[str, bool, int]:
    return spec.model, spec.random_init, spec.train_seed if spec.random_init else 0


def _takes_head(spec: Spec, form: str) -> bool:
    """Whether a BERT answers by a classification head: where it is trained, unless it shall answer in words or has no classes."""
    from apet.tasks import TASKS

    return spec.readout != "words" and form == "masked" and bool(TASKS[spec.task].classes)


@lru_cache(maxsize=4)
def task_data(name: str, folder: Path | None, test: bool) -> Any:
    """A task's data (apet.tasks.task_table.TaskData) on this machine."""
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


WATCHED_SHARE, WATCHED_MOST = 0.1, 500
CALIBRATION = 256  # examples on which the label words' prior is measured


def subsets(spec: Spec, found: Inputs) -> tuple[list, list]:
    """(examples trained on, examples watched). Drawn by a seed of the data, the same for every run of the task.

    With early stop the two are disjoint parts of the training split; without, the watched are the trained.
    """
    examples = shuffled(found)
    if not spec.early_stop:
        return examples[: spec.examples], examples[: spec.examples]
    watched = min(WATCHED_MOST, max(1, int(WATCHED_SHARE * len(examples))))
    return examples[watched:][: spec.examples], examples[:watched]


def shuffled(found: Inputs) -> list:
    """The training split in the one order from which every subset of the task is cut."""
    examples = found.data.splits["train"]
    return [examples[i] for i in np.random.default_rng(20261120).permutation(len(examples))]


def scorer_for(spec: Spec, found: Inputs) -> Any:
    """The task's scorer for the model, with the label words' prior: the one that the model's folder keeps, or else measured."""
    import torch

    scorer = plain_scorer(spec, found.loaded, found.device)
    known = kept_verbaliser(spec, found.loaded.form)
    if known is None:
        scorer.calibrate(found.loaded.model, shuffled(found)[:CALIBRATION])
    elif list(known.label_ids) != scorer.label_ids.tolist():
        raise UsageError(
            f"{VERBALISER_FILE} in {spec.model} gives the label words other ids than the tokenizer there: they do not belong together"
        )
    else:
        scorer.prior = torch.tensor(known.prior, device=found.device)
    return scorer


def plain_scorer(spec: Spec, loaded: Any, device: str = "cpu") -> Any:
    """The task's scorer for the model, without a prior."""
    from apet.methods import METHODS
    from apet.scoring import scorer_of
    from apet.tasks import TASKS

    return scorer_of(loaded, TASKS[spec.task], spec.max_length, device, METHODS[spec.method].virtual_tokens)


def kept_verbaliser(spec: Spec, form: str) -> Any:
    """The `apet.scoring.verbaliser.Verbaliser` that the folder of a merged model keeps for the spec's task, else None."""
    from apet.models import locate
    from apet.tasks import TASKS

    if spec.random_init or form in ("head", "image") or not TASKS[spec.task].classes:
        return None
    folder = locate(spec.model).folder
    known = None if folder is None else saved_verbaliser(folder)
    return known if known is not None and known.asks(TASKS[spec.task]) else None


def identity_of_model(spec: Spec, form: str, weights: str) -> str:
    """What names the model in a run's identity: the fingerprint of its weights, and the prior that its folder keeps."""
    known = kept_verbaliser(spec, form)
    return weights if known is None else f"{weights} prior {list(known.prior)}"


def mounted_for(spec: Spec, model: Any, scorer: Any, examples: list) -> Any:
    """The spec's method on `model`; where entries are placed by a score, it is measured on `examples`."""
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
    """The spec's method mounted (`mounted_for`) for as long as the block lasts; afterwards `model` is bitwise what it was.

    Entries and projections of apet are tuned in the model itself and a classification head with them; all else changes what the model is
    made of, and is mounted on a copy.
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


def row_maker(spec: Spec, found: Inputs) -> Callable[..., Row]:
    """Return a maker of this run's rows, which fills in the columns that name the run's kind and setting."""
    name = f"{spec.model} (random init)" if spec.random_init else spec.model
    protocol = f"{spec.protocol}, head" if found.loaded.form == "head" else spec.protocol
    common = {"kind": spec.kind, "protocol": protocol, **spec.tuned, **origin(spec, found)}

    def make(quantity: str, value: float, **columns: Any) -> Row:
        return Row(name, found.loaded.parameters, spec.task, quantity, float(value), **{**common, **columns})

    return make
