"""From a study's stages to runs: which can be started, given what those before have found.

Every process of a study asks the same questions of the same store and gets the same runs in the same order.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analyses.runs import check, inputs
from analyses.specs import Spec, TrainSpec, spec_from, trimmed
from analyses.studies.search_rounds import FIRST_ROUND, first_round, next_round
from analyses.studies.study_file import Search, Stage, Study, Variant
from analyses.thresholds import Run, Target
from apet.errors import ApetError
from apet.scoring import metric_names
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
        yield from searching(stage.specs, stage.search, study.data, over.get(stage.search.of or "", []), find)
    else:
        yield list(stage.specs)


def _following(stage: Stage, parents: list[Spec], find: Find) -> list[Spec]:
    """A run for each parent that is done (or pair of them) and each variant: the parent's spec, what it found, the variant's fields."""
    found = [(spec, run.id) for spec in parents if (run := find(spec))]
    if stage.pairs is not None:
        return between(stage, found)
    return [at_optimum(spec, variant, run_id) for spec, run_id in found for variant in stage.variants]


def between(stage: Stage, parents: Sequence[tuple[Spec, str]]) -> list[Spec]:
    """The runs of a stage with `pairs`, from the specs and ids of those that it joins."""
    assert stage.pairs is not None
    return [at_optimum(spec, variant, run_id, to) for spec, run_id, to in _joined(parents, stage.pairs) for variant in stage.variants]


def _joined(parents: Sequence[tuple[Spec, str]], name: str) -> list[tuple[Spec, str, str]]:
    """(spec, id, id of the next) of runs that differ in the field `name` and in what follows from it alone, in their order."""
    groups: dict[object, list[tuple[Spec, str]]] = {}
    for spec, run_id in parents:
        groups.setdefault(_besides(spec, name), []).append((spec, run_id))
    pairs = [pair for group in groups.values() for pair in itertools.pairwise(group)]
    return [(spec, run_id, to) for (spec, run_id), (other, to) in pairs if getattr(spec, name) != getattr(other, name)]


# Only apet's runs say which entries they tune.
_WITH_METHOD = {"k", "matched", "operations", "scope", "unit", "order", "position_seed", "trajectory", "keep_end"}


def _besides(spec: Spec, name: str) -> tuple:
    """What else runs must share to be a pair: every other field, a rate where it is not the default of its method and k."""
    left_out = {name} | (_WITH_METHOD if name == "method" else set())
    default = isinstance(spec, TrainSpec) and spec.lr is not None and replace(spec, lr=None).resolved().lr == spec.lr
    return tuple((field, value) for field, value in vars(spec).items() if field not in left_out and not (field == "lr" and default))


def at_optimum(spec: Spec, variant: Variant, run_id: str, to: str | None = None) -> Spec:
    """The run that a variant of a stage asks for at the end of the run `run_id` of `spec`, or between it and the run `to`."""
    values = {**vars(spec), **dict(variant), "at": run_id, **({"to": to} if to else {})}
    return spec_from(values, shared=set(vars(spec)) - set(dict(variant))).resolved()


def searching(bases: Sequence[Spec], search: Search, data: Mapping[str, Path], full: Sequence[Spec], find: Find) -> Iterator[list[Spec]]:
    """The runs of all searches, a round at a time (analyses.studies.search_rounds).

    `bases` are specs whose k does not count, one for each search.

    A search ends with its budget, where its target is not known or settled without any run, and where it lies beyond the range.
    Its i-th run has the i-th position seed from the base's on, so that no two runs share their noise.
    """
    target = search.target
    measured = [run for spec in full if (run := find(spec)) and target.measures(run)]
    asked: dict[Spec, list[Spec]] = {}
    for base in bases:
        there = [run for run in measured if target.like(base, run)]
        if there and target.settled(there, _metric(base)):
            continue
        ks = first_round(_size(base, data.get(base.task)), min(search.runs, FIRST_ROUND), search.lowest, search.highest)
        asked[base] = [_with(base, k, i) for i, k in enumerate(ks)]
    yield [spec for specs in asked.values() for spec in specs]
    while True:
        fresh: list[Spec] = []
        for base, specs in asked.items():
            gaps = _gaps(target, [run for spec in specs if (run := find(spec))], measured, _metric(base))
            more = next_round([spec.k or 0 for spec in specs], gaps, search.runs)
            specs += (new := [_with(base, k, len(specs) + i) for i, k in enumerate(more)])
            fresh += new
        if not fresh:
            return
        yield fresh


def _gaps(target: Target, runs: list[Run], measured: list[Run], metric: str) -> list[tuple[int, float]]:
    """(k, gap) of the runs that say something of the target, empty where it is not known."""
    runs = [run for run in runs if target.counts(run)]
    against = [run for run in measured if runs and run.setting == runs[0].setting]
    against = against or ([] if target.needs_full else runs)
    if not against or target.settled(against, metric):
        return []
    value = target.value(against, metric)
    return [(run.k, gap) for run in runs if math.isfinite(gap := target.gap(run, value, metric))]


def _metric(spec: Spec) -> str:
    return metric_names(TASKS[spec.task])[0]


def _size(base: Spec, data: Path | None) -> int:
    """How many entries there are to choose from, from the model's shapes; without limit where it is not here, which its runs will say."""
    try:
        return check(base, inputs(base, data, shapes_only=True))["in_scope"]
    except ApetError:
        return sys.maxsize


def _with(base: Spec, k: int, number: int) -> Spec:
    return trimmed(replace(base, k=k, position_seed=base.position_seed + number), {"position_seed"}).resolved()
