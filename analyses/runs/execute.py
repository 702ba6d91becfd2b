"""One function runs one spec: everything that computes, from a single command to a study, goes through `run`."""

from __future__ import annotations

import json
import logging
import platform
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from analyses.runs.run_inputs import (
    Context,
    Inputs,
    Planned,
    Report,
    fingerprints,
    identity_of_model,
    inputs,
    kept_verbaliser,
    row_maker,
    subsets,
)
from analyses.runs.run_kinds import RUN_KINDS
from analyses.specs import Spec, spec_dict
from analyses.store import FAILED, Row, Store
from apet.errors import ApetError, Interrupted, UsageError
from apet.files import WriteError, write_whole, writing
from apet.machine import from_main_process, is_main_process, peak_bytes, reset_peak, world_size
from apet.subspaces import Costs, costs_for_machine, current_costs, using_costs

log = logging.getLogger(__name__)
KEPT = "the label words' prior is that of apet.json in {}, not measured on this model"


def run_id(spec: Spec, found: Inputs) -> str | None:
    """The run's identity; None for a model that has shapes only."""
    if not found.loaded.fingerprint:
        return None
    return spec.run_id(identity_of_model(spec, found.loaded.form, found.loaded.fingerprint), found.data.fingerprint)


def identify(spec: Spec, data: Path | None) -> str:
    """The run's identity; a model is loaded only the first time that its weights are asked for."""
    return spec.run_id(*fingerprints(spec, data))


def check(spec: Spec, found: Inputs) -> dict[str, Any]:
    """What the run will do, before it does it: sizes, memory, cost. Raises UsageError for what cannot be done here."""
    from apet.methods import count_tuned, tunable_space

    spec, model = spec.resolved(), found.loaded.model
    kind = RUN_KINDS[spec.kind]
    space = tunable_space(model, spec.operation_names, spec.scope, dry=True)
    size = count_tuned(spec.method, model) if spec.projected and spec.method != "apet" else space.size
    examples, _ = subsets(spec, found)
    planned = Planned(found, examples, count_tuned(spec.matched, model) if spec.matched else spec.k, space.layers)
    if planned.k is not None and planned.k > size:
        raise UsageError(f"k = {planned.k} is over the {size} parameters in scope of {spec.model}")
    if world_size() > 1 and (what := kind.alone(spec)):
        raise UsageError(f"{what} takes one process, and {world_size()} were started: run it without accelerate launch or torchrun")
    more = kind.plan(spec, planned)
    if spec.examples is not None and spec.examples > len(examples):
        raise UsageError(f"examples = {spec.examples}, but {spec.task} has {len(examples)} training examples")
    return {
        "run_id": run_id(spec, found),
        "spec": spec_dict(spec),
        "parameters": found.loaded.parameters,
        "in_scope": size,
        "k": planned.k,
        "train_examples": len(examples),
        **more,
        "gradient_equivalents": cost(spec, found),
        "repeated_examples": found.data.repeated,
        **({} if kept_verbaliser(spec, found.loaded.form) is None else {"prior": KEPT.format(spec.model)}),
    }


def cost(spec: Spec, found: Inputs) -> int:
    """At most how many example-gradients the run takes; only the data are looked at."""
    return gradients(spec, len(subsets(spec, found)[0]))


def gradients(spec: Spec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples (a curvature product counts two)."""
    return RUN_KINDS[spec.kind].gradients(spec, examples)


def run(
    spec: Spec, store: Store, data: Path | None = None, device: str = "cpu", report: Report = lambda *_: None, force: bool = False,
    track: str | None = None,
) -> str:  # fmt: skip
    """Run `spec` unless it is done (or `force`), commit its rows and arrays to `store`, return the run id.

    `track` names a tracker that follows a training run. Of several processes (`accelerate launch`) the main one commits.
    Raises Held if another process computes the run.
    """
    spec = spec.resolved()
    name = identify(spec, data)
    with ExitStack() as stack:
        refused, done = None, False
        if is_main_process():  # alone: what one process writes another would read half-way
            try:
                stack.enter_context(store.claim(name))
                if force:
                    store.forget(name)
                done = store.done(name)
            except ApetError as error:
                refused = error
        stop, done = from_main_process(device, (refused is not None, done))
        if stop:
            raise refused or ApetError(f"the main process did not begin run {name}: see its message")
        if not done:
            compute(spec, name, store, data, device, report, track)
            from_main_process(device, None)  # until it is committed
    return name


def compute(
    spec: Spec, name: str, store: Store, data: Path | None, device: str, report: Report, track: str | None = None,
    keep_failure: bool = False,
) -> None:  # fmt: skip
    """Compute the run `name` of `spec`, whose claim the caller holds. With `keep_failure` an error becomes the run's one row."""
    started, own_peak = time.monotonic(), reset_peak(device)
    context = Context(store.folder(name), report, track)
    try:
        found = inputs(spec, data, device)
        check(spec, found)
        costs, source = _costs(spec, device, context)
        with using_costs(costs):
            rows, arrays = RUN_KINDS[spec.kind].run(spec, found, context)
        if kept_verbaliser(spec, found.loaded.form) is not None:
            log.warning(KEPT.format(spec.model))
            rows = [*rows, row_maker(spec, found)("kept_prior", 1.0, note=KEPT.format(spec.model))]
    except (WriteError, Interrupted):
        raise
    except Exception as error:
        if not keep_failure:
            raise
        return fail(spec, name, store, _line(error), traceback.format_exc())
    env = {
        "seconds": time.monotonic() - started, "peak_gb": peak_bytes(device) / 1e9 if own_peak else None, **context.timings,
        "device": device, "data": str(data) if data else None, "data_fingerprint": found.data.fingerprint,
        "weights": found.loaded.fingerprint, "kernels": {**asdict(costs), "from": source}, **versions(),
    }  # fmt: skip
    if is_main_process():
        store.commit(name, spec_dict(spec.resolved()), [replace(row, run_id=name) for row in rows], arrays, env)


def _costs(spec: Spec, device: str, context: Context) -> tuple[Costs, str]:
    """The constants that the run's kernels are chosen by, and where they come from. A run that goes on takes those that it began with."""
    path = context.folder / "checkpoint.kernels.json"
    if not spec.places_entries:
        return current_costs(), "not used"
    if path.is_file():
        return Costs(**json.loads(path.read_text())), "the run's beginning"

    def tell(text: str) -> None:
        context.report(text, 0, 1)
        log.warning(text)

    costs, source = costs_for_machine(device, tell)
    if is_main_process():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(costs)).encode())
    return costs, source


def fail(spec: Spec, name: str, store: Store, reason: str, trace: str = "") -> None:
    """Commit a run as failed, `reason` in one line."""
    row = Row(spec.model, 0, spec.task, "failed", 1.0, name, spec.kind, spec.protocol, k=spec.k, note=reason, **spec.tuned)
    store.commit(name, spec_dict(spec.resolved()), [row], {}, {"seconds": 0.0, "traceback": trace, **versions()}, FAILED)


def _line(error: Exception) -> str:
    """The error in one line; of one that is not ours, its type as well."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ApetError) else f"{type(error).__name__}: {text}"


def versions() -> dict[str, str]:
    import numpy
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "numpy": numpy.__version__,
    }
