"""A run of kind predict: what is needed to say, without training, how many parameters a target takes.

Where a task has classes, the Gram matrix of its label words, from which all else follows exactly. Where it asks for text, or by
--set algorithm=lanczos, the gradient's spectral measure and that of the eigenvalues from products with the Gauss-Newton matrix of
everything in scope, and the same along the proximal path of the linearised model. With k (or matched), what the quadratic reaches in
that one placement.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import point
from analyses.runs.matrices import matrix_at
from analyses.runs.proximal_paths import A_GRADIENT, KNOWN, LINEAR, counted, curvature_gradients, linear_arrays, path_arrays, path_gradients
from analyses.runs.run_inputs import Context, Inputs, row_maker, scorer_for, subsets
from analyses.specs import PredictSpec, SpectrumSpec, as_kind
from analyses.store import Row
from apet.errors import ApetError
from apet.tasks import TASKS

Found = tuple[list[Row], dict[str, np.ndarray]]
HALF = "half_"  # prefix of what half of the examples give


def predict_gradients(spec: PredictSpec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples."""
    spent = 2 * examples * products(spec) if spec.takes_products else examples * max(1, TASKS[spec.task].classes - 1)
    spent += path_gradients(spec, examples, LINEAR) if spec.takes_products and not spec.placed else 0
    return spent + (path_gradients(spec, examples) if spec.path else 0)


def products(spec: PredictSpec) -> int:
    """At most how many products with the matrix, on all of the examples (the half counts half)."""
    if spec.placed:
        return spec.lanczos_steps + 1
    return round(1.5 * (spec.lanczos_steps * (spec.probes + 2) + KNOWN))


def predict_run(spec: PredictSpec, found: Inputs, context: Context) -> Found:
    if spec.placed:
        return _of_placement(spec, found, context)
    rows, arrays = _from_products(spec, found, context) if spec.takes_products else _from_gram(spec, found, context)
    if not spec.path:
        return rows, arrays
    arrays |= path_arrays(_of_everything(spec, found), found, context)
    return [*rows, _spent(spec, found, arrays, "")], arrays


def _spent(spec: PredictSpec, found: Inputs, arrays: dict[str, np.ndarray], prefix: str) -> Row:
    """What a path took: its gradients, and the products along it."""
    count, taken = len(subsets(spec, found)[0]), arrays[prefix + "path"][:, 4]
    spent = count * A_GRADIENT[prefix] * taken.sum() + len(taken) * curvature_gradients(spec, count, prefix)
    return row_maker(spec, found)(prefix + "path_example_gradients", float(spent))


def _of_everything(spec: PredictSpec, found: Inputs) -> SpectrumSpec:
    """The spectrum's spec of all that is in scope as one subspace."""
    from apet.subspaces import ParameterSpace

    return as_kind(spec, SpectrumSpec, k=ParameterSpace.of(found.loaded.model, spec.scope).size, matrix="ggn")


def _from_gram(spec: PredictSpec, found: Inputs, context: Context) -> Found:
    from apet.gram import gram_matrix
    from apet.scoring import predictions
    from apet.subspaces import ParameterSpace
    from landscape.spectra import gradient_spectrum

    model, scorer = found.loaded.model, scorer_for(spec, found)
    examples, _ = subsets(spec, found)
    space = ParameterSpace.of(model, spec.scope)
    matrix, live = gram_matrix(model, space, scorer, examples, lambda done, total: context.report("Gram matrix", done, total))
    gram = matrix.numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = row_maker(spec, found)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("live_fraction", live),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


def _from_products(spec: PredictSpec, found: Inputs, context: Context) -> Found:
    """Everything in scope as one subspace, in float32; all of the examples, then half of them."""
    whole = _of_everything(spec, found)
    count = len(subsets(spec, found)[0])
    arrays, live = _measures(replace(whole, examples=count), spec.steps, found, context, "")
    if count // 2:
        arrays |= _measures(replace(whole, examples=count // 2), spec.steps, found, context, HALF)[0]
    make, pairs = row_maker(spec, found), zip(*arrays["along"], strict=True)
    rows = [
        make("initial_loss", float(arrays["loss"][0]), split="train"),
        make("rank_ceiling", float(arrays["ceiling"][0])),
        make("in_scope", whole.k or 0),
        make("live_fraction", live),
        make("example_gradients", 2 * count * products(spec)),
        *[make("gradient_weight", weight, x=node) for node, weight in pairs if weight > 0],
        _spent(spec, found, arrays, LINEAR),
    ]
    return rows, arrays


def _measures(spec: SpectrumSpec, steps: int, found: Inputs, context: Context, prefix: str) -> tuple[dict[str, np.ndarray], float]:
    """(arrays, the live share of entries): loss, ceiling (1,); along (2, points): nodes and weights of the gradient; nodes, weights, and
    those of the Gauss-Radau rules. Each with the prefix; of all of the examples also the path of the linearised model."""
    from landscape.spectra import spectral_measure

    def report(done: int, of: int) -> None:
        context.report(f"Lanczos on {spec.examples} examples", done, of)

    with point(spec, found, context) as here:
        gradient, loss = here.objective.gradient(here.z), here.objective.loss(here.z)
        if not float(gradient.norm()) > 0:
            raise ApetError("the gradient at the pretrained point is zero or not a number: there is nothing to predict from")
        with matrix_at(here, "ggn") as matrix:
            along = spectral_measure(matrix, gradient, spec.lanczos_steps)
            measure = counted(matrix, spec, report)
        ceiling = min(here.objective.size, _rank(here.objective))
        path = {} if prefix else linear_arrays(here, spec, steps, context)
    radau = measure if measure.radau is None else measure.radau
    arrays = {
        "loss": np.array([loss]), "ceiling": np.array([float(ceiling)]), "along": np.stack([along.nodes[0], along.weights[0]]),
        "nodes": measure.nodes, "weights": measure.weights, "radau_nodes": radau.nodes, "radau_weights": radau.weights,
    }  # fmt: skip
    return {prefix + name: each for name, each in arrays.items()} | path, _live(gradient)


def _live(gradient: Any) -> float:
    """The share of entries that the outputs depend on: of another one every derivative is zero, of these hardly ever the loss's."""
    return float((gradient != 0).double().mean())


def _rank(objective: Any) -> int:
    """Labels that count times (classes or pieces of the vocabulary, less one): what the matrix's rank cannot exceed."""
    import torch

    z = objective.vector(torch.zeros(objective.size), "z")
    _, weights = objective.batch_losses(z)
    with torch.no_grad():
        choices = objective.outputs(z, objective.batches[0]).shape[-1]
    return int(weights.sum()) * (choices - 1)


def _of_placement(spec: PredictSpec, found: Inputs, context: Context) -> Found:
    """The loss that the quadratic reaches in this placement."""
    from landscape.prediction import subspace_drop

    with point(as_kind(spec, SpectrumSpec, matrix="ggn"), found, context) as here:
        gradient, loss = here.objective.gradient(here.z), here.objective.loss(here.z)
        context.report("conjugate gradients", 0, spec.lanczos_steps)
        with matrix_at(here, "ggn") as matrix:
            drop = subspace_drop(matrix, gradient, spec.lanczos_steps)
    make, count = row_maker(spec, found), len(subsets(spec, found)[0])
    common: dict[str, Any] = {"k": len(gradient), "split": "train"}
    rows = [
        make("placed_initial_loss", loss, **common),
        make("placed_loss", loss - drop.drop, **common),
        make("placed_residual", drop.residual, **common),
        make("example_gradients", 2 * count * drop.products, **common),
    ]
    return rows, {}
