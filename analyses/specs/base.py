"""Base class of all specs: common fields, validation and identity.

A run's identity is a hash of its canonical spec (`Spec.resolved`) and of the fingerprints of weights and data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from analyses.specs.option import check_value, defaults_of
from analyses.specs.parts import DataPart, ModelPart, TunedPart, WorkPart, has_label_words, reads_images
from apet.errors import UsageError
from apet.subspaces import SCORE_NAMES

Use = tuple[str, Callable[[Any], bool]]  # the runs of a kind that use a field: a description and a test

PLACED: Use = ("runs that tune k parameters (method apet or a random projection)", lambda s: s.placed)
_ENTRIES: Use = ("tuned entries", lambda s: s.places_entries)
_APET: Use = ("method apet", lambda s: s.placed and s.method == "apet")
_UNITS: Use = ("tuned entries in any order except reference (whole tensors)", lambda s: s.places_entries and s.order != "reference")
_DRAWN: Use = ("random placements and projections", lambda s: s.placed and (s.projected or s.order not in SCORE_NAMES))
_WORDS: Use = ("label words", lambda s: has_label_words(s.task) and s.readout != "head")
_OPTIONS: Use = ("methods with options, and numbers of parameters matched to theirs", lambda s: s.matched is not None)
_TEXTS: Use = ("tasks with texts", lambda s: not reads_images(s.task))
TUNED_USES: dict[str, Use] = {
    "max_length": _TEXTS, "prompt": _TEXTS, "prior_stderr": _WORDS, "k": PLACED, "matched": PLACED, "method_option": _OPTIONS,
    "subspace": PLACED, "scope": PLACED, "operations": _APET, "order": _ENTRIES,
    "unit": _UNITS, "position_seed": _DRAWN,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Spec(WorkPart, TunedPart, DataPart, ModelPart):
    """Base of the specs of all kinds. `version` is raised when an unchanged spec would give different rows or arrays."""

    kind: ClassVar[str]
    words: ClassVar[str]  # plural noun for the runs of this kind, for messages
    version: ClassVar[int]
    uses: ClassVar[Mapping[str, Use]]  # for each field that only some runs of the kind use
    in_float32: ClassVar[bool] = False  # whether weights of another type are loaded as float32
    many_points: ClassVar[bool] = (
        False  # whether the loss is evaluated at many points, which may include final points of other methods' runs
    )
    # Values for kinds without these fields.
    weights, attention, readout, early_stop, test = "float32", "eager", "words", False, False
    eval_examples = samples = None

    def __post_init__(self) -> None:
        for field in fields(self):
            check_value(field, getattr(self, field.name))

    def check(self) -> None:
        """Raise UsageError for contradictory fields."""

    def derived(self) -> Self:
        """Return the spec with explicit values for fields that follow from other fields."""
        return self

    @property
    def changed(self) -> dict[str, Any]:
        """Fields that differ from their defaults, in the order of declaration."""
        return {name: vars(self)[name] for name, default in defaults_of(type(self)).items() if vars(self)[name] != default}

    def unused(self) -> str | None:
        """Return the first field that is set although the run does not use it, or None."""
        return next((name for name in self.changed if not self.reads(name)), None)

    def reads(self, name: str) -> bool:
        """Return whether the run uses its field `name`."""
        return name not in self.uses or self.uses[name][1](self)

    def resolved(self) -> Self:
        """Return the canonical spec. Raise UsageError for a field without effect and for contradictory fields."""
        if (name := self.unused()) is not None:
            raise UsageError(self.no_effect(name))
        self.check()
        return replace(self.derived(), method_option=self.canonical_options)

    def no_effect(self, name: str) -> str:
        return f"{name} = {getattr(self, name)} has no effect on this {self.kind} run: it is for {self.uses[name][0]}"

    @property
    def task_name(self) -> str:
        """Name of the task, which does not depend on the place of a task file."""
        from apet.tasks import task_named

        return task_named(self.task).name

    @property
    def title(self) -> str:
        """Short description of the run."""
        return f"{self.model} {self.task} {self._summary()}"

    def _summary(self) -> str:
        k = vars(self).get("k")
        return self.kind if k is None else f"{self.kind} k = {k:,}"

    @property
    def protocol(self) -> str:
        """Examples, their length, prompts, prior and early stopping: runs are comparable if these, the model, the task and the tuned parameters agree."""
        parts = ["all examples" if self.examples is None else f"{self.examples:,} examples"]
        parts += [f"{self.max_length} tokens"] if self.max_length != defaults_of(type(self))["max_length"] else []
        parts += ["chat prompts"] if self.prompt == "chat" else []
        parts += [] if self.prior_stderr is None else [f"prior within {self.prior_stderr:g}"]
        parts += ["early stop"] if self.early_stop else []
        parts += [] if self.eval_examples is None else [f"{self.eval_examples:,} evaluated"]
        return ", ".join(parts)

    def run_id(self, weights: str, data: str) -> str:
        """Return 16 hex digits: a hash of the kind, its version, the fields that differ from their defaults, and both fingerprints.

        The fingerprint of the data covers the definition of a task from a file, so the place of the file has no effect.
        """
        spec = replace(self.resolved(), task=self.task_name)
        identity = {"kind": self.kind, "version": self.version, "spec": spec.changed, "weights": weights, "data": data}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
