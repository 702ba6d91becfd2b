"""Curvature matrices that a user can select, and the functions that build them at a point of the subspace.

A record holds every fact about a matrix: its operator, its exact rows, and its name and line style in figures. To add a matrix, write its
operator in landscape/curvature, a function in this file that builds the operator, and one entry of MATRICES.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyses.runs.record_tables import by_name

if TYPE_CHECKING:
    from torch import Tensor

    from analyses.runs.evaluation_point import Point
    from analyses.runs.run_inputs import Context
    from landscape.curvature import LinearOperator
    from landscape.spectra import Spectrum


@dataclass(frozen=True)
class Matrix:
    """A curvature matrix (k, k) of the training loss."""

    name: str  # name on the command line
    words: str  # name in figures and help
    dashes: str  # matplotlib's line style
    build: Callable[..., Any]  # (objective, z (k,), memory=bytes; samples, seed if `sampled`) -> a LinearOperator
    rows: Callable[..., Any] | None = None  # (point, progress) -> A (n * `Task.rank`, k) with A'A the matrix, if the rank is known
    sampled: bool = False  # whether it can be estimated from labels that are sampled from the model
    semidefinite: bool = False  # whether no eigenvalue can be negative


def _hessian(objective: Any, z: Tensor, *, memory: float) -> LinearOperator:
    from landscape.curvature import Hessian

    return Hessian(objective, z, memory=memory)


def _gauss_newton(objective: Any, z: Tensor, *, memory: float, samples: int | None, seed: int) -> LinearOperator:
    from landscape.curvature import GaussNewton

    return GaussNewton(objective, z, memory=memory, samples=samples, seed=seed)


def _empirical_fisher(objective: Any, z: Tensor, *, memory: float) -> LinearOperator:
    from landscape.curvature import EmpiricalFisher

    return EmpiricalFisher(objective, z, memory=memory)


def gauss_newton_rows_of(point: Point, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """Return rows A (n r, k) with A'A the Gauss-Newton matrix, r = `Task.rank` (C - 1 for C classes), for the examples of all processes."""
    from apet.machine import gather_rows
    from apet.subspaces import NotPerExample
    from landscape.spectra import gauss_newton_rows

    try:
        rows = gauss_newton_rows(point.objective, point.z, per_example=True, progress=progress)
    except NotPerExample:  # a tuned table entry is shared by all examples
        rows = gauss_newton_rows(point.objective, point.z, per_example=False, progress=progress)
    return gather_rows(point.processes, rows)  # padding rows are zero and contribute nothing


# Figures list and style matrices in this order; a figure with one matrix draws it with solid lines.
MATRICES = by_name(
    [
        Matrix("ggn", "Gauss-Newton", "-", _gauss_newton, rows=gauss_newton_rows_of, sampled=True, semidefinite=True),
        Matrix("hessian", "Hessian", "--", _hessian),
        Matrix("fisher", "empirical Fisher", ":", _empirical_fisher, semidefinite=True),
    ],
    unique=("words", "dashes"),
)


def matrix_at(point: Point, name: str, samples: int | None = None, seed: int = 0) -> Any:
    """Return the matrix called `name` at the point, as an operator on vectors (k,).

    For a matrix with `sampled`, `samples` is the number of labels drawn per example (None: exact) and `seed` is the seed of the draw.
    """
    matrix = MATRICES[name]
    sampling = {"samples": samples, "seed": seed} if matrix.sampled else {}
    return matrix.build(point.objective, point.z, memory=graph_memory(point), **sampling)


def graph_memory(point: Point) -> float:
    """Return the memory for saved graphs in bytes: a quarter of the free memory, divided among the processes on a CPU."""
    from apet.machine import free_memory

    device = point.objective.device
    return free_memory(device) / 4 / (1 if device.type == "cuda" else point.processes.num_processes)


def settings(point: Point) -> str:
    """Return a text that identifies settings which affect the numbers at the point and may change between two starts of the run.

    The run's folder name identifies everything else. The text contains checksums of the point and of the other runs' final points, because
    those runs may have been trained again. Each start reads the points from disk with the same bytes.
    """
    import torch

    sums = " ".join(str(zlib.crc32(z.cpu().contiguous().numpy().data)) for z in (point.z, *point.others))
    return f"{torch.__version__} {point.z.device.type} {torch.get_num_threads()} {sums}"


def recorded(matrix: Any, point: Point, context: Context) -> Any:
    """Return the operator with its products saved to disk by the main process. All processes start with the products saved before."""
    from analyses.runs.checkpointed_operator import Recorded, kept
    from apet.machine import broadcast

    main = point.processes.is_main_process
    name = f"{type(matrix).__name__} {settings(point)}"
    return Recorded(matrix, context.folder, name, main, broadcast(point.processes, kept(context.folder, name) if main else None))


def gauss_newton_spectrum(point: Point) -> Spectrum:
    """Return the exact spectrum of the Gauss-Newton matrix. The task must not ask for text."""
    from landscape.spectra import spectrum_of_rows

    return spectrum_of_rows(gauss_newton_rows_of(point))
