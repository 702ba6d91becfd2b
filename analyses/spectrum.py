"""A run of kind spectrum: curvature in the tuned subspace, exact where that costs less, with errors where it is estimated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analyses.inputs import Context, Inputs, mounted_for, row_maker, scorer_for, subsets
from analyses.spec import Spec
from analyses.store import Row, Store
from apet.errors import ApetError, MissingInput, UsageError
from apet.tasks import TASKS

TOP = 10  # eigenpairs that are reported one by one
BLOCK_STEPS = 10  # of Lanczos, for the top eigenvalue of a layer
ROUNDS = 3  # of Lanczos for clustered eigenvalues, at most
RIDGE = 1e-4  # of the largest eigenvalue, for log det(A + ridge I); the ridge is the row's target
POINTS, DECADES = 25, 4  # of N_eff(kappa), below the largest eigenvalue


def route(spec: Spec, k: int, layers: int = 12) -> tuple[str, int]:
    """How the spectrum of k coordinates in so many layers is computed, and with at most how many products.

    rows: exact from one backward pass a class but one; columns: exact from k products; lanczos: top pairs and quadrature.
    """
    classes = TASKS[spec.task].classes if spec.task in TASKS else 0
    # Rounds of the top pairs, probes, the gradient's measure; then the diagonal, and the top pair of each layer.
    lanczos = spec.lanczos_steps * (ROUNDS + spec.probes + 1) + TOP + spec.probes + layers * (BLOCK_STEPS + 1)
    if spec.algorithm != "lanczos" and spec.samples is None:
        if spec.matrix == "ggn" and classes:
            return "rows", classes - 1
        if spec.algorithm == "exact" or k <= lanczos:
            return "columns", k
    return "lanczos", lanczos


@dataclass(frozen=True)
class Point:
    """The subspace and the place in it where curvature is asked for."""

    objective: Any  # landscape.Objective
    z: Any  # Tensor (k,)
    labels: dict[str, list[str]]  # by layer and by kind of tensor, (k,) each
    processes: Any  # accelerate's Accelerator


@dataclass(frozen=True)
class Curved:
    """What every route finds."""

    top: Any  # landscape.Eigenpairs, of the largest magnitudes
    errors: np.ndarray  # (count,) of the eigenvalues
    measure: Any  # landscape.SpectralMeasure
    along: tuple[np.ndarray, np.ndarray]  # eigenvalues, and the gradient's squared share of each
    parts: list[tuple[str, str, int, Any, float]]  # by, label, coordinates, Estimate of the trace, top eigenvalue
    drawn: float = 0.0  # of the trace: the standard error that it owes to sampled labels


def spectrum_run(spec: Spec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    with _point(spec, found, context) as point:
        loss = point.objective.loss(point.z)
        if not math.isfinite(loss):
            raise ApetError(f"the loss at this point is {loss}: there is no curvature to speak of")
        gradient = point.objective.gradient(point.z)
        how, products = route(spec, len(gradient), len(set(point.labels["layer"])))
        context.report(f"{how}: at most {products:,} products with {spec.matrix}", 0, products)
        with _operator(spec, point, context) as operator:
            check = _checked(operator, spec.train_seed)
            curved = _ROUTES[how](spec, point, operator, gradient, context, products)
    make = _maker(spec, found, len(gradient))
    rows = [
        make("loss", loss),
        make("gradient_norm", float(gradient.norm())),
        make("symmetry_defect", check.symmetry_defect),
        make("determinism_defect", check.determinism_defect),
        make("products", products, note_too=how),
        *_numbers(curved, make),
        *_curves(curved, make),
    ]
    return rows, {
        "nodes": curved.measure.nodes, "weights": curved.measure.weights, "eigenvalues": curved.top.eigenvalues,
        "eigenvectors": curved.top.eigenvectors.cpu().numpy(), "gradient": gradient.cpu().numpy(), "z": point.z.cpu().numpy(),
    }  # fmt: skip


@contextmanager
def _point(spec: Spec, found: Inputs, context: Context) -> Iterator[Point]:
    """Mount the subspace; the model is as it was when the block ends. Several processes take every so-many-th batch each."""
    import torch

    from apet.launch import accelerator_for, total
    from landscape.criterion import CrossEntropy
    from landscape.objective import Objective

    model, scorer = found.loaded.model, scorer_for(spec, found)
    if spec.operations != "add":  # new parameters stay
        model = copy.deepcopy(model)
    examples, _ = subsets(spec, found)
    mounted = mounted_for(spec, model, scorer, examples)
    processes = accelerator_for(found.device, "no")
    batches = list(scorer.batches(examples, spec.batch))[processes.process_index :: processes.num_processes]
    if not batches:
        raise UsageError(f"{processes.num_processes} processes share {len(examples)} examples in batches of {spec.batch}: lower batch")
    with mounted.attached as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        objective = Objective(
            outputs, CrossEntropy(), batches, mounted.k, device=found.device, total=lambda tensor: total(processes, tensor)
        )
        z = torch.zeros(mounted.k) if spec.at is None else torch.as_tensor(_found_by(spec, context))
        yield Point(objective, objective.vector(z, "z"), mounted.space.labels(mounted.placement.index), processes)


def _found_by(spec: Spec, context: Context) -> np.ndarray:
    """z (k,) at the end of the run `spec.at`, or at the look at `spec.at_step`; it must have tuned the same entries."""
    assert spec.at is not None
    store = Store(context.folder.parent)
    if not store.done(spec.at):
        raise MissingInput(f"no finished run {spec.at} in {store.root}")
    other, arrays = store.spec(spec.at), store.arrays(spec.at)
    if other["kind"] != "train" or "z" not in arrays or any(name.startswith("head.") for name in arrays):
        raise UsageError(f"{spec.at} is no run of apet in words: only of those the optimum is a point of this subspace")
    for name in _SUBSPACE:
        if other[name] != getattr(spec, name):
            raise UsageError(f"{spec.at} has {name} {other[name]}, this spectrum {getattr(spec, name)}: they are not of the same subspace")
    if spec.at_step is None:
        return arrays["z"]
    steps = trajectory_steps(store, spec.at)
    if spec.at_step not in steps:
        raise UsageError(f"step {spec.at_step} is no look of {spec.at}: there are {', '.join(map(str, steps)) or 'none'}")
    return arrays["trajectory"][steps.index(spec.at_step)]


_SUBSPACE = ("model", "random_init", "task", "k", "matched", "operations", "scope", "unit", "order", "position_seed")


def curved_like(store: Store, run_id: str) -> dict[str, Any]:
    """The fields that a spectrum at the run must share with it."""
    if not store.done(run_id):
        raise MissingInput(f"no finished run in {store.folder(run_id)}")
    spec = store.spec(run_id)
    examples = {} if spec["examples"] is None else {"examples": spec["examples"]}  # those that it was trained on
    return {name: spec[name] for name in _SUBSPACE} | examples


def trajectory_steps(store: Store, run_id: str) -> list[int]:
    """The steps at which the run kept what it tuned; none unless it was made with `trajectory`."""
    arrays = store.arrays(run_id)
    return [int(step) for step in arrays["history"][:, 0]] if "trajectory" in arrays else []


def _operator(spec: Spec, point: Point, context: Context) -> Any:
    """The matrix, its graphs kept in half of the free memory and its products on the disk."""
    import psutil

    from analyses.recorded import Recorded
    from landscape.curvature import EmpiricalFisher, GaussNewton, Hessian

    memory = psutil.virtual_memory().available / 2 if point.objective.device.type == "cpu" else _free_on(point.objective.device) / 2
    if spec.matrix == "ggn":
        matrix = GaussNewton(point.objective, point.z, memory=memory, samples=spec.samples, seed=spec.train_seed)
    else:
        matrix = {"hessian": Hessian, "fisher": EmpiricalFisher}[spec.matrix](point.objective, point.z, memory=memory)
    return Recorded(matrix, context.folder, point.processes.is_main_process)


def _free_on(device: Any) -> float:
    import torch

    return torch.cuda.mem_get_info(device)[0]


def _checked(operator: Any, seed: int) -> Any:
    from landscape.operators import check_operator

    try:
        return check_operator(operator, seed)
    except ValueError as error:
        raise ApetError(f"this curvature is not to be trusted: {error}") from error


def _by_rows(spec: Spec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from apet.kernels import NotPerExample
    from apet.launch import gathered
    from landscape.exact import gauss_newton_rows, of_rows

    def report(done: int, of: int) -> None:
        context.report("exact, by rows", done, of)

    try:
        rows = gauss_newton_rows(point.objective, point.z, each=True, progress=report)
    except NotPerExample:  # an entry of a table that all examples share
        rows = gauss_newton_rows(point.objective, point.z, each=False, progress=report)
    rows = gathered(point.processes, rows)  # rows of zeros add nothing
    return _exact(of_rows(rows), point, gradient, lambda index: of_rows(rows[:, index]))


def _by_columns(spec: Spec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from landscape.exact import of_matrix
    from landscape.operators import to_dense

    matrix = to_dense(operator, lambda done, of: context.report("exact, by columns", done, of))
    return _exact(of_matrix(matrix), point, gradient, lambda index: of_matrix(matrix[index][:, index]))


def _exact(spectrum: Any, point: Point, gradient: Any, block: Callable[[Any], Any]) -> Curved:
    from landscape.exact import shares
    from landscape.lanczos import ORDERS, Eigenpairs
    from landscape.operators import groups
    from landscape.quadrature import Estimate, SpectralMeasure

    order = np.argsort(ORDERS["magnitude"](spectrum.eigenvalues), kind="stable")[:TOP]
    values = spectrum.eigenvalues[order]
    top = Eigenpairs(values, spectrum.eigenvectors[:, order.copy()].float(), np.zeros(len(values)), 0)
    parts = []
    for by, label, index in ((by, *item) for by, labels in point.labels.items() for item in groups(labels).items()):
        eigenvalues = block(index).eigenvalues
        parts.append((by, label, len(index), Estimate(float(eigenvalues.sum()), 0.0), float(eigenvalues.max(initial=0.0))))
    measure = SpectralMeasure.of_eigenvalues(spectrum.all_eigenvalues)
    return Curved(top, np.zeros(len(values)), measure, (spectrum.eigenvalues, shares(spectrum, gradient)), parts)


def _by_lanczos(spec: Spec, point: Point, operator: Any, gradient: Any, context: Context, products: int) -> Curved:
    from landscape.estimators import diagonal
    from landscape.lanczos import eigenpairs
    from landscape.operators import blocks
    from landscape.quadrature import mean_of, slq, spectral_measure

    def report(done: int, of: int) -> None:
        context.report("Lanczos", operator.made, max(products, operator.made))

    k, seed = operator.size, spec.train_seed
    count = min(TOP, k, spec.lanczos_steps)
    top = eigenpairs(operator, count, spec.lanczos_steps, which="magnitude", seed=seed, rounds=ROUNDS, progress=report)
    errors, drawn = top.residuals, 0.0
    if spec.samples is not None:
        forms = operator.operator.forms(top.eigenvectors).cpu().numpy()
        errors = np.hypot(errors, [mean_of(each).stderr for each in forms.T])
        drawn = mean_of(forms.sum(1)).stderr  # the rest of the spectrum adds little
    measure = slq(operator, spec.probes, spec.lanczos_steps, seed, known=top, progress=report)
    along = np.empty(0), np.empty(0)
    if float(gradient.norm()) > 0:
        weighted = spectral_measure(operator, gradient, spec.lanczos_steps)
        along = weighted.nodes[0], weighted.weights[0]
    terms = diagonal(operator, spec.probes, seed) if spec.probes > 1 else None
    parts = []
    for by, label, block in ((by, *item) for by, labels in point.labels.items() for item in blocks(operator, labels).items()):
        one = by == "layer" and eigenpairs(block, 1, min(BLOCK_STEPS, block.size), seed=seed, rounds=1, progress=report)
        parts.append((by, label, block.size, _part(terms, block.index), float(one.eigenvalues[0]) if one else math.nan))
    return Curved(top, errors, measure, along, parts, drawn)


def _part(terms: Any, index: Any) -> Any:
    """The trace of a block from the diagonal's estimate."""
    from landscape.quadrature import Estimate, mean_of

    return Estimate(math.nan, math.nan) if terms is None else mean_of(terms[index].sum(0).cpu().numpy())


_ROUTES = {"rows": _by_rows, "columns": _by_columns, "lanczos": _by_lanczos}


def _maker(spec: Spec, found: Inputs, k: int) -> Callable[..., Row]:
    """Rows of this spectrum; the note begins with the matrix and where it was taken."""
    where = "" if spec.at is None else f" at {spec.at}" + ("" if spec.at_step is None else f" step {spec.at_step}")
    matrix = spec.matrix if spec.samples is None else f"{spec.matrix} of {spec.samples} sampled labels"
    make = row_maker(spec, found)
    common = {"k": k, "position_seed": spec.position_seed, "train_seed": spec.train_seed, "method": "apet", "subspace": "coordinates"}

    def row(quantity: str, value: float, note_too: str = "", **columns: Any) -> Row:
        return make(quantity, value, note=f"{matrix}{where}" + (f"; {note_too}" if note_too else ""), split="train", **common, **columns)

    return row


def _numbers(curved: Curved, make: Callable[..., Row]) -> list[Row]:
    """One number each, estimates with standard error and 95 % t-interval."""
    from landscape.quadrature import decay_exponent, effective_rank, log_determinant, negative_mass, outliers, participation_ratio, trace

    measure = curved.measure
    largest = float(np.abs(measure.nodes).max(initial=0.0))
    edge, count = outliers(measure)
    whole = trace(measure)
    if curved.drawn:
        whole = replace(whole, stderr=math.hypot(whole.stderr, curved.drawn))
    estimates = {
        "trace": whole, "squared_frobenius": trace(measure, np.square), "negative_mass": negative_mass(measure),
        "effective_rank": effective_rank(measure), "participation_ratio": participation_ratio(measure), "outliers": count,
    }  # fmt: skip
    positive = curved.top.eigenvalues[curved.top.eigenvalues > 0]
    if len(positive) >= 3:
        estimates["decay_exponent"] = decay_exponent(positive)
    rows = [_estimate(make, name, estimate) for name, estimate in estimates.items()]
    rows.append(make("bulk_edge", edge))
    if largest > 0:
        ridge = RIDGE * largest
        rows.append(_estimate(make, "log_determinant", log_determinant(measure, ridge), target=ridge))
    for place, (by, label, coordinates, part, top) in enumerate(curved.parts):
        name = f"{by}: {label}"
        rows += [make("block_size", coordinates, note_too=name, x=place), _estimate(make, "block_trace", part, note_too=name, x=place)]
        rows += [] if math.isnan(top) else [make("block_eigenvalue", top, note_too=name, x=place)]
    return rows


def _estimate(make: Callable[..., Row], name: str, estimate: Any, **columns: Any) -> Row:
    low, high = estimate.interval()
    return make(name, estimate.value, stderr=estimate.stderr, low=low, high=high, **columns)


def _curves(curved: Curved, make: Callable[..., Row]) -> list[Row]:
    """Top eigenvalues, density, N_eff(kappa), and the gradient's cumulative share from the largest eigenvalues down."""
    from landscape.quadrature import density, effective_dimension

    measure = curved.measure
    largest = float(np.abs(measure.nodes).max(initial=0.0))
    rows = [make("eigenvalue", v, x=i + 1, stderr=e) for i, (v, e) in enumerate(zip(curved.top.eigenvalues, curved.errors, strict=True))]
    nodes, weights = curved.along
    order = np.argsort(-nodes, kind="stable")
    if weights.sum() > 0:
        shares = np.cumsum(weights[order]) / weights.sum()
        rows += [make("alignment", share, x=node) for node, share in zip(nodes[order], shares, strict=True)]
    if not largest > 0:
        return rows
    grid = _grid(measure.nodes, largest)
    values, errors = density(measure, grid, sigma=largest / 50)
    rows += [make("density", v, x=at, stderr=e) for at, v, e in zip(grid, values, errors, strict=True)]
    for kappa in np.geomspace(largest * 10.0**-DECADES, largest, POINTS):
        rows.append(_estimate(make, "n_eff", effective_dimension(measure, float(kappa)), x=kappa))
    return rows


def _grid(nodes: np.ndarray, largest: float) -> np.ndarray:
    """Places for the density that are close enough on a linear and on a symmetric-log axis."""
    side = np.geomspace(largest * 10.0**-DECADES, 1.2 * largest, 60)
    linear = np.linspace(min(0.0, float(nodes.min())) - largest / 10, 1.1 * largest, 100)
    both = np.concatenate([side, [0.0], linear, -side if nodes.min() < 0 else []])
    return np.unique(both)
