"""Errors that a user can mend, each with the exit code of the command line's contract."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable
from itertools import starmap
from typing import Any

GIVEN = "..."


class ApetError(Exception):
    """A failed run (exit code 1). `text` says what is wrong, with the value; `advice` which fields to set instead, and to what.

    A library knows fields, not how they are typed: the command line and study files each write the advice their own way (`told`).
    """

    exit_code = 1

    def __init__(self, text: str, **advice: Any):
        super().__init__(text)
        self.text, self.advice = text, advice

    def __str__(self) -> str:
        return self.told(lambda name, value: f"{name}: {GIVEN if value is ... else json.dumps(value)}")

    def told(self, setting: Callable[[str, Any], str]) -> str:
        """Return the message with its advice as `setting(field, value)` writes it; `...` is a value of the user's choice."""
        return self.text + (f": use {' or '.join(starmap(setting, self.advice.items()))}" if self.advice else "")


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
