"""A run of kind spectrum: curvature in the tuned subspace, computed exactly if that is cheaper, otherwise estimated with errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import Point, columns_at, named, point
from analyses.runs.matrices import MATRICES, matrix_at, recorded
from analyses.runs.run_inputs import Context, Inputs, Planned, row_maker
from analyses.specs import SpectrumSpec
from analyses.store import Row
from apet.errors import ApetError
from apet.tasks import task_named

TOP = 10  # eigenpairs with separate rows
BLOCK_STEPS = 10  # Lanczos steps for the top eigenvalue of a layer
ROUNDS = 3  # maximum number of Lanczos rounds for clustered eigenvalues
RIDGE = 1e-4  # relative to the largest eigenvalue, for log det(A + ridge I); the row's target holds the ridge
POINTS, DECADES = 25, 4  # grid of kappa for N_eff(kappa): points, and decades below the largest eigenvalue


def route(spec: SpectrumSpec, k: int, layers: int = 12) -> tuple[str, int]:
    """Return the algorithm for the spectrum of k coordinates in `layers` layers, and an upper bound on its products.

    rows: exact, from `Task.rank` backward passes (C - 1 for C classes). columns: exact, from k products. lanczos: top eigenpairs and
    quadrature.
    """
    rank = task_named(spec.task).rank
    # Rounds for top pairs, probes, the gradient's measure, the diagonal, and the top pair of each layer. Self-checks are not counted.
    lanczos = spec.lanczos_steps * (ROUNDS + spec.probes + 1) + TOP + spec.probes + layers * (BLOCK_STEPS + 1)
    if spec.algorithm != "lanczos" and spec.samples is None:
        if MATRICES[spec.matrix].rows and rank:
            return "rows", rank
        if spec.algorithm == "exact" or k <= lanczos:
            return "columns", k
    return "lanczos", lanczos


@dataclass(frozen=True)
class Curved:
    """The results of every algorithm."""

    top: Any  # landscape.Eigenpairs with the largest magnitudes
    errors: np.ndarray  # (count,) errors of the top eigenvalues
    measure: Any  # landscape.SpectralMeasure
    along: tuple[np.ndarray, np.ndarray]  # eigenvalues, and the gradient's squared share of each
    parts: list[
        tuple[str, str, int, Any, tuple[float, float] | None]
    ]  # (by, label, entries, Estimate of trace, (top eigenvalue, error)) per group
    drawn: float | None = None  # standard error of the trace from sampled labels


def spectrum_gradients(spec: SpectrumSpec, examples: int) -> int:
    """Return an upper bound on the example-gradients of a run on `examples` examples; a curvature product counts two."""
    return 2 * examples * route(spec, spec.k or sys.maxsize)[1]


def spectrum_plan(spec: SpectrumSpec, planned: Planned) -> dict[str, Any]:
    """Return the algorithm and an upper bound on its products with the matrix."""
    return {} if planned.k is None else dict(zip(("algorithm", "products"), route(spec, planned.k, planned.layers), strict=True))


def spectrum_run(spec: SpectrumSpec, inputs: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    with point(spec, inputs, context) as base:
        loss = base.objective.loss(base.z)
        if not math.isfinite(loss):
            raise ApetError(f"the loss at this point is {loss}, which is not finite, so the curvature is undefined: use another point")
        gradient = base.objective.gradient(base.z)
        how, products = route(spec, len(gradient), len(base.subspace.groups("layer")[1]))
        context.report(f"{how}: at most {products:,} products with {spec.matrix}", 0, products)
        matrix = matrix_at(base, spec.matrix, spec.samples, spec.train_seed)
        check = _checked(matrix, spec.train_seed)
        with recorded(matrix, base, context) as operator:
            curved = _ROUTES[how](spec, base, operator, gradient, context, products)
    make = _maker(spec, inputs, len(gradient))
    rows = [
        make("loss", loss),
        make("gradient_norm", float(gradient.norm())),
        make("symmetry_defect", check.symmetry_defect),
        make("determinism_defect", check.determinism_defect),
        make("products", products, series=how, note_too=how),
        *_numbers(curved, make),
        *_curves(curved, make),
        *_aligned(curved, gradient, make),
    ]
    return rows, {
        "nodes": curved.measure.nodes, "weights": curved.measure.weights, "eigenvalues": curved.top.eigenvalues,
        "eigenvectors": curved.top.eigenvectors.cpu().numpy(), "gradient": gradient.cpu().numpy(), "z": base.z.cpu().numpy(),
    }  # fmt: skip


def _checked(operator: Any, seed: int) -> Any:
    from landscape.curvature import check_operator

    try:
        return check_operator(operator, seed)
    except ValueError as error:
        raise ApetError(f"the check of this curvature failed: {error}") from error


def _by_rows(spec: SpectrumSpec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from landscape.spectra import spectrum_of_rows

    rows_of = MATRICES[spec.matrix].rows
    assert rows_of is not None
    rows = rows_of(point, lambda done, of: context.report("exact, by rows", done, of))
    return _exact(spectrum_of_rows(rows), point, gradient, lambda index: spectrum_of_rows(rows[:, index]))


def _by_columns(spec: SpectrumSpec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from landscape.curvature import to_dense
    from landscape.spectra import spectrum_of_matrix

    matrix = to_dense(operator, lambda done, of: context.report("exact, by columns", done, of))
    return _exact(spectrum_of_matrix(matrix), point, gradient, lambda index: spectrum_of_matrix(matrix[index][:, index]))


def _exact(spectrum: Any, point: Point, gradient: Any, block: Callable[[Any], Any]) -> Curved:
    from landscape.spectra import SORT_KEYS, Eigenpairs, Estimate, SpectralMeasure, gradient_shares

    order = np.argsort(SORT_KEYS["LM"](spectrum.eigenvalues), kind="stable")[:TOP]
    values = spectrum.eigenvalues[order]
    top = Eigenpairs(values, spectrum.eigenvectors[:, order.copy()].float(), np.zeros(len(values)), 0)
    parts = []
    for by, label, index in _groups(point):
        eigenvalues = block(index).all_eigenvalues
        parts.append((by, label, len(index), Estimate(float(eigenvalues.sum()), 0.0), (float(eigenvalues[0]), 0.0)))
    measure = SpectralMeasure.of_eigenvalues(spectrum.all_eigenvalues)
    return Curved(top, np.zeros(len(values)), measure, (spectrum.eigenvalues, gradient_shares(spectrum, gradient)), parts)


def _groups(point: Point) -> Iterator[tuple[str, str, Any]]:
    """Yield (`layer` or `kind`, label, coordinates int64 (n,)) for every group of tensors."""
    import torch

    for by in ("layer", "kind"):
        labels, names = point.subspace.groups(by)
        for number, name in enumerate(names):
            yield by, name, torch.nonzero(labels == number)[:, 0]


def _by_lanczos(spec: SpectrumSpec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from landscape.curvature import Block
    from landscape.spectra import diagonal_estimates, eigenpairs, mean_of, slq, spectral_measure

    def report(done: int, of: int) -> None:
        context.report("Lanczos", operator.made, max(products, operator.made))

    k, seed = operator.size, spec.train_seed
    count = min(TOP, k, spec.lanczos_steps)
    top = eigenpairs(operator, count, spec.lanczos_steps, which="LM", seed=seed, rounds=ROUNDS, progress=report)
    errors, drawn = top.residuals, None
    if spec.samples is not None:
        forms = operator.operator.forms(top.eigenvectors).cpu().numpy()
        errors = np.hypot(errors, [mean_of(samples).stderr for samples in forms.T])
        drawn = mean_of(forms.sum(1)).stderr  # the other eigenvalues contribute little
    measure = slq(operator, spec.probes, spec.lanczos_steps, seed, known=top, progress=report)
    along = np.empty(0), np.empty(0)
    if float(gradient.norm()) > 0:
        weighted = spectral_measure(operator, gradient, spec.lanczos_steps)
        along = weighted.nodes[0], weighted.weights[0]
    terms = diagonal_estimates(operator, spec.probes, seed)
    parts = []
    for by, label, index in _groups(point):
        block = Block(operator, index)
        one = by == "layer" and eigenpairs(block, 1, min(BLOCK_STEPS, block.size), seed=seed, rounds=1, progress=report)
        trace = mean_of(terms[block.index].sum(0).cpu().numpy())
        parts.append((by, label, block.size, trace, (float(one.eigenvalues[0]), float(one.residuals[0])) if one else None))
    return Curved(top, errors, measure, along, parts, drawn)


_ROUTES = {"rows": _by_rows, "columns": _by_columns, "lanczos": _by_lanczos}


def _maker(spec: SpectrumSpec, inputs: Inputs, k: int) -> Callable[..., Row]:
    """Return a function that makes rows of this spectrum. The note names the matrix and the point."""
    matrix = spec.matrix if spec.samples is None else f"{spec.matrix} of {spec.samples} sampled labels"
    make = row_maker(spec, inputs)
    common = {"k": k, "train_seed": spec.train_seed, "matrix": spec.matrix, "samples": spec.samples, **columns_at(spec)}

    def row(quantity: str, value: float, note_too: str = "", **columns: Any) -> Row:
        return make(
            quantity, value, note=f"{matrix}{named(spec)}" + (f"; {note_too}" if note_too else ""), split="train", **common, **columns
        )

    return row


def _numbers(curved: Curved, make: Callable[..., Row]) -> list[Row]:
    """Return rows with one number each; estimates have a standard error and a 95 % t-interval."""
    from landscape.spectra import (
        NOISE,
        decay_exponent,
        effective_rank,
        log_determinant,
        negative_mass,
        outliers,
        participation_ratio,
        trace,
        with_quadrature_error,
    )

    measure = curved.measure
    largest = float(np.abs(measure.nodes).max(initial=0.0))
    edge, count = outliers(measure)
    numbers: dict[str, Callable[[Any], Any]] = {
        "trace": trace, "squared_frobenius": lambda rule: trace(rule, np.square), "negative_mass": negative_mass,
        "effective_rank": effective_rank, "participation_ratio": participation_ratio,
    }  # fmt: skip
    estimates = {name: _known(with_quadrature_error(measure, f), curved, name) for name, f in numbers.items()}
    estimates["outliers"] = _known(count, curved, "outliers")
    positive = curved.top.eigenvalues[curved.top.eigenvalues > NOISE * largest]
    if len(positive) >= 3:
        estimates["decay_exponent"] = decay_exponent(positive)
    rows = [_estimate(make, name, estimate) for name, estimate in estimates.items()]
    rows += [] if math.isnan(edge) else [make("bulk_edge", edge)]
    if largest > 0:
        ridge = RIDGE * largest
        estimate = with_quadrature_error(measure, lambda rule: log_determinant(rule, ridge))
        rows.append(_estimate(make, "log_determinant", _known(estimate, curved, "log_determinant"), target=ridge))
    for number, (by, label, coordinates, part, top) in enumerate(curved.parts):
        block = {"series": by, "group": label, "x": number, "note_too": f"{by}: {label}"}
        rows += [make("block_size", coordinates, **block), _estimate(make, "block_trace", part, **block)]
        rows += [] if top is None else [make("block_eigenvalue", top[0], stderr=top[1], **block)]
    return rows


def _known(estimate: Any, curved: Curved, name: str) -> Any:
    """Return the estimate with an error that includes label sampling: known for the trace, NaN for quantities other than means."""
    if curved.drawn is None:
        return estimate
    error = math.hypot(estimate.stderr, curved.drawn) if name == "trace" else math.nan
    return replace(estimate, stderr=error, terms=max(2, estimate.terms))


def _estimate(make: Callable[..., Row], name: str, estimate: Any, **columns: Any) -> Row:
    low, high = estimate.interval()
    return make(name, estimate.value, stderr=estimate.stderr, low=low, high=high, **columns)


def _aligned(curved: Curved, gradient: Any, make: Callable[..., Row]) -> list[Row]:
    """Return rows with the cumulative share of |g|^2: over the top eigenvectors by rank, and over all eigenvalues down to each one."""
    square = float(gradient.double() @ gradient.double())
    if not square > 0:
        return []
    ranks = np.cumsum(((curved.top.eigenvectors.double().T @ gradient.double()) ** 2).cpu().numpy()) / square
    nodes, weights = curved.along
    order = np.argsort(-nodes, kind="stable")
    return [
        *(make("top_alignment", share, x=i + 1) for i, share in enumerate(ranks)),
        *(make("alignment", share, x=node) for node, share in zip(nodes[order], np.cumsum(weights[order]) / square, strict=True)),
    ]


def _curves(curved: Curved, make: Callable[..., Row]) -> list[Row]:
    """Return rows of the top eigenvalues, the density and N_eff(kappa)."""
    from landscape.spectra import effective_dimension, spectral_density, with_quadrature_error

    measure = curved.measure
    largest = float(np.abs(measure.nodes).max(initial=0.0))
    rows = [make("eigenvalue", v, x=i + 1, stderr=e) for i, (v, e) in enumerate(zip(curved.top.eigenvalues, curved.errors, strict=True))]
    if not largest > 0:
        return rows
    grid = _grid(measure.nodes, largest)
    values, errors = spectral_density(measure, grid, sigma=largest / 50)
    rows += [make("density", v, x=node, stderr=e) for node, v, e in zip(grid, values, errors, strict=True)]
    for kappa in np.geomspace(largest * 10.0**-DECADES, largest, POINTS):
        estimate = with_quadrature_error(measure, lambda rule, kappa=float(kappa): effective_dimension(rule, kappa))
        rows.append(_estimate(make, "n_eff", _known(estimate, curved, "n_eff"), x=kappa))
    return rows


def _grid(nodes: np.ndarray, largest: float) -> np.ndarray:
    """Return points for the density that are dense enough for a linear and for a symmetric-log axis."""
    side = np.geomspace(largest * 10.0**-DECADES, 1.2 * largest, 60)
    linear = np.linspace(min(0.0, float(nodes.min())) - largest / 10, 1.1 * largest, 100)
    both = np.concatenate([side, [0.0], linear, -side if nodes.min() < 0 else []])
    return np.unique(both)
