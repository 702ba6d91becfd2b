"""Make specs from names and values, which come from a study file, a configuration file, a command line or another spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from analyses.specs.base import Spec
from analyses.specs.kinds import KINDS
from analyses.specs.option import defaults_of, typed, types_of
from apet.errors import UsageError, did_you_mean, one_of
from apet.models import NET_NAMES

S = TypeVar("S", bound=Spec)
Where = Callable[[str], str]  # a field -> what an error about it begins with, such as its file and line


def field_names() -> list[str]:
    """All fields of all kinds."""
    return list(dict.fromkeys(["kind", *(name for kind in KINDS.values() for name in defaults_of(kind))]))


def spec_from(values: Mapping[str, Any], where: Where = lambda name: "", shared: Collection[str] = ()) -> Spec:
    """A spec of the kind `values["kind"]` ("train" if it is not named).

    `shared` are fields that were set for runs of several kinds at once: those that this run does not use are left at their defaults.
    A network that has no trained weights (`apet.models.NET_NAMES`) is drawn without being asked to. Raises UsageError, whose message begins
    with `where` of the field, for an unknown field, a value of a wrong type, and any other field that the run does not use.
    """
    kind = values.get("kind", "train")
    one_of(KINDS, kind, "kind")
    chosen = KINDS[kind]
    values = {name: value for name, value in values.items() if name != "kind"}
    if values.get("model") in NET_NAMES:
        values["random_init"] = True
    given = {}
    for name, value in values.items():
        if name in types_of(chosen):
            given[name] = typed(value, types_of(chosen)[name], f"{where(name)}{name}")
        elif name not in field_names():
            raise UsageError(f"{where(name)}unknown field '{name}'{did_you_mean(name, field_names())}")
        elif name not in shared:
            raise UsageError(f"{where(name)}{_of_others(name, value, chosen)}")
    return trimmed(chosen(**given), shared, where)


def _of_others(name: str, value: Any, kind: type[Spec]) -> str:
    owners = " and ".join(other.words for other in KINDS.values() if name in defaults_of(other))
    return f"{name} = {value} has no effect on {kind.words}: it is for {owners}"


def trimmed(spec: S, shared: Collection[str] = (), where: Where = lambda name: "") -> S:
    """Set the fields `shared` to their defaults where the run does not use them. Raises UsageError for any other field without effect."""
    while (name := spec.unused()) is not None:  # one at a time: whether a field is used can depend on another
        if name not in shared:
            raise UsageError(f"{where(name)}{spec.no_effect(name)}")
        spec = replace(spec, **{name: defaults_of(type(spec))[name]})
    return spec


def as_kind(spec: Spec, kind: type[S], **fields: Any) -> S:
    """Return a spec of another kind. It has `fields`, and those fields of `spec` that such a run uses."""
    same = {name: vars(spec)[name] for name in defaults_of(kind) if name in vars(spec) and name not in fields}
    return trimmed(kind(**same, **fields), set(same))


def spec_dict(spec: Spec) -> dict[str, Any]:
    """The spec as JSON: its kind and every field."""
    return {"kind": spec.kind, **vars(spec)}
