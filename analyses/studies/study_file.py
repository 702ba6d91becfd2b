"""A study: a YAML file of stages. Each stage is a grid of runs.

    name: demo
    defaults: {task: mini-sentiment, examples: 256, early_stop: false}
    grid:                                   # all combinations of the lists in an entry are runs
      - {kind: train, method: apet, model: [mini-t5-240k, mini-t5-790k], k: [4, 16], position_seed: [0, 1]}
      - {kind: predict, model: [mini-t5-240k, mini-t5-790k]}
    threshold: {fraction: 0.5}              # optional; one target or a list of targets

If runs depend on the results of other runs, the file has `stages` instead of one grid:

    stages:
      full: {grid: [{kind: train, method: full, model: [mini-t5-240k, mini-t5-790k]}]}
      high:                                 # searches for the k that reaches a score, in rounds (analyses.studies.search_rounds)
        search: {below_full: 0.01, of: full, runs: 12, from: 16, to: 65536}
        grid: [{kind: train, method: apet, model: [mini-t5-240k, mini-t5-790k]}]
      curvature:                            # starts at the final point of every run of a stage
        at: high
        grid: [{kind: spectrum, matrix: [hessian, ggn]}]
      valleys:                              # a line between neighbouring runs of a stage that differ only in this field
        at: high
        pairs: position_seed
        grid: [{kind: slice, curve: true}]
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyses.specs import KINDS, Spec, defaults_of, field_names, spec_from
from analyses.studies.search_rounds import FIRST_ROUND, HIGHEST_K, LOWEST_K
from analyses.thresholds import TARGET_KINDS, Target
from apet.errors import MissingInput, UsageError, did_you_mean
from apet.tasks import task_named
from apet.yaml_lines import Mapping, read_yaml

_KEYS = ("name", "defaults", "grid", "stages", "threshold", "data")
_STAGE_KEYS = ("grid", "at", "pairs", "search")
# Fields in which two runs may differ and still be points of one space, if they share their weights.
PAIRS = ("position_seed", "train_seed", "k", "method", "unit", "order", "lr", "steps", "batch", "schedule", "weight_decay")
_SEARCH_KEYS = (*TARGET_KINDS, "of", "runs", "from", "to")


Variant = tuple[tuple[str, Any], ...]  # (field, value) pairs of a run that starts from another run


@dataclass(frozen=True)
class Search:
    """A search for the k that reaches a target, with at most `runs` runs at k from `lowest` to `highest`.

    `of` is the stage with full fine-tuning. Raises UsageError for an empty range, or for fewer runs than a first round has.
    """

    target: Target
    of: str | None
    runs: int = 14
    lowest: int = LOWEST_K
    highest: int = HIGHEST_K

    @classmethod
    def single(cls, target: Target | None, runs: int | None, lowest: int | None, highest: int | None) -> Search:
        """Return the search for one model and task outside a study. None stands for the default of each argument."""
        target = Target("fraction", 0.9) if target is None else target
        return cls(target, "full", runs or cls.runs, lowest or cls.lowest, highest or cls.highest)

    def __post_init__(self) -> None:
        if self.runs < FIRST_ROUND:
            raise UsageError(f"runs = {self.runs} must be at least {FIRST_ROUND}, the size of a search's first round")
        if not 1 <= self.lowest < self.highest:
            raise UsageError(f"the largest k tried ({self.highest}) must be above the smallest ({self.lowest}), which must be at least 1")


@dataclass(frozen=True)
class Stage:
    """Runs that can start when the earlier stages are over (`analyses.studies.stages`).

    specs: the runs of a grid; with `search`, one spec per search, whose k is replaced.
    at: a stage. Each of its runs is combined with each of `variants`, whose fields override the run's fields.
    pairs: a field. Each run of the stage `at` is joined with the next run that differs only in this field.
    """

    name: str
    specs: tuple[Spec, ...] = ()
    search: Search | None = None
    at: str | None = None
    variants: tuple[Variant, ...] = ()
    pairs: str | None = None


@dataclass(frozen=True)
class Study:
    """Stages in the order of the file; `data` maps the name of a task to its folder, relative to the working directory."""

    name: str
    stages: tuple[Stage, ...]
    targets: tuple[Target, ...]
    data: dict[str, Path]

    @property
    def known(self) -> tuple[Spec, ...]:
        """The distinct runs that do not depend on other runs."""
        return tuple(dict.fromkeys(spec for stage in self.stages if not stage.search for spec in stage.specs))

    @property
    def tasks(self) -> set[str]:
        """The names of the study's tasks."""
        return {spec.task_name for stage in self.stages for spec in stage.specs}


def read_study(path: Path) -> Study:
    """Read and validate a study file.

    Raises UsageError, with the file and line, for invalid content, and MissingInput if the file does not exist.
    """
    content = read_yaml(path)
    content.only(_KEYS)
    if not content.get("grid") and not content.get("stages"):
        raise UsageError(f"{path}: a study needs a 'grid' of runs, or 'stages' with a grid each")
    if "grid" in content and "stages" in content:
        raise UsageError(f"{content.at('stages')}a study has either 'grid' or 'stages', not both: move the grid into a stage")
    defaults = content.mapping("defaults")
    if "grid" in content:
        stages = [_stage("runs", content.part("grid"), defaults, ())]
    else:
        stages, stage_contents = [], content.mapping("stages")
        for name in stage_contents:
            stages.append(_stage(name, stage_contents.mapping(name), defaults, tuple(stage.name for stage in stages)))
    targets = [_target(threshold) for threshold in _mappings(content, "threshold")]
    targets += [stage.search.target for stage in stages if stage.search]
    name = str(content.get("name", path.stem))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"{content.at('name')}the name '{name}' cannot be a folder's name: use letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit"
        )
    return Study(name, tuple(stages), tuple(dict.fromkeys(targets)), _data(content.mapping("data")))


def _data(content: Mapping) -> dict[str, Path]:
    """Return the folder of each task, by the task's name. A key is the name or the file of a task."""
    folders = {}
    for task, folder in content.items():
        if not isinstance(folder, str):
            raise UsageError(f"{content.at(task)}{task}: {folder!r} is not the path of a folder")
        with content.blamed(task):
            folders[task_named(task).name] = Path(folder)
    return folders


def _mappings(content: Mapping, key: str) -> list[Mapping]:
    """Return the mapping or the list of mappings at `key` as a list, which is empty if the key is missing."""
    value = content.get(key)
    if not isinstance(value, list):
        return [content.mapping(key)] if key in content else []
    for item in value:
        if not isinstance(item, Mapping):
            raise UsageError(f"{content.at(key)}{key}: {item!r} is not a mapping")
    return value


def _stage(name: str, content: Mapping, defaults: Mapping, before: tuple[str, ...]) -> Stage:
    content.only(_STAGE_KEYS)
    entries = content.get("grid")
    if not entries or not isinstance(entries, list):
        raise UsageError(f"{content.where}stage {name} needs a 'grid' with a list of entries")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise UsageError(f"{content.at('grid')}{entry!r} is not a mapping of fields: {', '.join(field_names())}")
    at = content.get("at")
    if at is not None:
        return Stage(name, at=at, variants=_variants(content, entries, defaults, before), pairs=_pairs(content))
    if "pairs" in content:
        raise UsageError(f"{content.at('pairs')}'pairs' joins the runs of another stage: name that stage with 'at'")
    search = _search(content.mapping("search"), before) if "search" in content else None
    specs = [spec for entry in entries for spec in _expand(entry, defaults, search is not None)]
    return Stage(name, tuple(dict.fromkeys(specs)), search)


def _variants(content: Mapping, entries: list[Mapping], defaults: Mapping, before: tuple[str, ...]) -> tuple[Variant, ...]:
    """Return the variants of a stage with `at`: the fields that override the fields of the earlier stage's runs."""
    at = content["at"]
    if at not in before:
        raise UsageError(f"{content.at('at')}there is no stage '{at}' before this one{did_you_mean(str(at), before) if before else ''}")
    variants: list[Variant] = []
    for entry in entries:
        for values in _crossed(entry):
            kind = values.get("kind", defaults.get("kind", "train"))
            if kind in KINDS and "at" not in defaults_of(KINDS[kind]):
                raise UsageError(f"{entry.at('kind')}only spectra and slices can start at a run's final point, not {kind} runs")
            pair = _paired(entry, kind) if "pairs" in content else {}
            values = {"kind": kind, **pair, **values}
            # Placeholders for fields that the earlier run determines. A run of method apet stands for all methods.
            placeholders = {"k": 1, "at": "not yet", **({"to": "not yet"} if pair else {})}
            with entry.blamed():
                _spec_of({**placeholders, **values}, entry, defaults, set(placeholders)).resolved()
            variants.append(tuple(values.items()))
    return tuple(variants)


def _pairs(content: Mapping) -> str | None:
    """Return the field in which the runs of a pair differ, or None. Raises UsageError for a field that is not in PAIRS."""
    if "pairs" in content and content["pairs"] not in PAIRS:
        guess = did_you_mean(str(content["pairs"]), PAIRS)
        raise UsageError(f"{content.at('pairs')}pairs: '{content['pairs']}' is not one of {', '.join(PAIRS)}{guess}")
    return content.get("pairs")


def _paired(entry: Mapping, kind: str) -> dict[str, Any]:
    """Return the fields that every entry between two runs has. Raises UsageError for an entry that contradicts them."""
    if kind != "slice" or entry.get("directions", "optima") != "optima":
        place = entry.at("directions" if kind == "slice" else "kind")
        raise UsageError(f"{place}a stage with 'pairs' takes only slices with directions: optima")
    if "to" in entry:
        raise UsageError(f"{entry.at('to')}'to' cannot be combined with 'pairs', which determines the two runs: leave out 'to'")
    return {"directions": "optima"}


def _search(content: Mapping, before: tuple[str, ...]) -> Search:
    content.only(_SEARCH_KEYS)
    target = _target(content)
    of = content.get("of")
    if target.needs_full and of not in before:
        raise UsageError(f"{content.where}a search for {target.kind} needs 'of', an earlier stage with full fine-tuning runs")
    numbers = {}
    for name, least in (("runs", FIRST_ROUND), ("from", 1), ("to", 2)):
        value = content.get(name, {"runs": 14, "from": LOWEST_K, "to": HIGHEST_K}[name])
        if type(value) is not int or value < least:
            raise UsageError(f"{content.at(name)}{name}: {value!r} is not a whole number of at least {least}")
        numbers[name] = value
    if numbers["from"] >= numbers["to"]:
        raise UsageError(f"{content.at('to')}to = {numbers['to']} must be above from = {numbers['from']}")
    return Search(target, of, numbers["runs"], numbers["from"], numbers["to"])


def _target(content: Mapping) -> Target:
    kinds = [kind for kind in TARGET_KINDS if kind in content]
    if len(kinds) != 1:
        raise UsageError(f"{content.where}a threshold needs exactly one of {', '.join(TARGET_KINDS)}")
    amount = content[kinds[0]]
    if type(amount) not in (int, float):
        raise UsageError(f"{content.at(kinds[0])}{kinds[0]}: {amount!r} is not a number")
    with content.blamed(kinds[0]):
        return Target(kinds[0], float(amount))


def _expand(entry: Mapping, defaults: Mapping, searched: bool) -> Iterator[Spec]:
    for values in _crossed(entry.over(defaults)):
        if searched and (values.get("kind", "train"), values.get("method", "apet"), values.get("matched")) != ("train", "apet", None):
            raise UsageError(
                f"{entry.where}a search varies the k of training runs of method apet: leave out any other kind or method, and 'matched'"
            )
        spec = _spec_of({**values, "k": 1} if searched else values, entry, defaults, set(defaults) - set(entry))
        with entry.blamed():
            resolved = spec.resolved()
        yield spec if searched else resolved  # the defaults of a search's runs depend on their k


def _crossed(entry: Mapping) -> list[dict[str, Any]]:
    axes = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
    for name, values in axes.items():
        if not values:
            raise UsageError(f"{entry.at(name)}{name}: an empty list gives no runs")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _spec_of(values: dict[str, Any], entry: Mapping, defaults: Mapping, shared: set[str]) -> Spec:
    """Return the spec of an entry's `values`. Fields in `shared` (with runs of other kinds) may be unused by this kind."""
    at = entry.over(defaults).at
    with entry.blamed():
        spec = spec_from(values, at, shared)
        task_named(spec.task)  # raises an error for an unknown task
        return spec


def with_data(study: Study, folder: Path) -> Study:
    """Return the study with its data in `folder`, which has one folder per task. A task without a folder there keeps its data.

    Raises MissingInput if `folder` does not exist.
    """
    if not folder.is_dir():
        raise MissingInput(f"no folder {folder}: --data needs a folder with one folder per task")
    return replace(study, data=study.data | {task: folder / task for task in study.tasks if (folder / task).is_dir()})
