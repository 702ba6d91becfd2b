"""Where in a tuned subspace something is asked of the loss: at the pretrained point, where a run ended, or on its way there.

A subspace is spanned by entries of the model, and z says how far each is from its pretrained value. Runs that tuned other entries
(another position seed, another k) are points of the space that all of their entries span together: there they can be compared. So are
runs of methods that displace whole tensors, where they kept it (`Spec.keep_end`).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyses.runs.run_inputs import Context, Inputs, mounted_for, origin, scorer_for, subsets
from analyses.specs import Spec
from analyses.store import Row, Store
from apet.errors import MissingInput, UsageError

METHODS_FIELDS = ("model", "random_init", "task", "method", "max_length", "weights")  # what a slice shares with a method's run
SUBSPACE = ("model", "random_init", "task", "k", "matched", "subspace", "operations", "scope", "unit", "order", "position_seed")
PLACED = ("k", "matched", "unit", "order", "position_seed")  # which of the entries that the rest names are tuned


@dataclass(frozen=True)
class Point:
    """The subspace, and the place in it where something is asked for."""

    objective: Any  # landscape.Objective, the training loss
    z: Any  # Tensor (k,)
    labels: dict[str, list[str]]  # by layer and by kind of tensor, (k,) each; none of a projection
    processes: Any  # accelerate's Accelerator
    space: Any  # apet.subspaces.space.ParameterSpace
    index: np.ndarray  # (k,), ascending
    theta: Any  # Tensor (k,), the entries' pretrained values
    objective_on: Callable[[list], Any]  # the loss on other examples
    others: list[Any] = field(default_factory=list)  # Tensor (k,) each: where the runs `spec.to` ended
    many: Callable[[Any, Any], Any] | None = None  # the outputs at several points at once, where that pays
    methods: bool = False  # whether other methods than apet ended here or there, of whose entries most hardly move


@contextmanager
def point(spec: Spec, found: Inputs, context: Context) -> Iterator[Point]:
    """Mount the subspace; the model is as it was when the block ends. Several processes take every so-many-th batch each."""
    import torch

    from apet.machine import accelerator_for, total
    from apet.subspaces import Coordinates, Many, all_names, pays, plain
    from landscape.curvature import CrossEntropy, Objective

    model, scorer = found.loaded.model, scorer_for(spec, found)
    if spec.operations != "add":  # new parameters stay
        model = copy.deepcopy(model)
    examples, _ = subsets(spec, found)
    processes = accelerator_for(found.device, "no")
    if spec.samples is not None and processes.num_processes > 1:
        raise UsageError("samples are drawn batch by batch: take one process")
    ends = _ends(spec, found, model, scorer, examples, context)
    index = np.unique(np.concatenate([each for each, _ in (ends.here, *ends.others)]))
    if ends.projection is not None:  # its coordinates are no entries of a tensor
        subspace, theta, labels = ends.projection, torch.zeros(len(index)), {}
    else:
        subspace, labels = Coordinates(ends.space, index), ends.space.labels(index)
        theta = subspace.pull({name: plain(p).detach() for name, p in all_names(model).items()})
    several = spec.kind == "slice" and pays(model, subspace)
    many = Many(model, subspace, scorer.logits) if several else None
    with subspace.attach(model) as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        def objective_on(these: list) -> Objective:
            batches = list(scorer.batches(these, spec.batch))[processes.process_index :: processes.num_processes]
            if not batches:
                raise UsageError(f"{processes.num_processes} processes share {len(these)} examples in batches of {spec.batch}: lower batch")
            return Objective(outputs, CrossEntropy(), batches, len(index), device=found.device, total=lambda each: total(processes, each))

        def embedded(z: Any, entries: np.ndarray) -> torch.Tensor:
            whole = torch.zeros(len(index))
            whole[np.searchsorted(index, entries)] = torch.as_tensor(z)
            return objective.vector(whole, "z")

        objective = objective_on(examples)
        others = [embedded(z, entries) for entries, z in ends.others]
        entries, z = ends.here
        yield Point(
            objective, embedded(z, entries), labels, processes, ends.space, index, theta, objective_on, others, many, ends.methods,
        )  # fmt: skip


@dataclass(frozen=True)
class _Ends:
    """(entries of `space`, displacements of them) of the point itself and of each of the runs `spec.to`."""

    space: Any  # apet.subspaces.space.ParameterSpace
    here: tuple[np.ndarray, np.ndarray]
    others: list[tuple[np.ndarray, np.ndarray]]
    methods: bool = False  # whether a run of another method than apet is among them
    projection: Any = None  # of the point's subspace, where its coordinates are no entries


def _ends(spec: Spec, found: Inputs, model: Any, scorer: Any, examples: list, context: Context) -> _Ends:
    from apet.methods import space_of

    store = Store(context.folder.parent)
    methods = {spec.method, *(store.spec(run_id)["method"] for run_id in spec.to_runs if store.done(run_id))}
    whole = space_of(model, scope="all") if methods != {"apet"} else None
    if spec.method != "apet":
        here = (np.arange(0), np.zeros(0, np.float32)) if spec.at is None else _end_of(spec.at, spec, found, context, model, None, whole)
        return _Ends(whole, here, [_end_of(run_id, spec, found, context, model, None, whole) for run_id in spec.to_runs], True)
    mounted = mounted_for(spec, model, scorer, examples)
    with mounted.attached:
        projection = mounted.attached.projection if mounted.placement is None else None
        own = np.arange(mounted.k) if mounted.placement is None else mounted.placement.index
        z = np.zeros(mounted.k, np.float32) if spec.at is None else found_by(spec, found, context, own)
    others = [_end_of(run_id, spec, found, context, model, mounted.space, whole) for run_id in spec.to_runs]
    here = own if whole is None else whole.index_of(mounted.space, own)
    return _Ends(mounted.space if whole is None else whole, (here, z), others, whole is not None, projection)


def found_by(spec: Spec, found: Inputs, context: Context, index: np.ndarray) -> np.ndarray:
    """z (k,) at the end of the run `spec.at`, or at the look at `spec.at_step`; it must have tuned the same entries `index`."""
    assert spec.at is not None
    store, _, arrays = _tuned(spec.at, spec, found, context, SUBSPACE)
    if "index" in arrays and not np.array_equal(arrays["index"], index):
        raise UsageError(f"{spec.at} placed its entries by {spec.order} on other examples: their order cannot be made again here")
    _check_positions(spec.at, arrays, index, spec.subspace)
    if spec.at_step is None:
        return arrays["z"]
    steps = trajectory_steps(store, spec.at)
    if spec.at_step not in steps:
        raise UsageError(f"step {spec.at_step} is no look of {spec.at}: there are {', '.join(map(str, steps)) or 'none'}")
    return arrays["trajectory"][steps.index(spec.at_step)]


def _tuned(
    run_id: str, spec: Spec, found: Inputs, context: Context, same: tuple[str, ...]
) -> tuple[Store, dict, dict[str, np.ndarray]]:  # fmt: skip
    """(store, spec, arrays) of a finished run of apet that agrees with `spec` in the fields `same`, in base model and in data."""
    store = Store(context.folder.parent)
    if not store.done(run_id):
        raise MissingInput(f"no finished run {run_id} in {store.root}")
    other, arrays = store.spec(run_id), store.arrays(run_id)
    if spec.kind == "slice" and _of_method(other):
        _check_kept(run_id, other, arrays)
    elif other["kind"] != "train" or "z" not in arrays or any(name.startswith("head.") for name in arrays):
        raise UsageError(f"{run_id} is no run of apet in words: only of those the optimum is a point of this subspace")
    same = (*same, *(["weights"] if spec.kind == "slice" else []))  # spectra are of the pretrained ones
    for name in (*same, *(["train_seed"] if spec.random_init else [])):  # which draws the weights
        if other.get(name, getattr(Spec, name)) != getattr(spec, name):
            raise UsageError(
                f"{run_id} has {name} {other[name]}, this {spec.kind} {getattr(spec, name)}: they are not of the same subspace"
            )
    _check_origin(run_id, store.rows(run_id)[0], replace(spec, weights=other.get("weights", Spec.weights)), found)
    return store, other, arrays


def _check_positions(run_id: str, arrays: dict[str, np.ndarray], index: np.ndarray, subspace: str) -> None:
    """UsageError unless the run's entries, which follow from its spec, are still those that it tuned."""
    from apet.subspaces import digest

    if subspace != "coordinates":
        return
    if "positions" not in arrays or arrays["positions"].tobytes().hex() != digest(index):
        raise UsageError(f"{run_id} tuned other entries than its seed names now: it was made by another version, run it again")


def _check_origin(run_id: str, row: Row, spec: Spec, found: Inputs) -> None:
    """UsageError unless the run, which has rows like `row`, was made of the base model and the data that are here now."""
    here = origin(spec, found)
    if row.weights != here["weights"]:
        raise UsageError(f"{run_id} tuned {spec.model} with the weights {row.weights}, this model's weights are {here['weights']}")
    if row.data != here["data"]:
        raise UsageError(f"{run_id} was made of {spec.task} data {row.data}, the data here are {here['data']}: give the run's own --data")


def _of_method(spec: dict[str, Any]) -> bool:
    """Whether a run trained a whole method, not apet or a subspace of one."""
    return spec["kind"] == "train" and spec["method"] != "apet" and spec.get("subspace", "coordinates") == "coordinates"


def _check_kept(run_id: str, other: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """UsageError unless a run of another method than apet kept a displacement of the model's own tensors."""
    from apet.methods import DISPLACING

    method = other["method"]
    if method not in DISPLACING:
        raise UsageError(f"{run_id} is a run of {method}, whose entries the model itself has not: it ended at no point of the model")
    if not any(name.startswith("end.") for name in arrays):
        raise UsageError(f"{run_id} is a run of {method} that did not keep where it ended: 'train --method {method} --keep-end' does")


def _end_of(run_id: str, spec: Spec, found: Inputs, context: Context, model: Any, space: Any, whole: Any) -> tuple[np.ndarray, np.ndarray]:
    """(entries, z) where another run ended, which may have tuned other entries of the same `space`, or else of the `whole` model."""
    from apet.methods import space_of
    from apet.subspaces import place

    shared = (*PLACED, *(["scope"] if whole else []))
    same = tuple(name for name in SUBSPACE if name not in shared)
    store, other, arrays = _tuned(run_id, spec, found, context, ("method", *same) if run_id == spec.at else same)
    if other["method"] != "apet":
        kept = [(i, arrays[f"end.{name}"].ravel()) for i, name in enumerate(whole.names) if f"end.{name}" in arrays]
        entries = [whole.offsets[i] + np.arange(len(change)) for i, change in kept]
        return np.concatenate(entries), np.concatenate([change for _, change in kept])
    space = space_of(model, scope=other["scope"]) if whole else space
    if "index" in arrays:
        index = arrays["index"]
    else:
        requested = next(int(row.value) for row in store.rows(run_id) if row.quantity == "requested_k")
        index = place(space, requested, other["position_seed"], other["unit"], other["order"]).index
        _check_positions(run_id, arrays, index, other["subspace"])
    return (whole.index_of(space, index) if whole else index), arrays["z"]


def fields_at(store: Store, run_id: str, methods: bool = False) -> dict[str, Any]:
    """The fields that whatever is asked for at the run must share with it; with `methods` not only of runs of apet."""
    if not store.done(run_id):
        raise MissingInput(f"no finished run in {store.folder(run_id)}")
    spec = store.spec(run_id)
    if methods and _of_method(spec):
        _check_kept(run_id, spec, store.arrays(run_id))
        return {name: spec[name] for name in METHODS_FIELDS} | _drawn_from(spec)
    if spec["kind"] != "train" or spec["method"] != "apet":
        raise UsageError(f"{run_id} is a {spec['kind']} run of method {spec['method']}: only runs of apet end at a point of the subspace")
    return {name: spec.get(name, getattr(Spec, name)) for name in (*SUBSPACE, "max_length", "weights")} | _drawn_from(spec)


def _drawn_from(spec: dict[str, Any]) -> dict[str, Any]:
    """The examples that a run was trained on, and the seed of weights that it drew."""
    examples = {} if spec["examples"] is None else {"examples": spec["examples"]}  # those that it was trained on
    return examples | ({"train_seed": spec["train_seed"]} if spec["random_init"] else {})


def trajectory_steps(store: Store, run_id: str) -> list[int]:
    """The steps at which the run kept what it tuned; none unless it was made with `trajectory`."""
    arrays = store.arrays(run_id)
    return [int(step) for step in arrays["history"][:, 0]] if "trajectory" in arrays else []


def named(spec: Spec) -> str:
    """Where it is, for the note of a row; "" for the pretrained point."""
    return "" if spec.at is None else f" at {spec.at}" + ("" if spec.at_step is None else f" step {spec.at_step}")


def columns_at(spec: Spec) -> dict[str, Any]:
    """Return the columns of a row that say where the point was taken from."""
    return {"at_run": spec.at or "", "at_step": spec.at_step}


def matrix_at(point: Point, matrix: str, samples: int | None = None, seed: int = 0) -> Any:
    """The matrix as an operator."""
    from landscape.curvature import EmpiricalFisher, GaussNewton, Hessian

    memory = graph_memory(point)
    if matrix == "ggn":
        return GaussNewton(point.objective, point.z, memory=memory, samples=samples, seed=seed)
    return {"hessian": Hessian, "fisher": EmpiricalFisher}[matrix](point.objective, point.z, memory=memory)


def graph_memory(point: Point) -> float:
    """Bytes in which graphs may be kept: a quarter of what is free, which processes on one CPU share."""
    from apet.machine import free_memory

    device = point.objective.device
    return free_memory(device) / 4 / (1 if device.type == "cuda" else point.processes.num_processes)


def settings(point: Point) -> str:
    """What numbers at the point depend on, beyond rounding, and may change between two starts of the run, whose folder names the rest.

    The runs that it lies between may have been made anew: their z are read from the disk, so that their bytes are the same at each start.
    """
    import torch

    sums = " ".join(str(zlib.crc32(z.cpu().contiguous().numpy().data)) for z in (point.z, *point.others))
    return f"{torch.__version__} {point.z.device.type} {torch.get_num_threads()} {sums}"


def recorded(matrix: Any, point: Point, context: Context) -> Any:
    """The same with its products on the disk, by the main process; all begin with those that it finds."""
    from analyses.runs.checkpointed_operator import Recorded, kept
    from apet.machine import shared

    main = point.processes.is_main_process
    name = f"{type(matrix).__name__} {settings(point)}"
    return Recorded(matrix, context.folder, name, main, shared(point.processes, kept(context.folder, name) if main else None))


def gauss_newton_rows_of(point: Point, progress: Callable[[int, int], None] | None = None) -> Any:
    """Rows (n (C - 1), k) whose Gram matrix is the Gauss-Newton matrix of label words, those of all processes."""
    from apet.machine import gathered
    from apet.subspaces import NotPerExample
    from landscape.spectra import gauss_newton_rows

    try:
        rows = gauss_newton_rows(point.objective, point.z, each=True, progress=progress)
    except NotPerExample:  # an entry of a table that all examples share
        rows = gauss_newton_rows(point.objective, point.z, each=False, progress=progress)
    return gathered(point.processes, rows)  # rows of zeros add nothing


def gauss_newton_spectrum(point: Point) -> Any:
    """The exact spectrum of the Gauss-Newton matrix of label words."""
    from landscape.spectra import of_rows

    return of_rows(gauss_newton_rows_of(point))
