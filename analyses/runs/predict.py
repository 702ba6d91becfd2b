"""A run of kind predict: the quantities that predict, without training, how many parameters reach a target.

For a task with classes, the Gram matrix of its label words determines all quantities exactly. For other tasks, or with
`--set algorithm=lanczos`, products with the Gauss-Newton matrix of everything in scope give spectral measures of the gradient and of the
eigenvalues. The measures are taken at the initial point and along the proximal path of the linearised model. With k (or matched), the run
computes the loss that the quadratic model reaches in that one placement.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import point
from analyses.runs.matrices import matrix_at
from analyses.runs.proximal_paths import A_GRADIENT, KNOWN, LINEAR, counted, curvature_gradients, linear_arrays, path_arrays, path_gradients
from analyses.runs.run_inputs import Context, Inputs, row_maker, subsets
from analyses.runs.untuned import scorer_for
from analyses.specs import PredictSpec, SpectrumSpec, as_kind
from analyses.store import Row
from apet.errors import ApetError
from apet.tasks import task_named

Result = tuple[list[Row], dict[str, np.ndarray]]
HALF = "half_"  # prefix of arrays from half of the examples


def predict_gradients(spec: PredictSpec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples."""
    spent = 2 * examples * products(spec) if spec.takes_products else examples * task_named(spec.task).rank
    spent += path_gradients(spec, examples, LINEAR) if spec.takes_products and not spec.placed else 0
    return spent + (path_gradients(spec, examples) if spec.path else 0)


def products(spec: PredictSpec) -> int:
    """Return an upper bound on matrix products on all examples; a product on half of the examples counts as half."""
    if spec.placed:
        return spec.lanczos_steps + 1
    return round(1.5 * (spec.lanczos_steps * (spec.probes + 2) + KNOWN))


def predict_run(spec: PredictSpec, inputs: Inputs, context: Context) -> Result:
    if spec.placed:
        return _of_placement(spec, inputs, context)
    rows, arrays = _from_products(spec, inputs, context) if spec.takes_products else _from_gram(spec, inputs, context)
    if not spec.path:
        return rows, arrays
    arrays |= path_arrays(_of_everything(spec, inputs), inputs, context)
    return [*rows, _spent(spec, inputs, arrays, "")], arrays


def _spent(spec: PredictSpec, inputs: Inputs, arrays: dict[str, np.ndarray], prefix: str) -> Row:
    """Return a row with the cost of a path: its gradients and the products along it."""
    count, gradients = len(subsets(spec, inputs)[0]), arrays[prefix + "path"][:, 4]
    spent = count * A_GRADIENT[prefix] * gradients.sum() + len(gradients) * curvature_gradients(spec, count, prefix)
    return row_maker(spec, inputs)(prefix + "path_example_gradients", float(spent))


def _of_everything(spec: PredictSpec, inputs: Inputs) -> SpectrumSpec:
    """Return the spec of a spectrum whose subspace is everything in scope."""
    from apet.subspaces import ParameterSpace

    return as_kind(spec, SpectrumSpec, k=ParameterSpace.of(inputs.loaded.model, spec.scope).size, matrix="ggn")


def _from_gram(spec: PredictSpec, inputs: Inputs, context: Context) -> Result:
    from apet.gram import gram_matrix
    from apet.scoring import predictions
    from apet.subspaces import ParameterSpace
    from landscape.spectra import gradient_spectrum

    model, scorer = inputs.loaded.model, scorer_for(spec, inputs, context)
    examples, _ = subsets(spec, inputs)
    space = ParameterSpace.of(model, spec.scope)
    matrix, active = gram_matrix(model, space, scorer, examples, lambda done, total: context.report("Gram matrix", done, total))
    gram = matrix.numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = row_maker(spec, inputs)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("live_fraction", active),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


def _from_products(spec: PredictSpec, inputs: Inputs, context: Context) -> Result:
    """Return rows and arrays of everything in scope as one subspace, in float32, from all examples and from half of them."""
    whole = _of_everything(spec, inputs)
    count = len(subsets(spec, inputs)[0])
    arrays, active = _measures(replace(whole, examples=count), spec.steps, inputs, context, "")
    if count // 2:
        arrays |= _measures(replace(whole, examples=count // 2), spec.steps, inputs, context, HALF)[0]
    make, pairs = row_maker(spec, inputs), zip(*arrays["along"], strict=True)
    rows = [
        make("initial_loss", float(arrays["loss"][0]), split="train"),
        make("rank_ceiling", float(arrays["ceiling"][0])),
        make("in_scope", whole.k or 0),
        make("live_fraction", active),
        make("example_gradients", 2 * count * products(spec)),
        *[make("gradient_weight", weight, x=node) for node, weight in pairs if weight > 0],
        _spent(spec, inputs, arrays, LINEAR),
    ]
    return rows, arrays


def _measures(spec: SpectrumSpec, steps: int, inputs: Inputs, context: Context, prefix: str) -> tuple[dict[str, np.ndarray], float]:
    """Return (arrays, share of active entries).

    Arrays, each with the prefix: loss, ceiling (1,); along (2, points), nodes and weights of the gradient's measure; nodes and weights of
    the eigenvalues' measure; radau_nodes and radau_weights. Without a prefix (all examples) also the path of the linearised model.
    """
    from landscape.spectra import spectral_measure

    def report(done: int, of: int) -> None:
        context.report(f"Lanczos on {spec.examples} examples", done, of)

    with point(spec, inputs, context) as initial:
        gradient, loss = initial.objective.gradient(initial.z), initial.objective.loss(initial.z)
        if not float(gradient.norm()) > 0:
            raise ApetError(
                "the gradient at the initial point is zero or not a number, so there is no prediction: use another model or scope"
            )
        with matrix_at(initial, "ggn") as matrix:
            along = spectral_measure(matrix, gradient, spec.lanczos_steps)
            measure = counted(matrix, spec, report)
        ceiling = min(initial.objective.size, _rank(initial.objective, task_named(spec.task).rank))
        path = {} if prefix else linear_arrays(initial, spec, steps, context)
    radau = measure if measure.radau is None else measure.radau
    arrays = {
        "loss": np.array([loss]), "ceiling": np.array([float(ceiling)]), "along": np.stack([along.nodes[0], along.weights[0]]),
        "nodes": measure.nodes, "weights": measure.weights, "radau_nodes": radau.nodes, "radau_weights": radau.weights,
    }  # fmt: skip
    return {prefix + name: array for name, array in arrays.items()} | path, _active(gradient)


def _active(gradient: Any) -> float:
    """Return the share of active entries. Outputs depend on these entries; all derivatives of other entries are exactly zero."""
    return float((gradient != 0).double().mean())


def _rank(objective: Any, of_example: int) -> int:
    """Return an upper bound on the matrix's rank: number of labels times the rank per label.

    The rank per label is `of_example`, or for a text (0) the number of tokens in the vocabulary - 1.
    """
    import torch

    z = objective.vector(torch.zeros(objective.size), "z")
    _, weights = objective.batch_losses(z)
    with torch.no_grad():
        choices = objective.outputs(z, objective.batches[0]).shape[-1]
    return int(weights.sum()) * (of_example or choices - 1)


def _of_placement(spec: PredictSpec, inputs: Inputs, context: Context) -> Result:
    """Return rows with the loss that the quadratic model reaches in this placement."""
    from landscape.prediction import subspace_drop

    with point(as_kind(spec, SpectrumSpec, matrix="ggn"), inputs, context) as initial:
        gradient, loss = initial.objective.gradient(initial.z), initial.objective.loss(initial.z)
        context.report("conjugate gradients", 0, spec.lanczos_steps)
        with matrix_at(initial, "ggn") as matrix:
            drop = subspace_drop(matrix, gradient, spec.lanczos_steps)
    make, count = row_maker(spec, inputs), len(subsets(spec, inputs)[0])
    common: dict[str, Any] = {"k": len(gradient), "split": "train"}
    rows = [
        make("placed_initial_loss", loss, **common),
        make("placed_loss", loss - drop.drop, **common),
        make("placed_residual", drop.residual, **common),
        make("example_gradients", 2 * count * drop.products, **common),
    ]
    return rows, {}
