"""Export of a finished training run: as a small artefact, a merged checkpoint, or an adapter of peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analyses.results.exporting_methods import export_method, write_card
from analyses.runs import model_of, plain_scorer
from analyses.specs import Spec, TrainSpec, spec_from
from analyses.store import Store
from apet.errors import MissingInput, UsageError, one_of
from apet.scoring import Verbaliser


def export(run: Path, form: str, out: Path) -> dict[str, Any]:
    """Write the run in folder `run` in the form `form` (apet, merged, shira, peft) to `out`. Return the command's JSON object.

    Raises MissingInput if the folder holds no finished run. Raises UsageError for a run of another kind, for a form that cannot hold the
    run, and if the weights of the base model have changed since the run.
    """
    one_of((*FORMS, "peft"), form, "form")
    store = Store(run.parent)
    if not store.done(run.name):
        raise MissingInput(f"no finished run in {run}")
    spec = spec_from(store.spec(run.name))
    if not isinstance(spec, TrainSpec):
        raise UsageError(f"{run.name} is a {spec.kind} run: only training runs are exported")
    if spec.projected:
        raise UsageError(f"{run.name} tunes parameters through the subspace {spec.subspace}: only runs without a projection are exported")
    if spec.method != "apet":
        return export_method(spec, store, run.name, form, out)
    if form == "peft":
        raise UsageError(f"{run.name} is a run of apet, whose entries peft holds as SHiRA: choose the form shira")
    if form != "apet" and spec.operations != "add":
        raise UsageError(f"{run.name} tunes new parameters ({spec.operations}), which only the form apet can hold: choose that form")
    artefact, loaded = artefact_of(spec, store, run.name)
    if form == "merged" and loaded.tokenizer is None:
        raise UsageError(f"{spec.model} is not a transformers model, so it cannot be written as a checkpoint: choose the form apet")
    if form == "shira" and artefact.head:
        raise UsageError(f"{run.name} trained a classification head, which a SHiRA adapter cannot hold: choose the form apet or merged")
    artefact.check_base(loaded.fingerprint)
    FORMS[form](artefact, loaded, out)
    if form != "apet":
        artefact.verbaliser.save(out)
    if form == "merged":
        write_card(spec, loaded, out)
    return {"run_id": run.name, "form": form, "k": len(artefact.z), "written": str(out)}


def artefact_of(spec: Spec, store: Store, run_id: str) -> tuple[Any, Any]:
    """Return (artefact, base model) of a run. Raises UsageError for a run of an older version that lacks the artefact's data."""
    import torch

    from apet.methods import Artefact, PlacementRule, tunable_space

    loaded, arrays = model_of(spec, "cpu"), store.arrays(run_id)
    if "prior" not in arrays or "positions" not in arrays:
        raise UsageError(
            f"{run_id}, a run of an older version, lacks the label words' prior or the hash of its positions: repeat it with this version"
        )
    scorer = plain_scorer(spec, loaded)
    scorer.prior = torch.as_tensor(arrays["prior"])
    if "scale" in arrays:
        scorer.scale = tuple(arrays["scale"].tolist())
    row = next(row for row in store.rows(run_id) if row.quantity == "requested_k")
    rule = None if "index" in arrays else PlacementRule(spec.unit, spec.order, spec.position_seed, int(row.value))
    env = store.env(run_id)
    if "task" in env and json.dumps(env["task"]) != json.dumps(scorer.task.definition):
        raise UsageError(f"{spec.task} has changed since the run {run_id}: restore its template, label words and metric, or repeat the run")
    artefact = Artefact(
        z=torch.as_tensor(arrays["z"]),
        base=spec.model,
        revision=getattr(getattr(loaded.model, "config", None), "_commit_hash", None),
        weights=env["weights"],
        dtype=str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        rule=rule,
        positions=arrays["positions"].tobytes().hex(),
        index=arrays.get("index"),
        scope=spec.scope,
        space=tunable_space(loaded.model, spec.operation_names, spec.scope, dry=True).fingerprint,
        operations=spec.operation_names,
        head={name.removeprefix("head."): torch.as_tensor(array) for name, array in arrays.items() if name.startswith("head.")},
        verbaliser=Verbaliser.of(scorer),
    )
    return artefact, loaded


def _artefact(artefact: Any, loaded: Any, out: Path) -> None:
    artefact.save(out)


def _merged(artefact: Any, loaded: Any, out: Path) -> None:
    from apet.methods import save_merged

    with artefact.attach(loaded.model, loaded.fingerprint):
        save_merged(loaded.model, loaded.tokenizer, out)


def _shira(artefact: Any, loaded: Any, out: Path) -> None:
    import copy

    from apet.methods import save_shira, to_shira

    coordinates = artefact.coordinates(loaded.model, loaded.fingerprint)
    save_shira(to_shira(copy.deepcopy(loaded.model), coordinates, artefact.z), out)


FORMS: dict[str, Callable[[Any, Any, Path], None]] = {"apet": _artefact, "merged": _merged, "shira": _shira}
