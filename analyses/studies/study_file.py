"""A study: a YAML file of stages, each a grid of runs.

name: demo
defaults: {task: mini-sentiment, examples: 256, early_stop: false}
grid:                                   # every list in an entry is crossed with the others
  - {kind: train, method: apet, model: [mini-t5-240k, mini-t5-790k], k: [4, 16], position_seed: [0, 1]}
  - {kind: predict, model: [mini-t5-240k, mini-t5-790k]}
threshold: {fraction: 0.5}              # optional; or a list of them

Where runs need what others have found, there are `stages` instead of one grid:

stages:
  full: {grid: [{kind: train, method: full, model: [mini-t5-240k, mini-t5-790k]}]}
  high:                                 # looks for the k that reaches a score, in rounds (analyses.studies.search_rounds)
    search: {below_full: 0.01, of: full, runs: 12, from: 16, to: 65536}
    grid: [{kind: train, method: apet, model: [mini-t5-240k, mini-t5-790k]}]
  curvature:                            # starts from the optimum of every run of a stage
    at: high
    grid: [{kind: spectrum, matrix: [hessian, ggn]}]
  valleys:                              # a line between every two neighbours among its runs that differ in this one field
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
from analyses.studies.yaml_lines import Mapping, read_yaml
from analyses.thresholds import TARGET_KINDS, Target
from apet.errors import MissingInput, UsageError, did_you_mean

_KEYS = ("name", "defaults", "grid", "stages", "threshold", "data")
_STAGE_KEYS = ("grid", "at", "pairs", "search")
# What runs may differ in and still be points of one space, in so far as their weights are the same.
PAIRS = ("position_seed", "train_seed", "k", "method", "unit", "order", "lr", "steps", "batch", "schedule", "weight_decay")
_SEARCH_KEYS = (*TARGET_KINDS, "of", "runs", "from", "to")


Variant = tuple[tuple[str, Any], ...]  # fields with their values, of what starts from another run


@dataclass(frozen=True)
class Search:
    """The k that reaches a target, looked for with at most `runs` runs from `lowest` to `highest`; `of` is the stage with full fine-tuning.

    Raises UsageError for a range that is empty, or too few runs for a first round.
    """

    target: Target
    of: str | None
    runs: int = 14
    lowest: int = LOWEST_K
    highest: int = HIGHEST_K

    @classmethod
    def single(cls, target: Target | None, runs: int | None, lowest: int | None, highest: int | None) -> Search:
        """A search of one model and task, None for each default; its full fine-tuning is not a stage's."""
        aim = Target("fraction", 0.9) if target is None else target
        return cls(aim, "full", runs or cls.runs, lowest or cls.lowest, highest or cls.highest)

    def __post_init__(self) -> None:
        if self.runs < FIRST_ROUND:
            raise UsageError(f"runs: {self.runs} is not a number of at least {FIRST_ROUND}")
        if not 1 <= self.lowest < self.highest:
            raise UsageError(f"the largest k tried, {self.highest}, is not above the smallest, {self.lowest}, which is at least 1")


@dataclass(frozen=True)
class Stage:
    """Runs that can be started once the stages before are over.

    `specs` are those of a grid, or with `search` one for each search, whose k does not count. With `at` there is a run for every
    run of that stage and each of `variants`, the fields laid over its own; with `pairs` for every two runs that differ in this field
    alone, each with the next (`analyses.studies.stages`).
    """

    name: str
    specs: tuple[Spec, ...] = ()
    search: Search | None = None
    at: str | None = None
    variants: tuple[Variant, ...] = ()
    pairs: str | None = None


@dataclass(frozen=True)
class Study:
    """Stages in the order of the file; `data` maps a task to its folder, relative to where the study is run."""

    name: str
    stages: tuple[Stage, ...]
    targets: tuple[Target, ...]
    data: dict[str, Path]

    @property
    def known(self) -> tuple[Spec, ...]:
        """The runs that depend on no others, distinct."""
        return tuple(dict.fromkeys(spec for stage in self.stages if not stage.search for spec in stage.specs))

    @property
    def tasks(self) -> set[str]:
        return {spec.task for stage in self.stages for spec in stage.specs}


def read_study(path: Path) -> Study:
    """Parse and validate a study file; UsageError says the file, the line and what is wrong, MissingInput that there is none."""
    content = read_yaml(path)
    content.only(_KEYS)
    if not content.get("grid") and not content.get("stages"):
        raise UsageError(f"{path}: a study needs a 'grid' of runs, or 'stages' that have one each")
    if "grid" in content and "stages" in content:
        raise UsageError(f"{content.at('stages')}a study has either a grid or stages")
    defaults = content.mapping("defaults")
    if "grid" in content:
        stages = [_stage("runs", content.part("grid"), defaults, ())]
    else:
        stages, listed = [], content.mapping("stages")
        for name in listed:
            stages.append(_stage(name, listed.mapping(name), defaults, tuple(stage.name for stage in stages)))
    targets = [_target(each) for each in _listed(content, "threshold")]
    targets += [stage.search.target for stage in stages if stage.search]
    data = content.mapping("data")
    for task, folder in data.items():
        if not isinstance(folder, str):
            raise UsageError(f"{data.at(task)}{task}: {folder!r} is no folder")
    name = str(content.get("name", path.stem))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{content.at('name')}the name '{name}' becomes a folder's: letters, digits, '-', '_' and '.' only")
    return Study(name, tuple(stages), tuple(dict.fromkeys(targets)), {task: Path(folder) for task, folder in data.items()})


def _listed(content: Mapping, key: str) -> list[Mapping]:
    """The mapping at `key`, or the list of them; none without it."""
    value = content.get(key)
    if not isinstance(value, list):
        return [content.mapping(key)] if key in content else []
    for each in value:
        if not isinstance(each, Mapping):
            raise UsageError(f"{content.at(key)}{key}: {each!r} is not a mapping")
    return value


def _stage(name: str, content: Mapping, defaults: Mapping, before: tuple[str, ...]) -> Stage:
    content.only(_STAGE_KEYS)
    entries = content.get("grid")
    if not entries or not isinstance(entries, list):
        raise UsageError(f"{content.where}stage {name} needs a 'grid', a list of entries")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise UsageError(f"{content.at('grid')}{entry!r} is not a mapping of fields: {', '.join(field_names())}")
    at = content.get("at")
    if at is not None:
        return Stage(name, at=at, variants=_variants(content, entries, defaults, before), pairs=_pairs(content))
    if "pairs" in content:
        raise UsageError(f"{content.at('pairs')}pairs are of the runs of a stage: say which with 'at'")
    search = _search(content.mapping("search"), before) if "search" in content else None
    specs = [spec for entry in entries for spec in _expand(entry, defaults, search is not None)]
    return Stage(name, tuple(dict.fromkeys(specs)), search)


def _variants(content: Mapping, entries: list[Mapping], defaults: Mapping, before: tuple[str, ...]) -> tuple[Variant, ...]:
    """What is laid over the specs of the stage `at`."""
    at = content["at"]
    if at not in before:
        raise UsageError(f"{content.at('at')}there is no stage '{at}' before this one{did_you_mean(str(at), before) if before else ''}")
    found: list[Variant] = []
    for entry in entries:
        for values in _crossed(entry):
            kind = values.get("kind", defaults.get("kind", "train"))
            if kind in KINDS and "at" not in defaults_of(KINDS[kind]):
                raise UsageError(f"{entry.at('kind')}at a run's optimum there are spectra and slices, no {kind} runs")
            pair = _paired(entry, kind) if "pairs" in content else {}
            values = {"kind": kind, **pair, **values}
            follows = {"k": 1, "at": "not yet", **({"to": "not yet"} if pair else {})}  # from the run; a run of apet stands for all
            with entry.blamed():
                _spec_of({**follows, **values}, entry, defaults, set(follows)).resolved()
            found.append(tuple(values.items()))
    return tuple(found)


def _pairs(content: Mapping) -> str | None:
    """The field in which the runs of a pair differ."""
    if "pairs" in content and content["pairs"] not in PAIRS:
        guess = did_you_mean(str(content["pairs"]), PAIRS)
        raise UsageError(f"{content.at('pairs')}pairs: '{content['pairs']}' is not one of {', '.join(PAIRS)}{guess}")
    return content.get("pairs")


def _paired(entry: Mapping, kind: str) -> dict[str, Any]:
    """What an entry between two runs has of itself; UsageError for one that says otherwise."""
    if kind != "slice" or entry.get("directions", "optima") != "optima":
        place = entry.at("directions" if kind == "slice" else "kind")
        raise UsageError(f"{place}between the runs of a pair there are slices of directions optima")
    if "to" in entry:
        raise UsageError(f"{entry.at('to')}to: the runs that are joined follow from 'pairs'")
    return {"directions": "optima"}


def _search(content: Mapping, before: tuple[str, ...]) -> Search:
    content.only(_SEARCH_KEYS)
    target = _target(content)
    of = content.get("of")
    if target.needs_full and of not in before:
        raise UsageError(f"{content.where}a search for {target.kind} needs 'of', a stage before it with full fine-tuning runs")
    numbers = {}
    for name, least in (("runs", FIRST_ROUND), ("from", 1), ("to", 2)):
        value = content.get(name, {"runs": 14, "from": LOWEST_K, "to": HIGHEST_K}[name])
        if type(value) is not int or value < least:
            raise UsageError(f"{content.at(name)}{name}: {value!r} is not a number of at least {least}")
        numbers[name] = value
    if numbers["from"] >= numbers["to"]:
        raise UsageError(f"{content.at('to')}to = {numbers['to']} is not above from = {numbers['from']}")
    return Search(target, of, numbers["runs"], numbers["from"], numbers["to"])


def _target(content: Mapping) -> Target:
    kinds = [kind for kind in TARGET_KINDS if kind in content]
    if len(kinds) != 1:
        raise UsageError(f"{content.where}a threshold needs one of {', '.join(TARGET_KINDS)}")
    amount = content[kinds[0]]
    if type(amount) not in (int, float):
        raise UsageError(f"{content.at(kinds[0])}{kinds[0]}: {amount!r} is not a number")
    with content.blamed(kinds[0]):
        return Target(kinds[0], float(amount))


def _expand(entry: Mapping, defaults: Mapping, searched: bool) -> Iterator[Spec]:
    for values in _crossed(entry.over(defaults)):
        if searched and (values.get("kind", "train"), values.get("method", "apet"), values.get("matched")) != ("train", "apet", None):
            raise UsageError(f"{entry.where}a search is for the k of training runs of method apet: no other kind, method or 'matched'")
        spec = _spec_of({**values, "k": 1} if searched else values, entry, defaults, set(defaults) - set(entry))
        with entry.blamed():
            resolved = spec.resolved()
        yield spec if searched else resolved  # a search's defaults follow from each k


def _crossed(entry: Mapping) -> list[dict[str, Any]]:
    axes = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
    for name, values in axes.items():
        if not values:
            raise UsageError(f"{entry.at(name)}{name}: an empty list makes no runs")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _spec_of(values: dict[str, Any], entry: Mapping, defaults: Mapping, shared: set[str]) -> Spec:
    """The spec of an entry's `values`; what is `shared` with runs of other kinds may be of no use to this one."""
    at = entry.over(defaults).at
    with entry.blamed():
        return spec_from(values, at, shared)


def with_data(study: Study, folder: Path) -> Study:
    """The study with its data below `folder`, one folder a task; a task that has none there keeps its own. MissingInput for no folder."""
    if not folder.is_dir():
        raise MissingInput(f"no folder {folder}: --data takes one with a folder for each task")
    return replace(study, data=study.data | {task: folder / task for task in study.tasks if (folder / task).is_dir()})
