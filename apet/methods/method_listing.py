"""All methods as a table: the parameters that they tune, their options, and the number of tuned parameters on a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from apet.errors import UsageError
from apet.methods.method_options import read_options, shown, written
from apet.methods.registry import METHOD_NAMES, METHODS, method_named
from apet.methods.tuning import count_tuned


def methods_table(
    model: str | None = None, text: str = "", report: Callable[[str, float, float], None] = lambda *_: None
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one line per method.

    name, tunes: the method, and the parameters that it tunes.
    options: {name: default as users write it}. `text` gives other values; only methods with all of its options are then listed.
    k_option: the option that `--k` sets; "" if there is none.
    starts_at_base: whether the first step begins at the base model's function.
    k: the number of parameters that the method tunes in the model of name `model`, which is not loaded; None without a model.
    reason: why the method is not available, or why k is not known.

    Raises UsageError if no method has the options in `text`, and for values that they do not permit.
    """
    from apet.models import load_model

    shapes = None if model is None else load_model(model, shapes_only=True).model
    lines = []
    for done, name in enumerate(METHOD_NAMES):
        report(name, done, len(METHOD_NAMES))
        lines += _lines(name, shapes, text)
    if not lines:
        raise UsageError(f"no method has the options {text}")
    return lines


def _lines(name: str, model: nn.Module | None, text: str) -> list[dict[str, Any]]:
    """Return the line of a method, or none if the method lacks an option that `text` sets."""
    line: dict[str, Any] = {"name": name, "tunes": "", "options": {}, "k_option": "", "starts_at_base": None, "k": None, "reason": ""}
    try:
        method = method_named(name)
    except UsageError as error:
        return [] if text else [line | {"reason": _reason(name, error)}]
    if any(part.partition("=")[0].strip() not in method.options for part in filter(None, text.split(","))):
        return []
    chosen = read_options(method, text)
    values = {option: chosen.get(option, about.default) for option, about in method.options.items()}
    line |= {
        "tunes": method.tunes,
        "options": {option: "none" if value in (None, "", []) else shown(value) for option, value in values.items()},
    }
    line |= {"k_option": method.dial, "starts_at_base": method.starts_at_base}
    if model is None or method is METHODS["apet"]:
        return [line]
    try:
        return [line | {"k": count_tuned(name, model, written(chosen))}]
    except UsageError as error:
        return [line | {"reason": _reason(name, error)}]


def _reason(name: str, error: UsageError) -> str:
    """Return the error without the method's name."""
    return error.text.removeprefix(f"{name} ").removesuffix(".")
