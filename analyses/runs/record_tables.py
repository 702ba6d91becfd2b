"""Tables of records: one record holds every fact about a thing that a user can name, and a table checks its records when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Protocol, TypeVar


class Named(Protocol):
    """A frozen dataclass with the name that a user types."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


def by_name(records: Iterable[Record], unique: tuple[str, ...] = ()) -> dict[str, Record]:
    """Return name -> record, in the order given.

    Raises ValueError for an empty text, for a name that two records share, and for a value of the fields `unique` that two records share.
    """
    records = list(records)
    for record in records:
        for field in fields(record):  # pyright: ignore[reportArgumentType]
            if getattr(record, field.name) == "":
                raise ValueError(f"{type(record).__name__} '{record.name}' has an empty {field.name}")
    for name in ("name", *unique):
        values = [getattr(record, name) for record in records]
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"two records have the {name} {twice[0]!r}")
    return {record.name: record for record in records}
