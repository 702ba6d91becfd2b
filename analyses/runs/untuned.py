"""The untuned model: its scorer with the label words' prior, and its scores.

The runs of one model and task share these measurements. The store keeps each in ROOT/.shared/HASH.json. The hash covers everything on which
the numbers depend, the machine included, so a run that reads them has bitwise the rows of a run that measures them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from analyses.runs.run_inputs import Context, Inputs, kept_verbaliser, plain_scorer, shuffled, subsets
from analyses.specs import DataPart, Spec, TrainSpec
from apet.errors import UsageError
from apet.files import write_whole, writing
from apet.machine import is_main_process
from apet.scoring import VERBALISER_FILE, Verbaliser

SHARED = ".shared"
CALIBRATION = 256  # examples on which the label words' prior is measured
MOST_CALIBRATION = 2048  # the same, for a prior with a given standard error


def scorer_for(spec: Spec, inputs: Inputs, context: Context) -> Any:
    """Return the task's scorer for the model.

    The label words' prior is read from the model's folder, or measured if not stored there. The targets of a regression are standardised
    by the training examples.
    """
    import torch

    scorer = plain_scorer(spec, inputs.loaded, inputs.device)
    if scorer.task.regresses:
        scorer.standardise(subsets(spec, inputs)[0])
    if not scorer.has_prior:
        return scorer
    known = kept_verbaliser(spec, inputs.loaded.form)
    if known is None:

        def measure() -> dict[str, Any]:
            most, within = (CALIBRATION, 0.0) if spec.prior_stderr is None else (MOST_CALIBRATION, spec.prior_stderr)
            examples, report = shuffled(inputs)[:most], context.progress("prior of the label words")
            scorer.calibrate(inputs.loaded.model, examples, within, report)
            return {"prior": scorer.prior.tolist(), "stderr": scorer.prior_stderr}

        with context.timed("prior"):
            measured = measured_once(context, {"measured": "prior", **_about(spec, inputs, scorer)}, measure)
        prior, scorer.prior_stderr = measured["prior"], measured["stderr"]
    elif known.label_ids != Verbaliser.of(scorer).label_ids:
        raise UsageError(
            f"{VERBALISER_FILE} and the tokenizer in {spec.model} give the label words different ids: the files do not belong together"
        )
    else:
        prior = known.prior
    scorer.prior = torch.tensor(prior, device=inputs.device)
    return scorer


def untuned_scores(
    spec: TrainSpec, inputs: Inputs, context: Context, scorer: Any, splits: dict[str, Sequence]
) -> dict[str, dict[str, Any]]:
    """Return the scores (apet.scoring.Score) of the untuned model on examples of several splits: {split: {name: score}}."""
    from apet.scoring import Score, evaluate

    def measure() -> dict[str, dict[str, Any]]:
        model = inputs.loaded.model
        return {
            split: {
                name: asdict(score)
                for name, score in evaluate(model, scorer, some, spec.eval_batch, report=context.progress(f"untuned, {split}")).items()
            }
            for split, some in splits.items()
        }

    about = {
        "measured": "scores",
        "prior": scorer.prior.tolist(),
        "scale": scorer.scale,
        "counts": {split: len(some) for split, some in splits.items()},
    }
    about |= {"early_stop": spec.early_stop, "eval_examples": spec.eval_examples, "eval_batch": spec.eval_batch}
    with context.timed("before"):
        scores = measured_once(context, about | _about(spec, inputs, scorer), measure)
    return {split: {name: Score(**score) for name, score in some.items()} for split, some in scores.items()}


def measured_once(context: Context, about: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """Return the JSON value of measure(), which is called only if the store does not hold it for `about`, or with `context.afresh`."""
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = context.folder.parent / SHARED / f"{name}.json"
    if not context.afresh:
        try:
            return json.loads(path.read_bytes())["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not measured yet
    value = measure()
    if is_main_process():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"about": about, "value": value}).encode())
    return value


def _about(spec: Spec, inputs: Inputs, scorer: Any) -> dict[str, Any]:
    """Return everything on which a forward pass of the untuned model on the task's examples depends."""
    import torch

    read = {field.name: getattr(spec, field.name) for field in fields(DataPart) if field.name != "examples"}
    return read | {
        "task": spec.task_name, "weights": inputs.loaded.fingerprint, "form": inputs.loaded.form, "attention": spec.attention,
        "dtype": str(next(inputs.loaded.model.parameters()).dtype),  # of a slice float32, whatever the type of the weights
        "max_length": scorer.max_length, "data": inputs.data.fingerprint_without_test,
        "device": torch.device(inputs.device).type, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
