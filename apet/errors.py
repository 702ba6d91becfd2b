"""Errors that a user can mend, each with the exit code of the command line's contract."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class ApetError(Exception):
    """A failed run (exit code 1). The message says what was wrong and what would be right."""

    exit_code = 1


class UsageError(ApetError):
    """A wrong name, number or option (exit code 2)."""

    exit_code = 2


class MissingInput(ApetError):
    """A model, a data set or a folder that is not here (exit code 3)."""

    exit_code = 3


class Interrupted(ApetError):
    """Ctrl-C: the state is saved, the same command goes on from there (exit code 130)."""

    exit_code = 130


def lookup(table: dict, name: str, what: str):
    """`table[name]`, or a UsageError that suggests the nearest name."""
    one_of(table, name, what)
    return table[name]


def one_of(names: Collection[str], name: str, what: str) -> None:
    """Raise a UsageError that suggests the nearest of `names` unless `name` is among them."""
    if name not in names:
        raise UsageError(f"unknown {what} '{name}'{did_you_mean(name, names)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else f": one of {', '.join(names)}"
