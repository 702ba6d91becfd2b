"""Where in a tuned subspace something is asked of the loss: at the pretrained point, where a run ended, or on its way there.

A subspace is spanned by entries of the model, and z says how far each is from its pretrained value. Runs that tuned other entries
(another position seed, another k) are points of the space that all of their entries span together: there they can be compared. So are
runs of methods that displace whole tensors, where they kept it (`Spec.keep_end`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from analyses.runs.run_inputs import Context, Inputs, mounted_for, origin, scorer_for, subsets
from analyses.specs import SliceSpec, SpectrumSpec
from analyses.store import Row, Store
from apet.errors import MissingInput, UsageError

PointSpec = SpectrumSpec | SliceSpec
METHODS_FIELDS = ("model", "random_init", "task", "method", "max_length", "weights")  # what a slice shares with a method's run
SUBSPACE = ("model", "random_init", "task", "k", "matched", "subspace", "operations", "scope", "unit", "order", "position_seed")
PLACED = ("k", "matched", "unit", "order", "position_seed")  # which of the entries that the rest names are tuned


@dataclass(frozen=True)
class Point:
    """The subspace, and the place in it where something is asked for."""

    objective: Any  # landscape.Objective, the training loss
    z: Any  # Tensor (k,)
    processes: Any  # accelerate's Accelerator
    subspace: Any  # apet.subspaces.Coordinates, or a projection
    theta: Any  # Tensor (k,), the entries' pretrained values
    objective_on: Callable[[list], Any]  # the loss on other examples
    others: list[Any] = field(default_factory=list)  # Tensor (k,) each: where the runs `spec.to` ended
    many: Callable[[Any, Any], Any] | None = None  # the outputs at several points at once, where that pays
    methods: bool = False  # whether other methods than apet ended here or there, of whose entries most hardly move
    trajectory: Callable[[], tuple[list[int], np.ndarray]] | None = None  # steps, and z (steps, k), that the run `spec.at` kept


@contextmanager
def point(spec: PointSpec, found: Inputs, context: Context) -> Iterator[Point]:
    """Mount the subspace; the model is as it was when the block ends. Several processes take every so-many-th batch each."""
    import torch

    from apet.machine import accelerator_for, sum_over_processes
    from apet.subspaces import Coordinates, StackedForward, all_names, plain, stacked_is_faster
    from landscape.curvature import CrossEntropy, Objective

    model, scorer = found.loaded.model, scorer_for(spec, found)
    if spec.operations != "add":  # new parameters stay
        model = copy.deepcopy(model)
    examples, _ = subsets(spec, found)
    processes = accelerator_for(found.device, "no")
    if spec.samples is not None and processes.num_processes > 1:
        raise UsageError("samples are drawn batch by batch: take one process")
    ends = _ends(spec, found, model, scorer, examples, context)
    subspace, theta = ends.here[0], torch.zeros(ends.here[0].k)
    if isinstance(subspace, Coordinates):  # a projection's coordinates are not entries of a tensor
        subspace = subspace.union([entries for entries, _ in ends.others])
        theta = subspace.pull({name: plain(p).detach() for name, p in all_names(model).items()})
    several = spec.many_points and stacked_is_faster(model, subspace)
    many = StackedForward(model, subspace, scorer.logits) if several else None
    with subspace.attach(model) as attached:

        def outputs(z: torch.Tensor, batch: Any) -> torch.Tensor:
            attached.bind(z)
            return scorer.logits(model, batch)

        def objective_on(these: list) -> Objective:
            batches = list(scorer.batches(these, spec.batch))[processes.process_index :: processes.num_processes]
            if not batches:
                raise UsageError(f"{processes.num_processes} processes share {len(these)} examples in batches of {spec.batch}: lower batch")
            return Objective(
                outputs, CrossEntropy(), batches, subspace.k, device=found.device, total=lambda each: sum_over_processes(processes, each)
            )

        def embedded(z: Any, entries: Any) -> torch.Tensor:
            whole = torch.zeros(subspace.k)
            whole[slice(None) if entries is subspace else subspace.positions_of(entries)] = torch.as_tensor(z)
            return objective.vector(whole, "z")

        objective = objective_on(examples)
        others = [embedded(z, entries) for entries, z in ends.others]
        entries, z = ends.here
        yield Point(
            objective, embedded(z, entries), processes, subspace, theta, objective_on, others, many, ends.methods,
            None if spec.at is None else partial(_trajectory, Store(context.folder.parent), spec.at),
        )  # fmt: skip


@dataclass(frozen=True)
class _Ends:
    """(subspace, z in it) of the point itself and of each of the runs `spec.to`; all subspaces are of one space."""

    here: tuple[Any, np.ndarray]  # apet.subspaces.Coordinates, or a projection
    others: list[tuple[Any, np.ndarray]]
    methods: bool = False  # whether a run of another method than apet is among them


def _ends(spec: PointSpec, found: Inputs, model: Any, scorer: Any, examples: list, context: Context) -> _Ends:
    from apet.methods import tunable_space
    from apet.subspaces import Coordinates

    store = Store(context.folder.parent)
    methods = {spec.method, *(store.spec(run_id).get("method", "apet") for run_id in spec.to_runs if store.done(run_id))}
    whole = tunable_space(model, scope="all") if methods != {"apet"} else None
    if spec.method != "apet":
        assert whole is not None
        here = Coordinates.of_tensors(whole, {}), np.zeros(0, np.float32)
        if spec.at is not None:
            here = _end_of(spec.at, spec, found, context, model, None, whole)
        return _Ends(here, [_end_of(run_id, spec, found, context, model, None, whole) for run_id in spec.to_runs], True)
    mounted = mounted_for(spec, model, scorer, examples)
    with mounted.attached:
        own = mounted.attached.projection if mounted.placement is None else mounted.placement.coordinates
        z = np.zeros(mounted.k, np.float32) if spec.at is None else found_by(spec, found, context, own)
    others = [_end_of(run_id, spec, found, context, model, mounted.space, whole) for run_id in spec.to_runs]
    return _Ends((own if whole is None else own.within(whole), z), others, whole is not None)


def found_by(spec: PointSpec, found: Inputs, context: Context, subspace: Any) -> np.ndarray:
    """z (k,) at the end of the run `spec.at`, or at the look at `spec.at_step`; it must have tuned the same entries."""
    assert spec.at is not None
    store, _, arrays = _tuned(spec.at, spec, found, context, SUBSPACE)
    if "index" in arrays and not np.array_equal(arrays["index"], subspace.index):
        raise UsageError(f"{spec.at} placed its entries by {spec.order} on other examples: their order cannot be made again here")
    _check_positions(spec.at, arrays, subspace, spec.subspace)
    if spec.at_step is None:
        return arrays["z"]
    steps = trajectory_steps(store, spec.at)
    if spec.at_step not in steps:
        raise UsageError(f"step {spec.at_step} is no look of {spec.at}: there are {', '.join(map(str, steps)) or 'none'}")
    return arrays["trajectory"][steps.index(spec.at_step)]


def _tuned(
    run_id: str, spec: PointSpec, found: Inputs, context: Context, same: tuple[str, ...]
) -> tuple[Store, dict, dict[str, np.ndarray]]:  # fmt: skip
    """(store, spec, arrays) of a finished run of apet that agrees with `spec` in the fields `same`, in base model and in data."""
    store = Store(context.folder.parent)
    if not store.done(run_id):
        raise MissingInput(f"no finished run {run_id} in {store.root}")
    other, arrays = store.spec(run_id), store.arrays(run_id)
    if spec.many_points and _of_method(other):
        _check_kept(run_id, other, arrays)
    elif other["kind"] != "train" or "z" not in arrays or any(name.startswith("head.") for name in arrays):
        raise UsageError(f"{run_id} is no run of apet in words: only of those the optimum is a point of this subspace")
    same = (*same, *(["weights"] if spec.in_float32 else []))
    for name in (*same, *(["train_seed"] if spec.random_init else [])):  # which draws the weights
        if other[name] != getattr(spec, name):
            raise UsageError(
                f"{run_id} has {name} {other[name]}, this {spec.kind} {getattr(spec, name)}: they are not of the same subspace"
            )
    _check_origin(run_id, store.rows(run_id)[0], spec, found, other["weights"])
    return store, other, arrays


def _check_positions(run_id: str, arrays: dict[str, np.ndarray], coordinates: Any, subspace: str) -> None:
    """UsageError unless the run's entries, which follow from its spec, are still those that it tuned."""
    if subspace != "coordinates":
        return
    if "positions" not in arrays or arrays["positions"].tobytes().hex() != coordinates.digest:
        raise UsageError(f"{run_id} tuned other entries than its seed names now: it was made by another version, run it again")


def _check_origin(run_id: str, row: Row, spec: PointSpec, found: Inputs, dtype: str) -> None:
    """UsageError unless the run, which has rows like `row`, was made of the base model (in `dtype`) and the data that are here now."""
    here = origin(spec, found, dtype)
    if row.weights != here["weights"]:
        raise UsageError(f"{run_id} tuned {spec.model} with the weights {row.weights}, this model's weights are {here['weights']}")
    if row.data != here["data"]:
        raise UsageError(f"{run_id} was made of {spec.task} data {row.data}, the data here are {here['data']}: give the run's own --data")


def _of_method(spec: dict[str, Any]) -> bool:
    """Whether a run trained a whole method, not apet or a subspace of one."""
    return spec["kind"] == "train" and spec["method"] != "apet" and spec["subspace"] == "coordinates"


def _check_kept(run_id: str, other: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """UsageError unless a run of another method than apet kept a displacement of the model's own tensors."""
    from apet.methods import MERGEABLE

    method = other["method"]
    if method not in MERGEABLE:
        raise UsageError(f"{run_id} is a run of {method}, whose entries the model itself has not: it ended at no point of the model")
    if not any(name.startswith("end.") for name in arrays):
        raise UsageError(f"{run_id} is a run of {method} that did not keep where it ended: 'train --method {method} --keep-end' does")


def _end_of(run_id: str, spec: PointSpec, found: Inputs, context: Context, model: Any, space: Any, whole: Any) -> tuple[Any, np.ndarray]:
    """(coordinates, z) where another run ended, which may have tuned other entries of the same `space`, or else of the `whole` model."""
    from apet.methods import tunable_space
    from apet.subspaces import Coordinates, place

    shared = (*PLACED, *(["scope"] if whole else []))
    same = tuple(name for name in SUBSPACE if name not in shared)
    store, other, arrays = _tuned(run_id, spec, found, context, ("method", *same) if run_id == spec.at else same)
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
    """The fields that whatever is asked for at the run must share with it; with `methods` not only of runs of apet."""
    if not store.done(run_id):
        raise MissingInput(f"no finished run in {store.folder(run_id)}")
    spec = store.spec(run_id)
    if methods and _of_method(spec):
        _check_kept(run_id, spec, store.arrays(run_id))
        return {name: spec[name] for name in METHODS_FIELDS} | _drawn_from(spec)
    if spec["kind"] != "train" or spec["method"] != "apet":
        what = f"a {spec['kind']} run" + (f" of method {spec['method']}" if "method" in spec else "")
        raise UsageError(f"{run_id} is {what}: only runs of apet end at a point of the subspace")
    return {name: spec[name] for name in (*SUBSPACE, "max_length", "weights")} | _drawn_from(spec)


def _drawn_from(spec: dict[str, Any]) -> dict[str, Any]:
    """The examples that a run was trained on, and the seed of weights that it drew."""
    examples = {} if spec["examples"] is None else {"examples": spec["examples"]}  # those that it was trained on
    return examples | ({"train_seed": spec["train_seed"]} if spec["random_init"] else {})


def trajectory_steps(store: Store, run_id: str) -> list[int]:
    """The steps at which the run kept what it tuned; none unless it was made with `trajectory`."""
    arrays = store.arrays(run_id)
    return [int(step) for step in arrays["history"][:, 0]] if "trajectory" in arrays else []


def _trajectory(store: Store, run_id: str) -> tuple[list[int], np.ndarray]:
    """Return the steps at which the run kept what it tuned, and z (steps, k) there; no steps unless it was trained with `trajectory`."""
    steps = trajectory_steps(store, run_id)
    return steps, store.arrays(run_id)["trajectory"] if steps else np.empty((0, 0))


def along_trajectory(spec: SpectrumSpec, store: Store) -> list[SpectrumSpec]:
    """The spec at every step of its run's trajectory. UsageError where it names no run or one step, or the run kept none."""
    if spec.at is None:
        raise UsageError("spectra along a trajectory need the run that kept it", at=...)
    if spec.at_step is not None:
        raise UsageError(f"at_step = {spec.at_step} is one step of the trajectory, and spectra along it take every step")
    if not (steps := trajectory_steps(store, spec.at)):
        raise UsageError(f"{spec.at} kept no trajectory, which a run does with trajectory: true")
    return [replace(spec, at_step=step) for step in steps]


def named(spec: PointSpec) -> str:
    """Where it is, for the note of a row; "" for the pretrained point."""
    return "" if spec.at is None else f" at {spec.at}" + ("" if spec.at_step is None else f" step {spec.at_step}")


def columns_at(spec: PointSpec) -> dict[str, Any]:
    """Return the columns of a row that say where the point was taken from."""
    return {"at_run": spec.at or "", "at_step": spec.at_step}
