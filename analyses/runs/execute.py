"""Run one spec: check it, compute its rows and arrays, and commit them. Commands and studies both use these functions."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import sys
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
KEPT = "the label words' prior was read from apet.json in {}, not measured on this model"


def run_id(spec: Spec, inputs: Inputs) -> str | None:
    """Return the run's identity, or None for a model without weights (`shapes_only`)."""
    if not inputs.loaded.fingerprint:
        return None
    return spec.run_id(identity_of_model(spec, inputs.loaded.form, inputs.loaded.fingerprint), inputs.data.fingerprint)


def identify(spec: Spec, data: Path | None, device: str = "cpu") -> str:
    """Return the run's identity. A model is loaded, to `device`, only at the first request for its fingerprint."""
    return spec.run_id(*fingerprints(spec, data, device))


def check(spec: Spec, inputs: Inputs) -> dict[str, Any]:
    """Return the sizes and the cost of a run before it starts. Raise UsageError if the run is not possible."""
    from apet.methods import count_tuned, tunable_space

    spec, model = spec.resolved(), inputs.loaded.model
    kind = RUN_KINDS[spec.kind]
    space = tunable_space(model, spec.operation_names, spec.scope, dry=True)
    size = count_tuned(spec.method, model, spec.method_option) if spec.projected and spec.method != "apet" else space.size
    k = spec.k if spec.placed else None
    if spec.matched:
        k = count_tuned(spec.matched, model, spec.method_option if spec.method == "apet" else "")
    examples, _ = subsets(spec, inputs)
    planned = Planned(inputs, examples, k, space.layers)
    if planned.k is not None and planned.k > size:
        raise UsageError(f"k = {planned.k} is over the {size} parameters in scope of {spec.model}: lower k or widen the scope")
    if world_size() > 1 and (part := kind.alone(spec)):
        raise UsageError(f"{part} needs a single process, but {world_size()} were started: run it without accelerate launch or torchrun")
    more = kind.plan(spec, planned)
    if spec.examples is not None and spec.examples > len(examples):
        raise UsageError(f"examples = {spec.examples}, but {spec.task} has only {len(examples)} training examples: lower examples")
    return {
        "run_id": run_id(spec, inputs),
        "spec": spec_dict(spec),
        "parameters": inputs.loaded.parameters,
        "in_scope": size,
        "k": planned.k,
        "train_examples": len(examples),
        **more,
        "gradient_equivalents": cost(spec, inputs),
        "repeated_examples": inputs.data.repeated,
        **({} if kept_verbaliser(spec, inputs.loaded.form) is None else {"prior": KEPT.format(spec.model)}),
    }


def cost(spec: Spec, inputs: Inputs) -> int:
    """Return an upper bound on the example-gradients of the run. The model is not used."""
    return gradients(spec, len(subsets(spec, inputs)[0]))


def gradients(spec: Spec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples (a curvature product counts two)."""
    return RUN_KINDS[spec.kind].gradients(spec, examples)


def run(
    spec: Spec, store: Store, data: Path | None = None, device: str = "cpu", report: Report = lambda *_: None, force: bool = False,
    track: str | None = None,
) -> str:  # fmt: skip
    """Run `spec` unless it is done already (or with `force`), commit its rows and arrays to `store`, and return the run id.

    `track` names a tracker for a training run. With several processes (`accelerate launch`) only the main process commits. Raise Held if
    another process is computing the run.
    """
    spec = spec.resolved()
    name = identify(spec, data, device)
    with ExitStack() as stack:
        refusal, done = None, False
        if is_main_process():  # only the main process: another process could read a half-written file
            try:
                stack.enter_context(store.claim(name))
                if force:
                    store.forget(name)
                done = store.done(name)
            except ApetError as error:
                refusal = error
        stop, done = from_main_process(device, (refusal is not None, done))
        if stop:
            raise refusal or ApetError(f"the main process did not start run {name}: see the message of that process")
        if not done:
            compute(spec, name, store, data, device, report, track, afresh=force)
            from_main_process(device, None)  # wait for the commit
    return name


def compute(
    spec: Spec, name: str, store: Store, data: Path | None, device: str, report: Report, track: str | None = None,
    keep_failure: bool = False, afresh: bool = False,
) -> None:  # fmt: skip
    """Compute and commit the run `name` of `spec`, whose claim the caller holds. `keep_failure` commits an error as the run's only row.

    `afresh` measures again what the store holds for several runs (`analyses.runs.untuned`).
    """
    started, peak_was_reset = time.monotonic(), reset_peak(device)
    context = Context(store.folder(name), report, track, afresh)
    try:
        run_inputs = inputs(spec, data, device)
        check(spec, run_inputs)
        costs, source = _costs(spec, device, context)
        with using_costs(costs):
            rows, arrays = RUN_KINDS[spec.kind].run(spec, run_inputs, context)
        if kept_verbaliser(spec, run_inputs.loaded.form) is not None:
            log.warning(KEPT.format(spec.model))
            rows = [*rows, row_maker(spec, run_inputs)("kept_prior", 1.0, note=KEPT.format(spec.model))]
    except (WriteError, Interrupted):
        raise
    except Exception as error:
        if not keep_failure:
            raise
        return fail(spec, name, store, _line(error), traceback.format_exc())
    seconds = max(time.monotonic() - started, sum(context.parts.values()))  # the parts include training before a resumption
    env = {
        "seconds": seconds, "peak_gb": peak_bytes(device) / 1e9 if peak_was_reset else None,
        "parts": context.parts,
        "device": device, "data": str(data) if data else None, "data_fingerprint": run_inputs.data.fingerprint,
        **({} if run_inputs.data.task.built_in else {"task": run_inputs.data.task.definition}),
        "weights": run_inputs.loaded.fingerprint, "kernels": {**asdict(costs), "from": source}, "command": command_line(), **versions(),
    }  # fmt: skip
    if is_main_process():
        store.commit(name, spec_dict(spec.resolved()), [replace(row, run_id=name) for row in rows], arrays, env)


def _costs(spec: Spec, device: str, context: Context) -> tuple[Costs, str]:
    """Return the constants for the choice of kernels and their source. A resumed run uses the constants with which it began."""
    path = context.folder / "checkpoint.kernels.json"
    if not spec.places_entries:
        return current_costs(), "not used"
    if path.is_file():
        return Costs(**json.loads(path.read_text())), "the run's beginning"

    def announce(text: str) -> None:
        context.report(text, 0, 1)
        log.warning(text)

    costs, source = costs_for_machine(device, announce)
    if is_main_process():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(costs)).encode())
    return costs, source


def fail(spec: Spec, name: str, store: Store, reason: str, trace: str = "") -> None:
    """Commit a run as failed. `reason` is one line."""
    row = Row(spec.model, 0, spec.task_name, "failed", 1.0, name, spec.kind, spec.protocol, k=spec.k, note=reason, **spec.tuned)
    env = {"seconds": 0.0, "traceback": trace, "command": command_line(), **versions()}
    store.commit(name, spec_dict(spec.resolved()), [row], {}, env, FAILED)


def _line(error: Exception) -> str:
    """Return the error in one line, with its type unless it is an ApetError."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ApetError) else f"{type(error).__name__}: {text}"


def command_line() -> str:
    """Return the command that started this program, as for a shell. A worker process of a study has its parent's."""
    program = Path(sys.argv[0]).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *sys.argv[1:]])


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
