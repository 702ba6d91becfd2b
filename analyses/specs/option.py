"""Declaration of a spec's field: its type, default, meaning and permitted values.

The command line, study files, validation, messages and the reference page are generated from the declarations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from apet.errors import UsageError, one_of

PANELS = ("Model", "Data", "Tuned parameters", "Training", "Evaluation point", "Curvature", "Slice", "Prediction")


@dataclass(frozen=True)
class Option:
    """Meaning (`help`) and permitted values of a field: one of `choices`, a number of at least `least`, or a `positive` number.

    `flag` is the field's name on the command line, or "" if no command has an option for the field. `default` describes the meaning of
    None. A field with `repeated` may be given several times on the command line; its value is the texts joined by commas.
    """

    help: str
    panel: str
    default: str = ""
    choices: Collection[str] = ()
    least: float | None = None
    positive: bool = False
    flag: str | None = None
    metavar: str | None = None
    repeated: bool = False

    @property
    def shown_choices(self) -> list[str]:
        """The choices without the members of a family such as peft:NAME, which the help describes."""
        return [choice for choice in self.choices if ":" not in choice]


def option(
    panel: str, default: Any, help: str, *, means: str = "", choices: Collection[str] = (), least: float | None = None,
    positive: bool = False, flag: str | None = None, metavar: str | None = None, repeated: bool = False,
) -> Any:  # fmt: skip
    """Return a dataclass field with the `Option` that describes it."""
    assert panel in PANELS, panel
    return field(default=default, metadata={"option": Option(help, panel, means, choices, least, positive, flag, metavar, repeated)})


@cache
def options_of(spec: type) -> dict[str, Option]:
    """Return field name -> option of a kind, in the order of declaration."""
    return {field.name: field.metadata["option"] for field in fields(spec)}


@cache
def types_of(spec: type) -> dict[str, tuple[type, ...]]:
    """Return field name -> permitted types."""
    hints = get_type_hints(spec)
    return {field.name: get_args(hint) if isinstance(hint := hints[field.name], UnionType) else (hint,) for field in fields(spec)}


@cache
def defaults_of(spec: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(spec)}


def check_value(declared: Field, value: Any) -> None:
    """Raise UsageError for a value that the field does not permit."""
    name, about = declared.name, declared.metadata["option"]
    if value is None:
        return
    if about.choices:
        for part in str(value).split("+") if about.metavar == "A+B" else [value]:
            one_of(about.choices, part, name.replace("_", " "))
    if isinstance(value, int) and value >= 2**63:
        raise UsageError(f"{name} = {value} must be below 2^63")
    if about.least is not None and not about.least <= value < math.inf:
        raise UsageError(f"{name} = {value} must be at least {about.least:g}")
    if about.positive and not 0 < value < math.inf:
        raise UsageError(f"{name} = {value} must be positive and finite")


def typed(value: Any, allowed: tuple[type, ...], where: str) -> Any:
    """Return `value` in one of the types `allowed`. Raise UsageError, beginning with `where`, for a value of another type."""
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed:
        return float(value)
    if not any(type(value) is kind for kind in allowed):
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in allowed)
        raise UsageError(f"{where}: {value!r} is not {names}{_written(value, allowed)}")
    return value


def _written(value: Any, allowed: tuple[type, ...]) -> str:
    """Return advice on how to write `value` in one of the types, or "" if the value resembles none."""
    if int in allowed and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if bool in allowed and str(value).lower() in ("yes", "on", "no", "off", "0", "1"):
        return f": write {'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d_,]*\d", value) and {int, float} & set(allowed):
        return f": write {re.sub('[_,]', '', value)}"
    return ""
