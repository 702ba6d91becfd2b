"""Errors that a user can correct. Each class has the exit code that the command line returns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable
from itertools import starmap
from typing import Any

GIVEN = "..."


class ApetError(Exception):
    """A failed run (exit code 1).

    `text` names the fault and the value. `advice` maps the names of fields to the values that correct the fault (`...`: any value).
    The library knows only field names: the command line and the study files each write the advice in their own syntax (see `told`).
    """

    exit_code = 1

    def __init__(self, text: str, **advice: Any):
        super().__init__(text)
        self.text, self.advice = text, advice

    def __str__(self) -> str:
        return self.told(lambda name, value: f"{name}: {GIVEN if value is ... else json.dumps(value)}")

    def told(self, setting: Callable[[str, Any], str]) -> str:
        """Return the text followed by the advice, formatted by `setting(field, value)`. The value `...` means any value."""
        return self.text + (f": use {' or '.join(starmap(setting, self.advice.items()))}" if self.advice else "")


class UsageError(ApetError):
    """A wrong name, number or option (exit code 2)."""

    exit_code = 2


class MissingInput(ApetError):
    """A model, a data set or a folder is missing on this machine (exit code 3)."""

    exit_code = 3


class Interrupted(ApetError):
    """The user pressed Ctrl-C (exit code 130). The state is saved, and repeating the command resumes the run."""

    exit_code = 130


def lookup(table: dict, name: str, kind: str):
    """Return `table[name]`. Raises a UsageError that suggests the nearest names if `name` is not a key; `kind` is the noun to print."""
    one_of(table, name, kind)
    return table[name]


def one_of(names: Collection[str], name: str, kind: str) -> None:
    """Raise a UsageError that suggests the nearest of `names` unless `name` is among them."""
    if name not in names:
        raise UsageError(f"unknown {kind} '{name}'{did_you_mean(name, names)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`: the (up to three) most similar `names`, or all if none is similar."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else f": one of {', '.join(names)}"
