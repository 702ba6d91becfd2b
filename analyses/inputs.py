"""What a spec's names stand for on this machine: its model, its data, and the subsets of them that every run shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analyses.spec import Spec


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for on this machine."""

    loaded: Any  # apet.models.Loaded
    data: Any  # apet.tasks.TaskData
    device: str


def inputs(spec: Spec, data: Path | None, device: str = "cpu") -> Inputs:
    """Load the spec's model and data (cached in this process; a run leaves the model as it found it, or drops it)."""
    return Inputs(model_of(spec, device), _task(spec.task, data, spec.test), device)


def model_of(spec: Spec, device: str = "cpu") -> Any:
    """The spec's base model (apet.models.Loaded), before anything is tuned."""
    return _model(spec.model, spec.random_init, spec.train_seed if spec.random_init else 0, device)


@lru_cache(maxsize=4)
def _task(name: str, folder: Path | None, test: bool) -> Any:
    from apet.tasks import load_task

    return load_task(name, folder, test)


@lru_cache(maxsize=4)
def _model(name: str, random_init: bool, seed: int, device: str) -> Any:
    from apet.models import load_model

    return load_model(name, random_init, seed, device)


WATCHED_SHARE, WATCHED_MOST = 0.1, 500


def subsets(spec: Spec, found: Inputs) -> tuple[list, list]:
    """(examples trained on, examples watched). Drawn by a seed of the data, the same for every run of the task.

    With early stop the two are disjoint parts of the training split; without, the watched are the trained.
    """
    examples = shuffled(found)
    if not (spec.kind == "train" and spec.early_stop):
        return examples[: spec.examples], examples[: spec.examples]
    watched = min(WATCHED_MOST, max(1, int(WATCHED_SHARE * len(examples))))
    return examples[watched:][: spec.examples], examples[:watched]


def shuffled(found: Inputs) -> list:
    """The training split in the one order from which every subset of the task is cut."""
    examples = found.data.splits["train"]
    return [examples[i] for i in np.random.default_rng(20261120).permutation(len(examples))]
