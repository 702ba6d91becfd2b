"""Build specs from names and values of a study file, a configuration file, a command line or another spec."""

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
Where = Callable[[str], str]  # field -> prefix of an error about the field, such as its file and line


def field_names() -> list[str]:
    """Return the names of the fields of all kinds."""
    return list(dict.fromkeys(["kind", *(name for kind in KINDS.values() for name in defaults_of(kind))]))


def spec_from(values: Mapping[str, Any], where: Where = lambda name: "", shared: Collection[str] = ()) -> Spec:
    """Return a spec of the kind `values["kind"]` (default "train").

    `shared` names fields that were set for runs of several kinds at once; a shared field that this run does not use keeps its default.
    A network without trained weights (`apet.models.NET_NAMES`) implies `random_init`. Raise UsageError for an unknown field, a value of a
    wrong type, and an unused field that is not shared. The message begins with `where(field)`.
    """
    kind = values.get("kind", "train")
    one_of(KINDS, kind, "kind")
    chosen = KINDS[kind]
    values = {name: value for name, value in values.items() if name != "kind"}
    if values.get("model") in NET_NAMES:
        values["random_init"] = True
    typed_values = {}
    for name, value in values.items():
        if name in types_of(chosen):
            typed_values[name] = typed(value, types_of(chosen)[name], f"{where(name)}{name}")
        elif name not in field_names():
            raise UsageError(f"{where(name)}unknown field '{name}'{did_you_mean(name, field_names())}")
        elif name not in shared:
            raise UsageError(f"{where(name)}{_of_others(name, value, chosen)}")
    return trimmed(chosen(**typed_values), shared, where)


def _of_others(name: str, value: Any, kind: type[Spec]) -> str:
    owners = " and ".join(other.words for other in KINDS.values() if name in defaults_of(other))
    return f"{name} = {value} has no effect on {kind.words}: it is for {owners}"


def trimmed(spec: S, shared: Collection[str] = (), where: Where = lambda name: "") -> S:
    """Return the spec with unused `shared` fields reset to their defaults. Raise UsageError for any other field without effect.

    A shared k is a number of placed parameters and never sets an option of another method.
    """
    if "k" in shared and not spec.placed:
        spec = replace(spec, k=None)
    while (name := spec.unused()) is not None:  # one at a time, because the use of a field can depend on another field
        if name not in shared:
            raise UsageError(f"{where(name)}{spec.no_effect(name)}")
        spec = replace(spec, **{name: defaults_of(type(spec))[name]})
    return spec


def as_kind(spec: Spec, kind: type[S], **fields: Any) -> S:
    """Return a spec of another kind with the given `fields` and all fields of `spec` that the other kind uses."""
    same = {name: vars(spec)[name] for name in defaults_of(kind) if name in vars(spec) and name not in fields}
    return trimmed(kind(**same, **fields), set(same))


def spec_dict(spec: Spec) -> dict[str, Any]:
    """Return the spec as a JSON object with its kind and every field."""
    return {"kind": spec.kind, **vars(spec)}
