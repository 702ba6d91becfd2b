"""Values of a method's options, written as one text: `alpha=32,r=4` sets the options alpha and r."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apet.errors import UsageError, did_you_mean
from apet.methods.method import Method, MethodOption

_BOOLS = {"true": True, "false": False}


def read_options(method: Method, text: str) -> dict[str, Any]:
    """Return the options in `text` that differ from their default, sorted by name.

    Raises UsageError for a text of another form, an unknown option, an option that is given twice, and a value that the option does not
    permit.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(f"'{part}' does not set an option of {method.name}", method_option="NAME=VALUE")
        if not method.options:
            raise UsageError(f"{method.name} has no options, but {part} is given: leave it out")
        if name not in method.options:
            raise UsageError(f"{method.name} has no option '{name}'{did_you_mean(name, method.options)}")
        if name in found:
            raise UsageError(f"the option {name} of {method.name} is given twice: give it once")
        found[name] = _value(method, name, value)
    return {name: value for name, value in sorted(found.items()) if value != method.options[name].default}


def written(options: Mapping[str, Any]) -> str:
    """Return the text of options, sorted by name. `read_options` reads it."""
    return ",".join(f"{name}={shown(value)}" for name, value in sorted(options.items()))


def shown(value: Any) -> str:
    """Return an option's value as users write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "|".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)


def _value(method: Method, name: str, text: str) -> Any:
    """Return the value that `text` stands for."""
    option = method.options[name]
    readings = list(_readings(text, option))
    if not readings:
        raise UsageError(f"{name} = {text} is not possible: {name} of {method.name} is {_permitted(option)}")
    return readings[0]


def _readings(text: str, option: MethodOption) -> Iterator[Any]:
    """Yield the values that `text` can stand for, the most specific first."""
    yield from (choice for choice in option.choices if shown(choice) == text)
    if bool in option.types and text.lower() in _BOOLS:
        yield _BOOLS[text.lower()]
    for kind in (int, float):
        if kind in option.types and (number := _number(text, kind)) is not None and (option.least is None or number >= option.least):
            yield int(number) if int in option.types and number == int(number) else number  # 32.0 is written as 32
    if list in option.types and text:
        elements = text.split("|")
        numbers = [_number(element, int) for element in elements]
        yield elements if None in numbers else numbers
    if str in option.types and text:
        yield text


def _number(text: str, kind: type) -> Any:
    """Return the finite number that `text` is, or None."""
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _permitted(option: MethodOption) -> str:
    """Return the permitted values in words."""
    least = "" if option.least is None else f" of at least {option.least:g}"
    words = {bool: "true or false", int: f"a whole number{least}", float: f"a number{least}", list: "one or more values joined by |"}
    parts = [words[kind] for kind in words if kind in option.types and not (kind is int and float in option.types)]
    parts += ["a text"] if str in option.types and list not in option.types else []
    parts += [f"one of {', '.join(map(shown, option.choices))}"] if option.choices else []
    return " or ".join(parts)
