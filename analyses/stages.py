"""From a study's stages to runs: which can be started, given what those before have found.

Every process of a study asks the same questions of the same store and gets the same runs in the same order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from analyses.inputs import inputs
from analyses.run import check
from analyses.search import FIRST_ROUND, first_round, second_round
from analyses.spec import Spec, spec_from
from analyses.study import Search, Stage, Study, Variant
from analyses.targets import Run
from apet.errors import ApetError
from apet.evaluation import metric_names
from apet.tasks import TASKS

Find = Callable[[Spec], Run | None]  # a spec's run if it is done and did not fail


def batches(study: Study, find: Find) -> Iterator[list[Spec]]:
    """The study's runs, distinct, a batch at a time: the next one is asked for when the runs of the last are over."""
    asked: set[Spec] = set()
    for _, specs in walk(study, find):
        fresh = [spec for spec in dict.fromkeys(specs) if spec not in asked]
        asked.update(fresh)
        if fresh:
            yield fresh


def walk(study: Study, find: Find) -> Iterator[tuple[Stage, list[Spec]]]:
    """Every stage with its runs, a round at a time."""
    over: dict[str, list[Spec]] = {}
    for stage in study.stages:
        over[stage.name] = []
        for specs in _rounds(stage, study, over, find):
            over[stage.name] += specs
            yield stage, specs


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
    return [at_optimum(spec, variant, run.id) for spec, run in found for variant in stage.variants]


def at_optimum(spec: Spec, variant: Variant, run_id: str) -> Spec:
    """The run that a variant of a stage asks for at the end of the run `run_id` of `spec`."""
    return spec_from({**vars(spec), **dict(variant), "at": run_id}).resolved()


def _searching(bases: tuple[Spec, ...], search: Search, data: dict[str, Path], full: list[Spec], find: Find) -> Iterator[list[Spec]]:
    """Round 1 of every search, then round 2 of those whose target is known."""
    first: dict[Spec, list[Spec]] = {}
    for base in bases:
        ks = first_round(_size(base, data.get(base.task)), min(search.runs, FIRST_ROUND), search.lowest, search.highest)
        first[base] = [_with(base, k, base.position_seed) for k in ks]
    yield [spec for specs in first.values() for spec in specs]
    target, second = search.target, []
    measured = [run for spec in full if (run := find(spec)) and target.measures(run)]
    for base, specs in first.items():
        runs = [run for spec in specs if (run := find(spec)) and target.counts(run)]
        against = [run for run in measured if runs and target.group(run) == target.group(runs[0])]
        if target.kind == "above_chance":
            against = against or runs
        if not against:
            continue
        metric = metric_names(TASKS[base.task])[0]
        value = target.value(against, metric)
        gaps = {run.k: gap for run in runs if math.isfinite(gap := target.gap(run, value, metric))}
        if gaps:
            second += [_with(base, k, base.position_seed + more) for k, more in second_round(gaps, search.runs - len(specs))]
    yield second


def _size(base: Spec, data: Path | None) -> int:
    """How many entries there are to choose from, from the model's shapes; without limit where it is not here, which its runs will say."""
    try:
        return check(base, inputs(base, data, shapes_only=True))["in_scope"]
    except ApetError:
        return sys.maxsize


def _with(base: Spec, k: int, position_seed: int) -> Spec:
    return replace(base, k=k, position_seed=position_seed).resolved()
