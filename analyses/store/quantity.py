"""One quantity of the registry: its name, meaning and unit, and the words for the intervals of quantities."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS = ("", "nats", "parameters", "examples", "runs", "fraction", "steps", "products", "entries", "example gradients", "nats / |z|^2")
EXAMPLES, RUNS = "standard error over examples", "95 % bootstrap interval over runs"
JACKKNIFE = "95 % jackknife interval over examples, or 95 % t-interval over probes"
PROBES = "standard error and 95 % t-interval over random probes; the error is 0 for an exact spectrum"
RESIDUAL = "stderr is the residual of the eigenpair"
FROM_RESIDUALS = "stderr is computed from the residuals of the eigenpairs"
DRAWS = "standard error over random draws"
BOUNDS = "low and high are the two bounds"
SAMPLING = "95 % confidence interval"


@dataclass(frozen=True)
class Quantity:
    """The meaning of the value in a row.

    name: the name in the column `quantity`.
    meaning: one phrase, without a full stop.
    unit: one of `UNITS`; "" for a pure number, or if the unit depends on the row.
    interval: the meaning of `stderr`, `low` and `high`; "" if a row leaves all three empty.
    label: a few words for an axis or a table head; by default the name with spaces.
    x: the meaning of the column `x`; "" if a row is not a point of a curve.

    Raises ValueError for an invalid name, meaning or unit.
    """

    name: str
    meaning: str
    unit: str = ""
    interval: str = ""
    label: str = ""
    x: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a quantity's name must consist of lower-case letters, digits and underscores (got: {self.name!r})")
        if not self.meaning or self.meaning.endswith("."):
            raise ValueError(f"the meaning of {self.name} must be a phrase without a full stop (got: {self.meaning!r})")
        if self.unit not in UNITS:
            raise ValueError(f"the unit of {self.name} must be one of {UNITS} (got: {self.unit!r})")
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))
