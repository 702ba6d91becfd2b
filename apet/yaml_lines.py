"""YAML mappings that know their lines, so that an error can name the file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from apet.errors import MissingInput, UsageError, did_you_mean


class Mapping(dict[str, Any]):
    """A YAML mapping. `where` is its position as the prefix of an error ("FILE:LINE: "), `at(key)` the position of a key."""

    where: str = ""
    keys_at: dict[str, str]

    def __init__(self, content: dict[str, Any], where: str, keys_at: dict[str, str]):
        super().__init__(content)
        self.where, self.keys_at = where, keys_at

    def at(self, key: str) -> str:
        """Return the position of a key, or of the mapping if it lacks the key."""
        return self.keys_at.get(key, self.where)

    def only(self, names: Sequence[str]) -> None:
        """Raise UsageError for the first key that is not one of `names`."""
        for key in self:
            if key not in names:
                raise UsageError(f"{self.at(key)}unknown key '{key}'{did_you_mean(key, names)}")

    def mapping(self, key: str) -> Mapping:
        """Return the mapping at `key`, or an empty one if the key is missing or null. Raises UsageError for any other value."""
        value = self.get(key)
        if value is None:
            return Mapping({}, self.at(key), {})
        if not isinstance(value, Mapping):
            raise UsageError(f"{self.at(key)}{key}: {value!r} is not a mapping")
        return value

    def part(self, *names: str) -> Mapping:
        """Return the mapping with only the keys `names`."""
        return Mapping({name: self[name] for name in names if name in self}, self.where, self.keys_at)

    def over(self, defaults: Mapping) -> Mapping:
        """Return `defaults` updated with this mapping."""
        return Mapping({**defaults, **self}, self.where, {**defaults.keys_at, **self.keys_at})

    @contextmanager
    def blamed(self, key: str | None = None) -> Iterator[None]:
        """Prefix a UsageError from the block with the position of the mapping or key, unless it already names the file."""
        place = self.where if key is None else self.at(key)
        try:
            yield
        except UsageError as error:
            file = place.partition(":")[0]
            raise UsageError(str(error) if file and str(error).startswith(file) else f"{place}{error}") from error


class _Loader(yaml.SafeLoader):
    """A loader for the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3.2), in which plain values have their obvious meaning.

    PyYAML follows YAML 1.1, in which 1e-4 is a text, 010 is 8, 12:30 is 750, and yes, no, on and off are booleans.
    """

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (the name is PyYAML's; none of its resolvers is inherited)


for _tag, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$", list("-+.0123456789")),
    ("merge", r"<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    try:
        return int(node.value)
    except ValueError:
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is not an integer", node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)  # PyYAML's constructor reads 010 as 8


def read_value(text: str) -> Any:
    """Return the YAML value of `text`, or `text` itself if it is not valid YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def read_yaml(path: Path, what: str = "study") -> Mapping:
    """Return the mapping in a YAML file. `what` names the kind of file in an error.

    Raises MissingInput if the file does not exist. Raises UsageError, with the file and if possible the line, if it is not valid YAML, if a
    key is repeated, or if it does not hold a mapping.
    """
    if not path.is_file():
        raise MissingInput(f"no {what} file {path}")

    class Loader(_Loader):
        pass

    def construct(loader: Loader, node: yaml.MappingNode) -> Mapping:
        places = {str(key.value): f"{path}:{key.start_mark.line + 1}: " for key, _ in node.value}
        if len(places) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            repeated = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{places[repeated]}the key '{repeated}' is repeated")
        content = loader.construct_mapping(node, deep=True)
        return Mapping({str(key): value for key, value in content.items()}, f"{path}:{node.start_mark.line + 1}: ", places)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: the file must hold a mapping of names to values")
    return content
