"""The plan of a study before its start: runs, example gradients, hours and memory per model, and the runs that are already done."""

from __future__ import annotations

import multiprocessing
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analyses.runs import Inputs, check, cost, identify, inputs, rehearse, task_data, too_large
from analyses.specs import Spec, TrainSpec
from analyses.store import DONE, FAILED, Store
from analyses.studies.stages import Find, at_optimum, between, walk
from analyses.studies.study_file import Stage, Study
from analyses.studies.walk import find
from apet.errors import ApetError, UsageError
from apet.models import models_table


@dataclass
class Share:
    """The part of a study that uses one model."""

    runs: int = 0
    estimated: int = 0  # runs whose specs depend on results: searches, and runs that start from other runs
    done: int = 0
    failed: int = 0
    gradient_equivalents: int = 0  # cost of the remaining runs
    costliest: tuple[int, TrainSpec] | None = None  # the remaining training run with the highest cost, and this cost
    tokens: int = 0  # at most, in these example gradients
    full: bool = False  # whether a run tunes all parameters
    missing: str | None = None  # the reason if runs of this model cannot be computed on this machine
    unknown: str | None = None  # the reason if the cost of a run is not known


def plan(study: Study, store: Store, jobs: int = 1, device: str = "cpu", flops: float | None = None) -> dict[str, Any]:
    """Return the plan as a JSON object. `hours` are divided by `jobs`, and are None if a model's time cannot be estimated.

    For each model with remaining runs, the costliest training run is rehearsed for some seconds in a separate process
    (`analyses.runs.rehearsal`). The time of the other runs is proportional to their example gradients.

    flops: operations per second of another device. The hours then follow from arithmetic, without rehearsal and without the model's files
    (`arithmetic_hours`), as do `least_gb`.
    """
    shares: dict[str, Share] = defaultdict(Share)
    for spec, count, known in _runs(study, partial(find, study, store)):
        _add(shares[spec.model], spec, count, known, study, store)
    lines = [
        _line(name, share, study, jobs, device) if flops is None else _arithmetic_line(name, share, jobs, flops)
        for name, share in shares.items()
    ]
    hours = [line["hours"] for line in lines]
    return {
        "study": study.name,
        **{key: sum(line[key] for line in lines) for key in ("runs", "estimated_runs", "done", "failed", "gradient_equivalents")},
        "hours": None if None in hours else sum(hours),
        **(
            {}
            if flops is None
            else {"hours_by": f"6 operations per parameter and token, at {flops:.2g} per second; small models take longer"}
        ),
        "models": lines,
    }


_OF_K = {"k", "lr", "position_seed", "train_seed"}  # fields that may differ between runs with the same parameters in scope


def refused(study: Study) -> Counter[str]:
    """Return {error: number of runs} of the training runs whose k does not fit their model: they will fail. Only shapes are read.

    Runs that depend on other runs are not checked, nor are runs of a model or task that is not on this machine.
    """
    groups: dict[tuple[object, ...], dict[int, list[TrainSpec]]] = defaultdict(lambda: defaultdict(list))
    for spec in study.known:
        if isinstance(spec, TrainSpec) and spec.k is not None:
            groups[tuple(value for name, value in vars(spec).items() if name not in _OF_K)][spec.k].append(spec)
    errors: Counter[str] = Counter()
    for by_k in groups.values():
        for k in sorted(by_k, reverse=True):
            error = _refusal(by_k[k][0], study)
            if error is None:
                break  # smaller k fit, too
            errors[error] += len(by_k[k])
    return errors


def _refusal(spec: TrainSpec, study: Study) -> str | None:
    try:
        check(spec, inputs(spec, study.data.get(spec.task_name), shapes_only=True))
    except UsageError as error:
        return str(error)
    except ApetError:  # for instance a missing model: the run itself reports it
        return None
    return None


def _runs(study: Study, finished_run: Find) -> list[tuple[Spec, int, bool]]:
    """Return (spec, number of such runs, whether the spec is known) for the runs known so far and for the estimated later runs."""
    known: dict[str, list[Spec]] = {stage.name: [] for stage in study.stages}
    for stage, specs in walk(study, finished_run):
        known[stage.name] += specs
    expected: dict[str, list[tuple[Spec, int]]] = {}
    runs = [(spec, 1, True) for spec in dict.fromkeys(spec for specs in known.values() for spec in specs)]
    for stage in study.stages:
        expected[stage.name] = _expected(stage, expected)
        counts = Counter(spec.model for spec in known[stage.name])
        for spec, count in expected[stage.name]:
            already_known = min(count, counts[spec.model])
            counts[spec.model] -= already_known
            if count > already_known:
                runs.append((spec, count - already_known, False))
    return runs


def _expected(stage: Stage, before: dict[str, list[tuple[Spec, int]]]) -> list[tuple[Spec, int]]:
    """Return (spec, number of such runs) for the runs that the stage will have in the end."""
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
    data, state = study.data.get(spec.task_name), None
    try:
        state = store.state(identify(spec, data)) if known else None
    except ApetError as error:  # also a model that is not on this machine
        share.missing = share.missing or str(error)
    try:
        gradients = cost(spec, Inputs(None, task_data(spec.task, data, spec.test), "cpu"))
    except ApetError as error:
        share.missing = share.unknown = str(error)
        return
    share.done += state == DONE
    share.failed += state == FAILED
    if state is None:
        share.gradient_equivalents += count * gradients
        share.tokens += count * gradients * getattr(spec, "max_length", 0)
        share.full |= isinstance(spec, TrainSpec) and spec.method == "full"
        if isinstance(spec, TrainSpec) and (share.costliest is None or gradients > share.costliest[0]):
            share.costliest = (gradients, spec)


def arithmetic_hours(tokens: int, parameters: int, flops: float) -> float:
    """Return the hours of training on `tokens` tokens at 6 operations per parameter and token, which bound a step of any method."""
    return 6 * parameters * tokens / flops / 3600


def _arithmetic_line(name: str, share: Share, jobs: int, flops: float) -> dict[str, Any]:
    """Return the line of a model whose time follows from its number of parameters, and the least memory of a run in GB (1e9 bytes).

    The memory holds float32 weights, with a gradient and two moments of each if a run tunes all parameters; activations are not counted.
    """
    parameters = {line["name"]: line["parameters"] for line in models_table()}.get(name)
    line = _counts(name, share) | {"hours": None, "least_gb": None}
    if parameters is None or share.unknown:
        return line | {
            "note": share.unknown or "the number of parameters of this model is not known: only aliases are planned by arithmetic"
        }
    gigabytes = parameters * (16 if share.full else 4) / 1e9
    return line | {"hours": arithmetic_hours(share.tokens, parameters, flops) / jobs, "least_gb": gigabytes}


def _counts(name: str, share: Share) -> dict[str, Any]:
    return {
        "model": name, "runs": share.runs, "estimated_runs": share.estimated, "done": share.done, "failed": share.failed,
        "gradient_equivalents": share.gradient_equivalents,
    }  # fmt: skip


def _line(name: str, share: Share, study: Study, jobs: int, device: str) -> dict[str, Any]:
    line = _counts(name, share) | {"hours": 0.0 if not share.missing else None, "peak_gb": None}
    if share.missing:
        return line | {"note": share.missing}
    if share.gradient_equivalents == 0:
        return line
    if share.costliest is None:
        return line | {"hours": None, "note": "not rehearsed: the study has no training runs of this model"}
    if note := too_large(share.costliest[1], device):
        return line | {"hours": None, "note": note}
    gradients, spec = share.costliest
    try:
        rehearsal = _apart(spec, study.data.get(spec.task_name), device)
    except (ApetError, RuntimeError) as error:
        return line | {"hours": None, "note": f"the rehearsal failed: {error}"}
    seconds = rehearsal["seconds"] / gradients * share.gradient_equivalents
    return line | {"hours": seconds / 3600 / jobs, "peak_gb": rehearsal["peak_gb"]}


def _apart(spec: TrainSpec, data: Path | None, device: str) -> dict[str, float]:
    """Rehearse in a separate process with one thread, like a job of the study, so that the peak memory is the run's alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # this pool notices when its process dies
        return pool.submit(_rehearsed, spec, data, device).result()


def _rehearsed(spec: TrainSpec, data: Path | None, device: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    return rehearse(spec, inputs(spec, data, device))
