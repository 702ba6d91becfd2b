"""What a study will take, before it is started: runs, example-gradients, hours and memory by model, and what is done already."""

from __future__ import annotations

import multiprocessing
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analyses.runs import Inputs, cost, identify, inputs, rehearse, task_data, too_large
from analyses.specs import Spec, TrainSpec
from analyses.store import DONE, FAILED, Store
from analyses.studies.stages import Find, at_optimum, between, walk
from analyses.studies.study_file import Stage, Study
from analyses.studies.walk import find
from apet.errors import ApetError


@dataclass
class Share:
    """What of a study falls to one model; `estimated` are runs that are not known yet (searches, and what follows from runs)."""

    runs: int = 0
    estimated: int = 0
    done: int = 0
    failed: int = 0
    gradient_equivalents: int = 0  # of the runs that are not over
    costliest: tuple[int, TrainSpec] | None = None  # training runs that are not over
    missing: str | None = None  # why runs of this model cannot be made here


def plan(study: Study, store: Store, jobs: int = 1, device: str = "cpu") -> dict[str, Any]:
    """The plan as a JSON object; `hours` divide by `jobs`, and are None where nothing could be tried here.

    For each model with runs to do its costliest training run is rehearsed for some seconds (`analyses.runs.rehearsal`), in a process
    of its own; the time of its other runs is in proportion to their example-gradients.
    """
    shares: dict[str, Share] = defaultdict(Share)
    for spec, count, known in _runs(study, partial(find, study, store)):
        _add(shares[spec.model], spec, count, known, study, store)
    lines = [_line(name, share, study, jobs, device) for name, share in shares.items()]
    hours = [line["hours"] for line in lines]
    return {
        "study": study.name,
        **{key: sum(line[key] for line in lines) for key in ("runs", "estimated_runs", "done", "failed", "gradient_equivalents")},
        "hours": None if None in hours else sum(hours),
        "models": lines,
    }


def _runs(study: Study, found: Find) -> list[tuple[Spec, int, bool]]:
    """(a run, how many like it, whether it is known already): all that is known by now, and about what may follow from it."""
    known: dict[str, list[Spec]] = {stage.name: [] for stage in study.stages}
    for stage, specs in walk(study, found):
        known[stage.name] += specs
    expected: dict[str, list[tuple[Spec, int]]] = {}
    runs = [(spec, 1, True) for spec in dict.fromkeys(spec for specs in known.values() for spec in specs)]
    for stage in study.stages:
        expected[stage.name] = _expected(stage, expected)
        counts = Counter(spec.model for spec in known[stage.name])
        for spec, count in expected[stage.name]:
            here = min(count, counts[spec.model])
            counts[spec.model] -= here
            if count > here:
                runs.append((spec, count - here, False))
    return runs


def _expected(stage: Stage, before: dict[str, list[tuple[Spec, int]]]) -> list[tuple[Spec, int]]:
    """Runs like those that the stage will have in the end, and how many of each."""
    if stage.at is not None and stage.pairs is not None:
        return [(spec, 1) for spec in between(stage, [(spec, "not yet") for spec, _ in before[stage.at]])]
    if stage.at is not None:
        return [(at_optimum(spec, variant, "not yet"), count) for spec, count in before[stage.at] for variant in stage.variants]
    if stage.search is not None:
        return [(replace(spec, k=stage.search.lowest).resolved(), stage.search.runs) for spec in stage.specs]
    return [(spec, 1) for spec in stage.specs]


def _add(share: Share, spec: Spec, count: int, known: bool, study: Study, store: Store) -> None:
    share.runs += count
    share.estimated += 0 if known else count
    data = study.data.get(spec.task)
    try:
        state = store.state(identify(spec, data)) if known else None
        gradients = cost(spec, Inputs(None, task_data(spec.task, data, spec.test), "cpu"))
    except ApetError as error:
        share.missing = share.missing or str(error)
        return
    share.done += state == DONE
    share.failed += state == FAILED
    if state is None:
        share.gradient_equivalents += count * gradients
        if isinstance(spec, TrainSpec) and (share.costliest is None or gradients > share.costliest[0]):
            share.costliest = (gradients, spec)


def _line(name: str, share: Share, study: Study, jobs: int, device: str) -> dict[str, Any]:
    line = {
        "model": name, "runs": share.runs, "estimated_runs": share.estimated, "done": share.done, "failed": share.failed,
        "gradient_equivalents": share.gradient_equivalents, "hours": 0.0 if not share.missing else None, "peak_gb": None,
    }  # fmt: skip
    if share.missing:
        return line | {"note": share.missing}
    if share.gradient_equivalents == 0:
        return line
    if share.costliest is None or too_large(share.costliest[1]):
        return line | {"hours": None, "note": "not rehearsed here"}
    gradients, spec = share.costliest
    try:
        rehearsal = _apart(spec, study.data.get(spec.task), device)
    except (ApetError, RuntimeError) as error:
        return line | {"hours": None, "note": f"its rehearsal failed: {error}"}
    seconds = rehearsal["seconds"] / gradients * share.gradient_equivalents
    return line | {"hours": seconds / 3600 / jobs, "peak_gb": rehearsal["peak_gb"]}


def _apart(spec: TrainSpec, data: Path | None, device: str) -> dict[str, float]:
    """A rehearsal in a process of its own, whose memory is that of the run alone, with one thread as a study's jobs have."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # one that notices when its process dies
        return pool.submit(_rehearsed, spec, data, device).result()


def _rehearsed(spec: TrainSpec, data: Path | None, device: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    return rehearse(spec, inputs(spec, data, device))
