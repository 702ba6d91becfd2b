"""The three kinds of run: train, predict, spectrum. Each turns a spec and its inputs into rows and arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analyses.inputs import Inputs, shuffled, subsets
from analyses.spec import Spec, default_lr
from analyses.store import Row
from apet.scores import KINDS as SCORED_ORDERS

Report = Callable[[str, float, float], None]  # what is being done, done so far, of how much
SEEN = 500  # training examples evaluated in a run with early stop
CALIBRATION = 256  # examples on which the label words' prior is measured


def _scorer(spec: Spec, found: Inputs) -> Any:
    from apet.scoring import Scorer

    start = found.loaded.model.config.decoder_start_token_id
    scorer = Scorer(found.data.task, found.loaded.tokenizer, start, spec.max_length, found.device)
    scorer.calibrate(found.loaded.model, shuffled(found)[:CALIBRATION])
    return scorer


def _row(spec: Spec, found: Inputs) -> Callable[..., Row]:
    """Rows of this run: the identifying columns filled in."""
    name = f"{spec.model} (random init)" if spec.random_init else spec.model

    def make(quantity: str, value: float, **columns: Any) -> Row:
        return Row(name, found.loaded.parameters, spec.task, quantity, float(value), **columns)

    return make


def train_run(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.scoring import chance, evaluate
    from apet.train import TrainOptions, train

    torch.manual_seed(spec.train_seed)  # LoRA draws its first factor from it
    model, scorer = copy.deepcopy(found.loaded.model), _scorer(spec, found)
    examples, watched = subsets(spec, found)
    held_out = found.data.splits["validation"]
    # Where a training loss is compared with a prediction it is exact; else a sample of the training set tells enough.
    seen = examples[:SEEN] if spec.early_stop else examples
    before = {"train": evaluate(model, scorer, seen), "validation": evaluate(model, scorer, held_out)}
    mounted = _mount(spec, model, scorer, seen)
    model = mounted.model
    lr = default_lr(spec.method, mounted.k) if spec.lr is None else spec.lr
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[spec.dtype]
    options = TrainOptions(
        lr, spec.steps, spec.batch, check=_check_every(len(examples), spec.batch), train_seed=spec.train_seed, precision=precision
    )
    progress = train(
        model, mounted, scorer, examples, watched, options, folder / "checkpoint.safetensors", keep_best=spec.early_stop,
        report=lambda p: report(f"{spec.method} {mounted.k}: watched loss {p.history[-1][1]:.3f}", p.step, spec.steps),
    )  # fmt: skip
    after = {"train": evaluate(model, scorer, seen), "validation": evaluate(model, scorer, held_out)}
    if spec.test:
        after["test"] = evaluate(model, scorer, found.data.splits["test"])
    gradient = _residual_gradient(model, mounted, scorer, seen)
    apet = spec.method == "apet"
    make = _row(spec, found)
    common = {
        "method": spec.method, "subspace": "coordinates" if apet else spec.method,
        "placement": " ".join(filter(None, (spec.operations, spec.order, spec.unit, spec.scope))) if apet else None,
        "k": mounted.k, "position_seed": spec.position_seed if apet else None, "train_seed": spec.train_seed,
    }  # fmt: skip
    rows = [make("chance", chance(held_out, found.data.task.classes), split="validation", **common)]
    for prefix, scores in (("initial_", before), ("", after)):
        for split, found_there in scores.items():
            for quantity in ("loss", "accuracy"):
                rows.append(make(prefix + quantity, found_there[quantity], stderr=found_there[f"{quantity}_stderr"], split=split, **common))
    rows += [
        make("plateau", progress.plateau, **common),
        make("residual_gradient", gradient, split="train", **common),
        make("steps", progress.step, **common),
        make("example_gradients", progress.step * spec.batch, **common),
        make("learning_rate", lr, **common),
        *_placement_rows(mounted, lambda *args, **columns: make(*args, **columns, **common)),
    ]
    arrays = {"history": np.array(progress.history)}
    if apet:
        arrays["z"] = mounted.attached.z.detach().cpu().numpy()
        if spec.order in SCORED_ORDERS:  # elsewhere the positions follow from the spec
            arrays["index"] = mounted.placement.index
    return rows, arrays


def _mount(spec: Spec, model: Any, scorer: Any, examples: list) -> Any:
    """The spec's method on `model`; where entries are placed by a score, it is measured on `examples`."""
    from apet.methods import Choice, mount
    from apet.scores import scores

    def measured(space: Any) -> Any:
        return scores(spec.order, model, space, scorer, examples)

    order, score = ("score", measured) if spec.order in SCORED_ORDERS else (spec.order, None)
    choice = Choice(spec.k, spec.matched, spec.position_seed, spec.operation_names, spec.scope, spec.unit, order, score)
    return mount(spec.method, model, choice)


def _placement_rows(mounted: Any, make: Callable[..., Row]) -> list[Row]:
    """The requested k (whole units may not fill it), and how many of the entries fall in each layer and kind of tensor."""
    if mounted.placement is None:
        return []
    histogram = mounted.space.histogram(mounted.placement.index)
    counts = [make("entries", n, note=f"{by}: {label}") for by, bins in histogram.items() for label, n in bins.items()]
    return [make("requested_k", mounted.placement.requested), *counts]


def _check_every(examples: int, batch: int) -> int:
    """Steps between looks at the watched loss: four epochs of a small subset, at most 100."""
    return int(min(100, max(20, 4 * examples // batch)))


def _residual_gradient(model: Any, mounted: Any, scorer: Any, examples: list) -> float:
    """|gradient| of the mean training loss in the trainable coordinates at the end: how far from the minimum."""
    import torch

    from apet.scoring import cross_entropy

    for parameter in mounted.trainable.values():
        parameter.grad = None
    for batch in scorer.batches(examples, 64):
        (cross_entropy(scorer.logits(model, batch), batch)[0] / len(examples)).backward()
    squares = [p.grad.double().square().sum() for p in mounted.trainable.values() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def predict_run(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.jacobian import gram_matrix
    from apet.scoring import predictions
    from apet.space import ParameterSpace
    from landscape.dual import gradient_spectrum

    model, scorer = found.loaded.model, _scorer(spec, found)
    examples, _ = subsets(spec, found)
    space = ParameterSpace.of(model, spec.scope)
    gram = gram_matrix(model, space, scorer, examples, lambda done, total: report("Gram matrix", done, total)).numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = _row(spec, found)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


def spectrum_run(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.scoring import cross_entropy
    from landscape.lanczos import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import GaussNewton, Hessian, check_operator
    from landscape.quadrature import density, effective_dimension, negative_mass, slq, trace

    model, scorer = found.loaded.model, _scorer(spec, found)
    if spec.operations != "add":  # new parameters stay
        model = copy.deepcopy(model)
    examples, _ = subsets(spec, found)
    mounted = _mount(spec, model, scorer, examples)
    k, total = mounted.k, spec.lanczos_steps * (1 + spec.probes)
    with mounted.attached as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        objective = Objective(outputs, cross_entropy, list(scorer.batches(examples, spec.batch)), k, device=found.device)
        z = torch.zeros(k)
        operator = {"hessian": Hessian, "ggn": GaussNewton}[spec.matrix](objective, z)
        defect = check_operator(operator, spec.train_seed).symmetry_defect
        top = top_eigenpairs(
            operator, min(10, k, spec.lanczos_steps), spec.lanczos_steps, spec.train_seed,
            progress=lambda done, of: report("Lanczos", done, total),
        )  # fmt: skip
        measure = slq(
            operator, spec.probes, spec.lanczos_steps, spec.train_seed,
            progress=lambda done, of: report("quadrature", spec.lanczos_steps + done, total),
        )  # fmt: skip
        gradient_norm = objective.gradient(z).norm().item()
    make = _row(spec, found)
    common = {
        "k": k,
        "position_seed": spec.position_seed,
        "train_seed": spec.train_seed,
        "method": "apet",
        "subspace": "coordinates",
        "note": spec.matrix,
    }
    largest = float(np.abs(measure.nodes).max())
    grid = _symlog_grid(largest)
    values, errors = density(measure, grid, sigma=largest / 50)
    mass, total_trace = negative_mass(measure), trace(measure, lambda x: x)
    rows = [
        make("symmetry_defect", defect, **common),
        make("trace", total_trace.value, stderr=total_trace.stderr, **common),
        make("negative_mass", mass.value, stderr=mass.stderr, **common),
        make("gradient_norm", gradient_norm, **common),
        *[make("eigenvalue", v, x=i + 1, stderr=r, **common) for i, (v, r) in enumerate(zip(top.eigenvalues, top.residuals, strict=True))],
        *[make("density", v, x=at, stderr=e, **common) for at, v, e in zip(grid, values, errors, strict=True)],
    ]
    for kappa in np.geomspace(largest * 1e-4, largest, 25):
        estimate = effective_dimension(measure, float(kappa))
        rows.append(make("n_eff", estimate.value, x=kappa, stderr=estimate.stderr, **common))
    return rows, {"nodes": measure.nodes, "weights": measure.weights, "eigenvalues": np.asarray(top.eigenvalues)}


def _symlog_grid(largest: float, points: int = 120) -> np.ndarray:
    side = np.geomspace(largest * 1e-4, 1.2 * largest, points)
    return np.concatenate([-side[::-1], [0.0], side])


RUNS = {"train": train_run, "predict": predict_run, "spectrum": spectrum_run}
