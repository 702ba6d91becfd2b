"""Export of a training run of another method than apet: as a merged checkpoint, or as an adapter of peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.runs import model_of, plain_scorer
from analyses.specs import TrainSpec
from analyses.store import Store
from apet.errors import UsageError
from apet.files import atomic_path
from apet.scoring import Verbaliser, model_card


def export_method(spec: TrainSpec, store: Store, run_id: str, form: str, out: Path) -> dict[str, Any]:
    """Write the final values of a run to the folder `out` in the form merged or peft. Return the command's JSON object.

    Raises UsageError for a run without its final values, for a form that cannot hold them, and if the weights of the base model have
    changed since the run.
    """
    import torch

    if form not in ("merged", "peft"):
        raise UsageError(f"the form {form} holds tuned entries, but {run_id} is a run of {spec.method}: choose the form merged or peft")
    arrays = {name: torch.as_tensor(array) for name, array in store.arrays(run_id).items()}
    end, new, head = (
        {name.removeprefix(part): value for name, value in arrays.items() if name.startswith(part)} for part in ("end.", "new.", "head.")
    )
    if not end and not new:
        raise UsageError(f"{run_id} did not save its final values: train it again", keep_end=True)
    loaded = model_of(spec, "cpu")
    if store.env(run_id)["weights"] != loaded.fingerprint:
        raise UsageError(f"the weights of {spec.model} have changed since {run_id} was trained: load the model that it tuned")
    scorer = plain_scorer(spec, loaded)
    scorer.prior = arrays["prior"]
    if form == "merged":
        _merged(spec, loaded, end, head, out)
        write_card(spec, loaded, out)
    else:
        _adapter(spec, loaded, new, head, out)
    Verbaliser.of(scorer).save(out)
    return {"run_id": run_id, "form": form, "k": next(row.k for row in store.rows(run_id) if row.k), "written": str(out)}


def write_card(spec: TrainSpec, loaded: Any, folder: Path) -> None:
    """Write the model card of a merged checkpoint."""
    from apet.models import FORMS

    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(model_card(spec.model, plain_scorer(spec, loaded), loaded.form, FORMS[loaded.form][0]), encoding="utf-8")


def _merged(spec: TrainSpec, loaded: Any, end: dict[str, Any], head: dict[str, Any], out: Path) -> None:
    """Write the base model with the displacements `end` of its tensors and with the values of its head."""
    import copy

    import torch

    from apet.methods import save_checkpoint

    if not end:
        raise UsageError(
            f"{spec.method} tunes parameters that a checkpoint of {spec.model} cannot hold: choose the form peft if peft has the method"
        )
    if loaded.tokenizer is None:
        raise UsageError(f"{spec.model} is not a transformers model, so it cannot be written as a checkpoint")
    if spec.weights != "float32":
        raise UsageError(f"a merge would round the updates to {spec.weights}: choose the form peft")
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for name, change in end.items():
            p = model.get_parameter(name)
            p.copy_(p.double() + change.double())
        for name, value in head.items():
            model.get_parameter(name).copy_(value)
    save_checkpoint(model, loaded.tokenizer, out)


def _adapter(spec: TrainSpec, loaded: Any, new: dict[str, Any], head: dict[str, Any], out: Path) -> None:
    """Write the new parameters and the head as an adapter of peft."""
    import copy

    from apet.methods import chosen_options, save_peft

    options = chosen_options(spec.method, loaded.model, spec.method_option, spec.k)
    save_peft(spec.method, spec.model, copy.deepcopy(loaded.model), options, new, head, out)
