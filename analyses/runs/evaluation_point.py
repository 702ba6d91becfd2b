"""Points of a tuned subspace at which the loss is evaluated: the initial point, a run's final point, or a point of its trajectory.

Entries of the model span the subspace, and z holds the displacement of each entry from its pretrained value. Runs that tuned different
entries (another position seed, another k) can be compared in the space that the entries of all runs span together. Runs of methods that
displace whole tensors can be compared there too if they saved their displacement (`TrainSpec.keep_end`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from analyses.runs.mounting import mounted_for
from analyses.runs.run_inputs import Context, Inputs, origin, subsets
from analyses.runs.untuned import scorer_for
from analyses.specs import SliceSpec, SpectrumSpec, defaults_of
from analyses.store import Row, Store
from apet.errors import MissingInput, UsageError

PointSpec = SpectrumSpec | SliceSpec
# Fields in which a slice must agree with the run of another method.
METHODS_FIELDS = ("model", "random_init", "task", "method", "max_length", "prior_stderr", "prompt", "weights")
SUBSPACE = (
    "model", "random_init", "task", "k", "matched", "method_option", "subspace", "operations", "scope", "unit", "order", "position_seed",
)  # fmt: skip
# Fields that select entries within the space of the other fields.
PLACED = ("k", "matched", "method_option", "unit", "order", "position_seed")


@dataclass(frozen=True)
class Point:
    """A subspace, and the point in it at which the loss is evaluated."""

    objective: Any  # landscape.Objective, the training loss
    z: Any  # Tensor (k,)
    processes: Any  # accelerate's Accelerator
    subspace: Any  # apet.subspaces.Coordinates, or a projection
    theta: Any  # Tensor (k,), pretrained values of the entries
    objective_on: Callable[[list], Any]  # examples -> their loss as an Objective
    others: list[Any] = field(default_factory=list)  # Tensor (k,) each: final points of the runs `spec.to`
    many: Callable[[Any, Any], Any] | None = None  # outputs at several points at once, if faster
    methods: bool = False  # whether a run of another method than apet is involved; most of its entries barely move
    trajectory: Callable[[], tuple[list[int], np.ndarray]] | None = None  # -> steps and z (steps, k) recorded by the run `spec.at`


@contextmanager
def point(spec: PointSpec, inputs: Inputs, context: Context) -> Iterator[Point]:
    """Mount the subspace for the duration of the block and yield the point; the model is then restored. Processes share the batches."""
    from apet.methods import restored

    with restored(inputs.loaded.model), _attached(spec, inputs, context) as mounted:  # `operations` add parameters
        yield mounted


@contextmanager
def _attached(spec: PointSpec, inputs: Inputs, context: Context) -> Iterator[Point]:
    import torch

    from apet.machine import accelerator_for, sum_over_processes
    from apet.subspaces import Coordinates, all_names, plain, stacked_pass
    from landscape.curvature import CrossEntropy, Objective, SquaredError

    model, scorer = inputs.loaded.model, scorer_for(spec, inputs, context)
    criterion = SquaredError() if scorer.task.regresses else CrossEntropy()
    examples, _ = subsets(spec, inputs)
    processes = accelerator_for(inputs.device, "no")
    if spec.samples is not None and processes.num_processes > 1:
        raise UsageError(
            f"samples = {spec.samples}: labels are sampled batch by batch, which needs a single process, "
            f"but {processes.num_processes} were started"
        )
    ends = _ends(spec, inputs, model, scorer, examples, context)
    subspace, theta = ends.point[0], torch.zeros(ends.point[0].k)
    if isinstance(subspace, Coordinates):  # a projection's coordinates are not entries of a tensor
        subspace = subspace.union([entries for entries, _ in ends.others])
        theta = subspace.pull({name: plain(p).detach() for name, p in all_names(model).items()})
    trial = next(iter(scorer.batches(examples[:1], 1)))
    many = stacked_pass(model, subspace, scorer.logits, trial) if spec.many_points else None
    with subspace.attach(model) as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        def objective_on(subset: list) -> Objective:
            batches = list(scorer.batches(subset, spec.batch))[processes.process_index :: processes.num_processes]
            if not batches:
                raise UsageError(
                    f"{processes.num_processes} processes cannot share {len(subset)} examples in batches of {spec.batch}: lower batch"
                )
            return Objective(
                outputs, criterion, batches, subspace.k, device=inputs.device, total=lambda value: sum_over_processes(processes, value)
            )

        def embedded(z: Any, entries: Any) -> torch.Tensor:
            union = torch.zeros(subspace.k)
            union[slice(None) if entries is subspace else subspace.positions_of(entries)] = torch.as_tensor(z)
            return objective.vector(union, "z")

        objective = objective_on(examples)
        others = [embedded(z, entries) for entries, z in ends.others]
        entries, z = ends.point
        yield Point(
            objective, embedded(z, entries), processes, subspace, theta, objective_on, others, many, ends.methods,
            None if spec.at is None else partial(_trajectory, Store(context.folder.parent), spec.at),
        )  # fmt: skip


@dataclass(frozen=True)
class _Ends:
    """(subspace, z) of the point itself and of each run in `spec.to`. All subspaces belong to one parameter space."""

    point: tuple[Any, np.ndarray]  # apet.subspaces.Coordinates, or a projection
    others: list[tuple[Any, np.ndarray]]
    methods: bool = False  # whether any of the runs used another method than apet


def _ends(spec: PointSpec, inputs: Inputs, model: Any, scorer: Any, examples: list, context: Context) -> _Ends:
    from apet.methods import tunable_space
    from apet.subspaces import Coordinates

    store = Store(context.folder.parent)
    methods = {spec.method, *(store.spec(run_id).get("method", "apet") for run_id in spec.to_runs if store.done(run_id))}
    whole = tunable_space(model, scope="all") if methods != {"apet"} else None
    if spec.method != "apet":
        assert whole is not None
        centre = Coordinates.of_tensors(whole, {}), np.zeros(0, np.float32)
        if spec.at is not None:
            centre = _end_of(spec.at, spec, inputs, context, model, None, whole)
        return _Ends(centre, [_end_of(run_id, spec, inputs, context, model, None, whole) for run_id in spec.to_runs], True)
    mounted = mounted_for(spec, model, scorer, examples)
    with mounted.attached:
        subspace = mounted.attached.projection if mounted.placement is None else mounted.placement.coordinates
        z = np.zeros(mounted.k, np.float32) if spec.at is None else found_by(spec, inputs, context, subspace)
    others = [_end_of(run_id, spec, inputs, context, model, mounted.space, whole) for run_id in spec.to_runs]
    return _Ends((subspace if whole is None else subspace.within(whole), z), others, whole is not None)


def found_by(spec: PointSpec, inputs: Inputs, context: Context, subspace: Any) -> np.ndarray:
    """Return z (k,) of the run `spec.at` at its end, or at `spec.at_step` of its trajectory. The run must have tuned the same entries."""
    assert spec.at is not None
    store, _, arrays = _tuned(spec.at, spec, inputs, context, SUBSPACE)
    if "index" in arrays and not np.array_equal(arrays["index"], subspace.index):
        raise UsageError(f"{spec.at} ranked its entries by {spec.order} on other examples: that order cannot be reproduced here")
    _check_positions(spec.at, arrays, subspace, spec.subspace)
    if spec.at_step is None:
        return arrays["z"]
    steps = trajectory_steps(store, spec.at)
    if spec.at_step not in steps:
        raise UsageError(
            f"at_step = {spec.at_step} is not a recorded step of {spec.at}: recorded steps are {', '.join(map(str, steps)) or 'none'}"
        )
    return arrays["trajectory"][steps.index(spec.at_step)]


def _tuned(
    run_id: str, spec: PointSpec, inputs: Inputs, context: Context, same: tuple[str, ...]
) -> tuple[Store, dict, dict[str, np.ndarray]]:  # fmt: skip
    """Return (store, spec, arrays) of a finished run. Raise UsageError unless the fields `same`, base model and data agree with `spec`."""
    store = Store(context.folder.parent)
    if not store.done(run_id):
        raise MissingInput(f"no finished run {run_id} in {store.root}")
    other, arrays = store.spec(run_id), store.arrays(run_id)
    if store.rows(run_id)[0].task == spec.task_name:
        other["task"] = spec.task  # the task's file may have been moved
    if spec.many_points and _of_method(other):
        _check_kept(run_id, other, arrays)
    elif other["kind"] != "train" or "z" not in arrays or any(name.startswith("head.") for name in arrays):
        raise UsageError(f"{run_id} is not an apet run with label words: only such a run ends at a point of this subspace")
    same = (*same, *(["weights"] if spec.in_float32 else []))
    for name in (*same, *(["train_seed"] if spec.random_init else [])):  # the seed of the weights
        if (value := other.get(name, defaults_of(type(spec))[name])) != getattr(spec, name):  # a run may be older than the field
            raise UsageError(
                f"{run_id} has {name} {value}, but this {spec.kind} has {getattr(spec, name)}: the two are not in the same subspace"
            )
    _check_origin(run_id, store.rows(run_id)[0], spec, inputs, other["weights"])
    return store, other, arrays


def _check_positions(run_id: str, arrays: dict[str, np.ndarray], coordinates: Any, subspace: str) -> None:
    """Raise UsageError unless the run's spec still selects the entries that the run tuned."""
    if subspace != "coordinates":
        return
    if "positions" not in arrays or arrays["positions"].tobytes().hex() != coordinates.digest:
        raise UsageError(f"{run_id} tuned other entries than its position seed selects in this version of the program: run it again")


def _check_origin(run_id: str, row: Row, spec: PointSpec, inputs: Inputs, dtype: str) -> None:
    """Raise UsageError unless the run with rows like `row` used the present base model (in `dtype`) and the present data."""
    present = origin(spec, inputs, dtype)
    if row.weights != present["weights"]:
        raise UsageError(f"{run_id} tuned {spec.model} with weights {row.weights}, but this model has weights {present['weights']}")
    if row.data != present["data"]:
        raise UsageError(
            f"{run_id} used {spec.task} data {row.data}, but the present data are {present['data']}: give the run's own --data"
        )


def _of_method(spec: dict[str, Any]) -> bool:
    """Return whether a run trained all parameters of another method than apet, not a random projection of them."""
    return spec["kind"] == "train" and spec["method"] != "apet" and spec["subspace"] == "coordinates"


def _check_kept(run_id: str, other: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raise UsageError unless a run of another method than apet saved a displacement of the model's own tensors."""
    from apet.methods import method_named

    method, kept = other["method"], {name.partition(".")[0] for name in arrays}
    if not method_named(method).mergeable or ("end" not in kept and "new" in kept):
        raise UsageError(
            f"{run_id} is a run of {method}, which tunes new parameters: its final point is not a point of the base model's own entries"
        )
    if "head" in kept:
        raise UsageError(f"{run_id} trained a classification head, which is not a point of the base model's own entries", readout="words")
    if "end" not in kept:
        raise UsageError(
            f"{run_id} is a run of {method} that did not save its final point: train it again with 'train --method {method} --keep-end'"
        )


def _end_of(run_id: str, spec: PointSpec, inputs: Inputs, context: Context, model: Any, space: Any, whole: Any) -> tuple[Any, np.ndarray]:
    """Return (coordinates, z) of a run's final point. The run may have tuned other entries of the same `space`, or of the `whole` model."""
    from apet.methods import tunable_space
    from apet.subspaces import Coordinates, place

    shared = (*PLACED, *(["scope"] if whole else []))
    same = tuple(name for name in SUBSPACE if name not in shared)
    store, other, arrays = _tuned(run_id, spec, inputs, context, ("method", *same) if run_id == spec.at else same)
    if other["method"] != "apet":
        moved = [name for name in whole.names if f"end.{name}" in arrays]
        return Coordinates.of_tensors(whole, dict.fromkeys(moved)), np.concatenate([arrays[f"end.{name}"].ravel() for name in moved])
    space = tunable_space(model, scope=other["scope"]) if whole else space
    if "index" in arrays:
        coordinates = Coordinates(space, arrays["index"])
    else:
        requested = next(int(row.value) for row in store.rows(run_id) if row.quantity == "requested_k")
        coordinates = place(space, requested, other["position_seed"], other["unit"], other["order"]).coordinates
        _check_positions(run_id, arrays, coordinates, other["subspace"])
    return (coordinates.within(whole) if whole else coordinates), arrays["z"]


def fields_at(store: Store, run_id: str, methods: bool = False) -> dict[str, Any]:
    """Return the fields that a spectrum or slice at the run must share with it. `methods` permits other methods than apet."""
    if not store.done(run_id):
        raise MissingInput(f"no finished run in {store.folder(run_id)}")
    spec = store.spec(run_id)
    if methods and _of_method(spec):
        _check_kept(run_id, spec, store.arrays(run_id))
        return {name: spec[name] for name in METHODS_FIELDS if name in spec} | _drawn_from(spec)
    if spec["kind"] != "train" or spec["method"] != "apet":
        kind = f"a {spec['kind']} run" + (f" of method {spec['method']}" if "method" in spec else "")
        raise UsageError(f"{run_id} is {kind}: only training runs of method apet end at a point of a tuned subspace")
    names = (*SUBSPACE, "max_length", "prior_stderr", "prompt", "weights")
    return {name: spec[name] for name in names if name in spec} | _drawn_from(spec)


def _drawn_from(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the number of examples of a run, and its train seed if the seed drew the weights."""
    examples = {} if spec["examples"] is None else {"examples": spec["examples"]}
    return examples | ({"train_seed": spec["train_seed"]} if spec["random_init"] else {})


def trajectory_steps(store: Store, run_id: str) -> list[int]:
    """Return the steps at which the run recorded its tuned values; [] unless it was trained with `trajectory`."""
    arrays = store.arrays(run_id)
    return [int(step) for step in arrays["history"][:, 0]] if "trajectory" in arrays else []


def _trajectory(store: Store, run_id: str) -> tuple[list[int], np.ndarray]:
    """Return the recorded steps of the run and z (steps, k) at them. Both are empty unless the run was trained with `trajectory`."""
    steps = trajectory_steps(store, run_id)
    return steps, store.arrays(run_id)["trajectory"] if steps else np.empty((0, 0))


def along_trajectory(spec: SpectrumSpec, store: Store) -> list[SpectrumSpec]:
    """Return one spec per step of the run's trajectory. Raise UsageError without a run or a trajectory, and for a spec with a step."""
    if spec.at is None:
        raise UsageError("spectra along a trajectory need the run that recorded it", at=...)
    if spec.at_step is not None:
        raise UsageError(
            f"at_step = {spec.at_step} selects one step, but spectra along a trajectory use every step: leave out one of the two"
        )
    if not (steps := trajectory_steps(store, spec.at)):
        raise UsageError(f"{spec.at} recorded no trajectory: train it again", trajectory=True)
    return [replace(spec, at_step=step) for step in steps]


def named(spec: PointSpec) -> str:
    """Return the run and step of the point for a row's note; "" for the initial point."""
    return "" if spec.at is None else f" at {spec.at}" + ("" if spec.at_step is None else f" step {spec.at_step}")


def columns_at(spec: PointSpec) -> dict[str, Any]:
    """Return the columns of a row that identify the run and step of the point."""
    return {"at_run": spec.at or "", "at_step": spec.at_step}
