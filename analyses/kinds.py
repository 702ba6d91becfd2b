"""The kinds of run: each turns a spec and its inputs into rows and arrays."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from analyses.inputs import Context, Inputs, mounted_for, row_maker, scorer_for, subsets
from analyses.spec import Spec
from analyses.store import Row, Store
from analyses.training import train_run
from apet.errors import MissingInput, UsageError


def predict_run(spec: Spec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.evaluation import predictions
    from apet.jacobian import gram_matrix
    from apet.space import ParameterSpace
    from landscape.dual import gradient_spectrum

    model, scorer = found.loaded.model, scorer_for(spec, found)
    examples, _ = subsets(spec, found)
    space = ParameterSpace.of(model, spec.scope)
    gram = gram_matrix(model, space, scorer, examples, lambda done, total: context.report("Gram matrix", done, total)).numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = row_maker(spec, found)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


def spectrum_run(spec: Spec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.scoring import cross_entropy
    from landscape.lanczos import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import GaussNewton, Hessian, check_operator
    from landscape.quadrature import density, effective_dimension, negative_mass, slq, trace

    model, scorer = found.loaded.model, scorer_for(spec, found)
    if spec.operations != "add":  # new parameters stay
        model = copy.deepcopy(model)
    examples, _ = subsets(spec, found)
    mounted = mounted_for(spec, model, scorer, examples)
    k, total = mounted.k, spec.lanczos_steps * (1 + spec.probes)
    with mounted.attached as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        objective = Objective(outputs, cross_entropy, list(scorer.batches(examples, spec.batch)), k, device=found.device)
        z = torch.zeros(k) if spec.at is None else torch.as_tensor(_optimum(spec, context))
        operator = {"hessian": Hessian, "ggn": GaussNewton}[spec.matrix](objective, z)
        defect = check_operator(operator, spec.train_seed).symmetry_defect
        top = top_eigenpairs(
            operator, min(10, k, spec.lanczos_steps), spec.lanczos_steps, spec.train_seed,
            progress=lambda done, of: context.report("Lanczos", done, total),
        )  # fmt: skip
        measure = slq(
            operator, spec.probes, spec.lanczos_steps, spec.train_seed,
            progress=lambda done, of: context.report("quadrature", spec.lanczos_steps + done, total),
        )  # fmt: skip
        gradient_norm = objective.gradient(z).norm().item()
    make = row_maker(spec, found)
    common = {
        "k": k,
        "position_seed": spec.position_seed,
        "train_seed": spec.train_seed,
        "method": "apet",
        "subspace": "coordinates",
        "note": spec.matrix if spec.at is None else f"{spec.matrix} at {spec.at}",
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


def _optimum(spec: Spec, context: Context) -> np.ndarray:
    """z (k,) at the end of the run `spec.at`, which must have tuned the same entries."""
    assert spec.at is not None
    store = Store(context.folder.parent)
    if not store.done(spec.at):
        raise MissingInput(f"no finished run {spec.at} in {store.root}")
    other, arrays = store.spec(spec.at), store.arrays(spec.at)
    if other["kind"] != "train" or "z" not in arrays or any(name.startswith("head.") for name in arrays):
        raise UsageError(f"{spec.at} is no run of apet in words: only of those the optimum is a point of this subspace")
    for name in ("model", "random_init", "task", "k", "matched", "operations", "scope", "unit", "order", "position_seed"):
        if other[name] != getattr(spec, name):
            raise UsageError(f"{spec.at} has {name} {other[name]}, this spectrum {getattr(spec, name)}: they are not of the same subspace")
    return arrays["z"]


def _symlog_grid(largest: float, points: int = 120) -> np.ndarray:
    side = np.geomspace(largest * 1e-4, 1.2 * largest, points)
    return np.concatenate([-side[::-1], [0.0], side])


RUNS = {"train": train_run, "predict": predict_run, "spectrum": spectrum_run}
