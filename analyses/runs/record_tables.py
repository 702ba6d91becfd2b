"""Tables of records. A record holds every fact about something that users select by name; a table checks its records when it is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Protocol, TypeVar


class Named(Protocol):
    """A frozen dataclass with the field `name`, which users type."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


def by_name(records: Iterable[Record], unique: tuple[str, ...] = ()) -> dict[str, Record]:
    """Return name -> record, in the order of `records`.

    Raise ValueError for an empty text, and for records that share a name or a value of one of the fields `unique`.
    """
    records = list(records)
    for record in records:
        for field in fields(record):  # pyright: ignore[reportArgumentType]
            if getattr(record, field.name) == "":
                raise ValueError(f"{type(record).__name__} '{record.name}' has an empty {field.name}")
    for name in ("name", *unique):
        values = [getattr(record, name) for record in records]
        repeated = [value for value in values if values.count(value) > 1]
        if repeated:
            raise ValueError(f"two records have the {name} {repeated[0]!r}")
    return {record.name: record for record in records}
