"""A study: a YAML file of grids -> specs -> runs in this process or in several, then thresholds from their rows.

name: demo
defaults: {task: mini-sentiment, examples: 256, early_stop: false}
grid:                                   # every list in an entry is crossed with the others
  - {kind: train, method: apet, model: [mini-t5-240k, mini-t5-790k], k: [4, 16], position_seed: [0, 1]}
  - {kind: predict, model: [mini-t5-240k, mini-t5-790k]}
threshold: {fraction: 0.5}              # optional
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from analyses.run import run
from analyses.spec import Spec, field_names, spec_from
from analyses.store import Row, Store
from analyses.thresholds import finished, thresholds
from apet.errors import ApetError, MissingInput, UsageError, did_you_mean

_KEYS = ("name", "defaults", "grid", "threshold", "data")


@dataclass(frozen=True)
class Study:
    """Specs in the order of the file, distinct; `data` maps a task to its folder, relative to where the study is run."""

    name: str
    specs: tuple[Spec, ...]
    fraction: float | None
    data: dict[str, Path]


@dataclass(frozen=True)
class Outcome:
    """What came of a study's runs: ids of finished runs, and (spec, error) of failed ones."""

    done: list[str]
    failed: list[tuple[Spec, str]]


def read_study(path: Path) -> Study:
    """Parse and validate a study file; UsageError says the file and what is wrong, MissingInput that there is none."""
    import yaml

    if not path.is_file():
        raise MissingInput(f"no study file {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content.get("grid"):
        raise UsageError(f"{path}: a study needs at least a 'grid' of runs")
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{path}: unknown key '{key}'{did_you_mean(key, _KEYS)}")
    defaults = content.get("defaults", {})
    specs = [
        spec.resolved() for i, entry in enumerate(content["grid"], 1) for spec in _expand(entry, defaults, f"{path}, grid entry {i}: ")
    ]
    fraction = (content.get("threshold") or {}).get("fraction")
    if fraction is not None and not 0 < fraction < 1:
        raise UsageError(f"{path}: threshold fraction {fraction} is not between 0 and 1")
    data = {task: Path(folder) for task, folder in (content.get("data") or {}).items()}
    return Study(str(content.get("name", path.stem)), tuple(dict.fromkeys(specs)), fraction, data)


def _expand(entry: Any, defaults: dict[str, Any], where: str) -> list[Spec]:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}{entry!r} is not a mapping of fields: {', '.join(field_names())}")
    axes = {name: value if isinstance(value, list) else [value] for name, value in {**defaults, **entry}.items()}
    return [spec_from(dict(zip(axes, values, strict=True)), where) for values in itertools.product(*axes.values())]


def run_study(
    study: Study,
    store: Store,
    jobs: int = 1,
    device: str = "cpu",
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
    force: bool = False,
) -> Outcome:
    """Run what is not done yet; a failed run does not stop the others. With `jobs` > 1 each process uses one thread."""
    done: list[str] = []
    failed: list[tuple[Spec, str]] = []

    def settle(spec: Spec, result: Callable[[], str]) -> None:
        try:
            done.append(result())
        except ApetError as error:
            if error.exit_code == 130:
                raise
            failed.append((spec, str(error)))
        report(len(done) + len(failed), len(study.specs), _title(spec))

    if jobs == 1:
        for spec in study.specs:
            settle(spec, partial(run, spec, store, study.data.get(spec.task), device, force=force))
        return Outcome(done, failed)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_set_up_worker) as pool:
        # Long runs first, so that the last to finish is short.
        order = sorted(study.specs, key=lambda spec: -_weight(spec))
        futures = {pool.submit(run, spec, store, study.data.get(spec.task), device, force=force): spec for spec in order}
        try:
            for future in as_completed(futures):
                settle(futures[future], future.result)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Outcome(done, failed)


def _set_up_worker() -> None:
    """Set up a worker: one thread; Ctrl-C is the parent's, and the training loop's while it runs."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _weight(spec: Spec) -> float:
    from apet.models import models_table

    sizes = {row["name"]: row["parameters"] for row in models_table()}
    return sizes.get(spec.model, 0) * {"train": 1.0, "predict": 2.0, "spectrum": 2.0}[spec.kind]


def _title(spec: Spec) -> str:
    detail = f"{spec.method} k={spec.k} seed {spec.position_seed}" if spec.method == "apet" and spec.kind == "train" else spec.method
    return f"{spec.model} {spec.kind if spec.kind != 'train' else detail}"


def study_rows(study: Study, store: Store) -> list[Row]:
    """All rows of the study's finished runs, thresholds included (computed now if they are not there)."""
    runs = finished(store)
    rows = [row for run_ in runs for row in run_.rows]
    return rows + (thresholds(store, runs, study.fraction) if study.fraction else [])
