"""YAML whose mappings know their lines, so that an error can name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from apet.errors import MissingInput, UsageError, did_you_mean


class Mapping(dict[str, Any]):
    """A YAML mapping; `where` names its file and line as an error's beginning, `at(key)` that of a key."""

    where: str = ""
    keys_at: dict[str, str]

    def __init__(self, content: dict[str, Any], where: str, keys_at: dict[str, str]):
        super().__init__(content)
        self.where, self.keys_at = where, keys_at

    def at(self, key: str) -> str:
        return self.keys_at.get(key, self.where)

    def only(self, names: Sequence[str]) -> None:
        """Raise a UsageError for the first key that is not one of `names`."""
        for key in self:
            if key not in names:
                raise UsageError(f"{self.at(key)}unknown key '{key}'{did_you_mean(key, names)}")

    def mapping(self, key: str) -> Mapping:
        """The mapping at `key`, an empty one if there is none; UsageError for anything else."""
        value = self.get(key)
        if value is None:
            return Mapping({}, self.at(key), {})
        if not isinstance(value, Mapping):
            raise UsageError(f"{self.at(key)}{key}: {value!r} is not a mapping")
        return value

    def part(self, *names: str) -> Mapping:
        """The same mapping with these keys alone."""
        return Mapping({name: self[name] for name in names if name in self}, self.where, self.keys_at)

    def over(self, defaults: Mapping) -> Mapping:
        """This mapping laid over `defaults`."""
        return Mapping({**defaults, **self}, self.where, {**defaults.keys_at, **self.keys_at})

    @contextmanager
    def blamed(self, key: str | None = None) -> Iterator[None]:
        """Put the line in front of a UsageError that does not name one."""
        place = self.where if key is None else self.at(key)
        try:
            yield
        except UsageError as error:
            file = place.partition(":")[0]
            raise UsageError(str(error) if file and str(error).startswith(file) else f"{place}{error}") from error


class _Loader(yaml.SafeLoader):
    """YAML by the core schema of version 1.2 (yaml.org/spec/1.2.2, 10.3.2), where plain values mean what they look like.

    PyYAML follows version 1.1, where 1e-4 is a text, 010 is 8, 12:30 is 750, and yes, no, on and off are booleans.
    """

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (PyYAML's own name; none of its resolvers is taken over)


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
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is no integer", node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)  # PyYAML's own reads 010 as 8


def read_value(text: str) -> Any:
    """The value that is written in `text`; a text where it is no YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def read_yaml(path: Path, what: str = "study") -> Mapping:
    """The mapping in a YAML file. MissingInput if there is no file, UsageError with the line for what is not YAML or no mapping."""
    if not path.is_file():
        raise MissingInput(f"no {what} file {path}")

    class Loader(_Loader):
        pass

    def construct(loader: Loader, node: yaml.MappingNode) -> Mapping:
        places = {str(key.value): f"{path}:{key.start_mark.line + 1}: " for key, _ in node.value}
        if len(places) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{places[twice]}the key '{twice}' comes twice")
        content = loader.construct_mapping(node, deep=True)
        return Mapping({str(key): value for key, value in content.items()}, f"{path}:{node.start_mark.line + 1}: ", places)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: not a mapping of names to values")
    return content
