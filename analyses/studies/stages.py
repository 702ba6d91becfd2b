"""The runs of a study's stages: the runs that can start, given the results of earlier runs.

All processes of a study derive the runs from the same store, so they get the same runs in the same order.
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
from apet.tasks import task_named

Find = Callable[[Spec], Run | None]  # the run of a spec if it is complete and did not fail


def batches(study: Study, find: Find) -> Iterator[list[Spec]]:
    """Yield the distinct runs of the study in batches. The caller finishes the runs of a batch before it asks for the next batch."""
    asked: set[Spec] = set()
    for _, specs in walk(study, find):
        fresh = [spec for spec in dict.fromkeys(specs) if spec not in asked]
        asked.update(fresh)
        if fresh:
            yield fresh


def walk(study: Study, find: Find) -> Iterator[tuple[Stage, list[Spec]]]:
    """Yield (stage, runs) for each round of each stage."""
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
    """Return one run per variant and finished parent (or pair of parents): the parent's spec, its final point and the variant's fields."""
    finished = [(spec, run.id) for spec in parents if (run := find(spec))]
    if stage.pairs is not None:
        return between(stage, finished)
    return [at_optimum(spec, variant, run_id) for spec, run_id in finished for variant in stage.variants]


def between(stage: Stage, parents: Sequence[tuple[Spec, str]]) -> list[Spec]:
    """Return the runs of a stage with `pairs`, from the specs and ids of the runs that it joins."""
    assert stage.pairs is not None
    return [at_optimum(spec, variant, run_id, to) for spec, run_id, to in _joined(parents, stage.pairs) for variant in stage.variants]


def _joined(parents: Sequence[tuple[Spec, str]], name: str) -> list[tuple[Spec, str, str]]:
    """Return (spec, run id, id of the next run) of neighbouring runs that differ only in the field `name` and in fields derived from it."""
    groups: dict[object, list[tuple[Spec, str]]] = {}
    for spec, run_id in parents:
        groups.setdefault(_besides(spec, name), []).append((spec, run_id))
    pairs = [pair for group in groups.values() for pair in itertools.pairwise(group)]
    return [(spec, run_id, to) for (spec, run_id), (other, to) in pairs if getattr(spec, name) != getattr(other, name)]


# Fields that only runs of method apet use: they describe the tuned entries.
_WITH_METHOD = {"k", "matched", "method_option", "operations", "scope", "unit", "order", "position_seed", "trajectory", "keep_end"}


def _besides(spec: Spec, name: str) -> tuple:
    """Return the fields that two runs of a pair must share: all except `name`, and the rate only if it is not the default."""
    left_out = {name} | (_WITH_METHOD if name == "method" else set())
    default_lr = isinstance(spec, TrainSpec) and spec.lr is not None and replace(spec, lr=None).resolved().lr == spec.lr
    return tuple((field, value) for field, value in vars(spec).items() if field not in left_out and not (field == "lr" and default_lr))


def at_optimum(spec: Spec, variant: Variant, run_id: str, to: str | None = None) -> Spec:
    """Return the run of a stage's variant at the final point of the run `run_id` of `spec`, or between that run and the run `to`."""
    values = {**vars(spec), **dict(variant), "at": run_id, **({"to": to} if to else {})}
    return spec_from(values, shared=set(vars(spec)) - set(dict(variant))).resolved()


def searching(bases: Sequence[Spec], search: Search, data: Mapping[str, Path], full: Sequence[Spec], find: Find) -> Iterator[list[Spec]]:
    """Yield the runs of all searches in rounds (`analyses.studies.search_rounds`).

    bases: one spec per search; its k is replaced.
    full: specs of full fine-tuning, from which targets are derived.

    A search ends when its budget is spent, if its target is unknown or settled without any run, and if its target lies beyond the range.
    Run i (from 0) has the position seed of the base plus i, so that no two runs share their noise.
    """
    target = search.target
    measured = [run for spec in full if (run := find(spec)) and target.measures(run)]
    asked: dict[Spec, list[Spec]] = {}
    for base in bases:
        comparable = [run for run in measured if target.like(base, run)]
        if comparable and target.settled(comparable, _metric(base)):
            continue
        ks = first_round(_size(base, data.get(base.task_name)), min(search.runs, FIRST_ROUND), search.lowest, search.highest)
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
    """Return (k, gap) of the runs that count for the target; empty if the target is unknown."""
    runs = [run for run in runs if target.counts(run)]
    references = [run for run in measured if runs and run.setting == runs[0].setting]
    references = references or ([] if target.needs_full else runs)
    if not references or target.settled(references, metric):
        return []
    value = target.value(references, metric)
    return [(run.k, gap) for run in runs if math.isfinite(gap := target.gap(run, value, metric))]


def _metric(spec: Spec) -> str:
    return metric_names(task_named(spec.task))[0]


def _size(base: Spec, data: Path | None) -> int:
    """Return the number of entries in scope, from the shapes of the model; sys.maxsize if the model is missing (its runs will fail)."""
    try:
        return check(base, inputs(base, data, shapes_only=True))["in_scope"]
    except ApetError:
        return sys.maxsize


def _with(base: Spec, k: int, number: int) -> Spec:
    return trimmed(replace(base, k=k, position_seed=base.position_seed + number), {"position_seed"}).resolved()
