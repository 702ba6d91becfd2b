"""What the specs of all kinds share: common fields, validation, and identity.

`resolved` makes a spec canonical; the hash of its fields, with the fingerprints of weights and data, is the run's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from analyses.specs.option import check_value, defaults_of
from analyses.specs.parts import DataPart, ModelPart, TunedPart, WorkPart, reads_images
from apet.errors import UsageError
from apet.subspaces import SCORE_NAMES

Use = tuple[str, Callable[[Any], bool]]  # which runs of a kind use a field, in words and as a test

PLACED: Use = ("k tuned parameters (method apet, or a projected subspace)", lambda s: s.placed)
_ENTRIES: Use = ("tuned entries", lambda s: s.places_entries)
_APET: Use = ("method apet", lambda s: s.placed and s.method == "apet")
_UNITS: Use = ("tuned entries in any order but reference (whole tensors)", lambda s: s.places_entries and s.order != "reference")
_DRAWN: Use = ("positions that are drawn", lambda s: s.placed and (s.projected or s.order not in SCORE_NAMES))
_TEXTS: Use = ("texts", lambda s: not reads_images(s.task))
TUNED_USES: dict[str, Use] = {
    "max_length": _TEXTS, "k": PLACED, "matched": PLACED, "subspace": PLACED, "scope": PLACED, "operations": _APET, "order": _ENTRIES,
    "unit": _UNITS, "position_seed": _DRAWN,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Spec(WorkPart, TunedPart, DataPart, ModelPart):
    """What all kinds share. `version` is raised when the same spec would give other rows or arrays."""

    kind: ClassVar[str]
    words: ClassVar[str]  # its runs, in the plural
    version: ClassVar[int]
    uses: ClassVar[Mapping[str, Use]]  # of fields that not all runs of the kind use
    in_float32: ClassVar[bool] = False  # whether weights of another type are loaded as float32
    many_points: ClassVar[bool] = False  # whether the loss is asked at many points, the ends of other methods' runs among them
    # What kinds without such a field do.
    weights, attention, readout, early_stop, test, samples = "float32", "eager", "words", False, False, None

    def __post_init__(self) -> None:
        for each in fields(self):
            check_value(each, getattr(self, each.name))

    def check(self) -> None:
        """Raise UsageError for fields that contradict each other."""

    def derived(self) -> Self:
        """The spec with what follows from other fields made explicit."""
        return self

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that are not at their defaults, in their order."""
        return {name: vars(self)[name] for name, default in defaults_of(type(self)).items() if vars(self)[name] != default}

    def unused(self) -> str | None:
        """The first field that is set to no effect."""
        return next((name for name in self.changed if not self.reads(name)), None)

    def reads(self, name: str) -> bool:
        """Whether the run uses its field `name`."""
        return name not in self.uses or self.uses[name][1](self)

    def resolved(self) -> Self:
        """The canonical spec. Raises UsageError for a field without effect, and for fields that contradict each other."""
        if (name := self.unused()) is not None:
            raise UsageError(self.no_effect(name))
        self.check()
        return self.derived()

    def no_effect(self, name: str) -> str:
        return f"{name} = {getattr(self, name)} has no effect on this {self.kind} run: it is for {self.uses[name][0]}"

    @property
    def title(self) -> str:
        """The run in a few words."""
        return f"{self.model} {self.task} {self._what()}"

    def _what(self) -> str:
        k = vars(self).get("k")
        return self.kind if k is None else f"{self.kind} k = {k:,}"

    @property
    def protocol(self) -> str:
        """What runs must share to be compared, beside the model, the task and what is tuned: examples, their length, early stop."""
        parts = ["all examples" if self.examples is None else f"{self.examples:,} examples"]
        parts += [f"{self.max_length} tokens"] if self.max_length != defaults_of(type(self))["max_length"] else []
        return ", ".join(parts + ["early stop"] * self.early_stop)

    def run_id(self, weights: str, data: str) -> str:
        """16 hex digits over the kind, its version, the fields that differ from their defaults, and two fingerprints."""
        spec = self.resolved()
        identity = {"kind": self.kind, "version": self.version, "spec": spec.changed, "weights": weights, "data": data}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
