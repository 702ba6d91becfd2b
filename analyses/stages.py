"""From a study's stages to runs: which can be started, given what those before have found.

Every process of a study asks the same questions of the same store and gets the same runs in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from analyses.inputs import inputs
from analyses.run import check
from analyses.search import FIRST_ROUND, first_round, second_round
from analyses.spec import Spec, spec_from
from analyses.study import Search, Stage, Study
from analyses.targets import Run
from apet.evaluation import metric_names
from apet.tasks import TASKS

Find = Callable[[Spec], Run | None]  # a spec's run if it is done and did not fail


def batches(study: Study, find: Find) -> Iterator[list[Spec]]:
    """The study's runs, distinct, a batch at a time: the next one is asked for when the runs of the last are over."""
    over: dict[str, list[Spec]] = {}
    asked: set[Spec] = set()
    for stage in study.stages:
        over[stage.name] = []
        for specs in _rounds(stage, study, over, find):
            over[stage.name] += specs
            fresh = [spec for spec in dict.fromkeys(specs) if spec not in asked]
            asked.update(fresh)
            if fresh:
                yield fresh


def _rounds(stage: Stage, study: Study, over: dict[str, list[Spec]], find: Find) -> Iterator[list[Spec]]:
    if stage.at is not None:
        yield _following(stage, over[stage.at], find)
    elif stage.search is not None:
        yield from _searching(stage.specs, stage.search, study.data, over.get(stage.search.of or "", []), find)
    else:
        yield list(stage.specs)


def _following(stage: Stage, parents: list[Spec], find: Find) -> list[Spec]:
    """A run for each parent that is done and each variant: the parent's spec, what it found, and the variant's fields."""
    found = [(spec, run) for spec in parents if (run := find(spec))]
    return [spec_from({**vars(spec), **dict(variant), "at": run.id}).resolved() for spec, run in found for variant in stage.variants]


def _searching(bases: tuple[Spec, ...], search: Search, data: dict[str, Path], full: list[Spec], find: Find) -> Iterator[list[Spec]]:
    """Round 1 of every search, then round 2 of those whose target is known."""
    first: dict[Spec, list[Spec]] = {}
    for base in bases:
        size = check(base, inputs(base, data.get(base.task)))["in_scope"]
        ks = first_round(size, min(search.runs, FIRST_ROUND), search.lowest, search.highest)
        first[base] = [_with(base, k, base.position_seed) for k in ks]
    yield [spec for specs in first.values() for spec in specs]
    second: list[Spec] = []
    for base, specs in first.items():
        runs = [run for spec in specs if (run := find(spec))]
        against = [run for spec in full if comparable(vars(spec), vars(base)) and (run := find(spec))]
        if search.target.kind == "above_chance":
            against = against or runs
        if not runs or not against:
            continue
        metric = metric_names(TASKS[base.task])[0]
        value = search.target.value(against, metric)
        gaps = {run.spec["k"]: search.target.gap(run, value, metric) for run in runs}
        second += [_with(base, k, base.position_seed + more) for k, more in second_round(gaps, search.runs - len(specs))]
    yield second


def _with(base: Spec, k: int, position_seed: int) -> Spec:
    return replace(base, k=k, position_seed=position_seed).resolved()


# What two runs must have in common for one to be measured by the other.
_SAME = ("model", "random_init", "task", "examples", "max_length", "early_stop")


def comparable(one: dict, other: dict) -> bool:
    """Whether two training specs are of the same function on the same examples, whatever is tuned."""
    return all(one[name] == other[name] for name in _SAME)
