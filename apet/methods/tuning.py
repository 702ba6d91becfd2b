"""Make a model tunable: by a method of the table, by k entries of APET, or by a projected subspace.

One training loop serves all of them. k is the number of trainable scalars. A projected subspace (`apet.projections.projection_table`) can
replace the entries of apet, or all parameters of another method (for instance, the intrinsic dimension inside LoRA). k is then the length
of z. A classification head is not pretrained, so it is trained together with the other parameters and counted separately.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from apet.errors import UsageError, lookup, one_of
from apet.methods.operations import inject
from apet.methods.registry import METHODS
from apet.methods.tunable_model import TunableModel, classification_head
from apet.projections import project
from apet.subspaces import ParameterSpace, Scores, all_names, place, tensor_roles

Build = Callable[[nn.Module], TunableModel]


@dataclass(frozen=True)
class PlacementConfig:
    """The entries that `apet` tunes: k of them, or the number that the method `matched` tunes, placed by `apet.subspaces.place`.

    `operations` (see `apet.methods.operations`) name the candidates: existing entries for `add`, new ones for the others.
    """

    k: int | None = None
    matched: str | None = None
    position_seed: int = 0
    operations: tuple[str, ...] = ("add",)
    scope: str = ""
    unit: str = "entry"
    order: str = "random"
    scores: Callable[[ParameterSpace], Scores] | None = None  # for the order by score
    subspace: str = "coordinates"  # or a projection, of apet's space or of all parameters that another method tunes


def make_tunable(method: str, model: nn.Module, config: PlacementConfig = PlacementConfig()) -> TunableModel:
    """Make `model` trainable by `method`. `config` applies to apet and to projected subspaces.

    Raises UsageError for an unknown method, a k that is missing or larger than the space, and a placement that is not possible.
    """
    build = lookup(METHODS, method, "method").build or partial(_tune_entries, config=config)
    if config.subspace != "coordinates":
        build = partial(_tune_projection, build=None if method == "apet" else build, config=config)
    return _with_head(build, model)


def count_tuned(method: str, model: nn.Module) -> int:
    """Return k of a method other than apet, from the shapes of `model`. The model is not changed, and no memory is allocated."""
    one_of([name for name in METHODS if METHODS[name].build], method, "method")
    build = METHODS[method].build
    assert build is not None
    with torch.device("meta"):
        return _with_head(build, _shapes_only(model)).k


def tunable_space(model: nn.Module, operations: tuple[str, ...] = ("add",), scope: str = "", dry: bool = False) -> ParameterSpace:
    """Return the space of the tunable parameters after `operations`.

    The new parameters of `operations` are added to `model`, or with `dry` to a copy of it without values.
    """
    if dry and operations != ("add",):
        model = _shapes_only(model)
    new = inject(model, operations)
    all_tunable = [name for name in tensor_roles(model) if name not in classification_head(model)]
    return ParameterSpace.of(model, scope, all_tunable if "add" in operations else new)


def _with_head(build: Build, model: nn.Module) -> TunableModel:
    """Call `build`, and add the model's classification head, if there is one, to the trainable tensors."""
    head = {id(p) for p in classification_head(model).values()}
    tunable = build(model)
    head_tensors = {name: p for name, p in tunable.model.named_parameters() if id(p) in head}
    for p in head_tensors.values():
        p.requires_grad_(True)
    return replace(tunable, trainable=tunable.trainable | head_tensors, head=frozenset(head_tensors))


def _shapes_only(model: nn.Module) -> nn.Module:
    """Return a copy of `model` on the meta device, with the same tied parameters."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _k(model: nn.Module, config: PlacementConfig) -> int:
    if config.k is not None and config.matched is None:
        return config.k
    if config.k is None and config.matched is not None:
        return count_tuned(config.matched, model)
    raise UsageError("apet needs either the number of tuned parameters or a method to match, not both", k=..., matched=...)


def _tune_entries(model: nn.Module, config: PlacementConfig) -> TunableModel:
    """Attach the k entries that `config` selects."""
    k = _k(model, config)
    space = tunable_space(model, config.operations, config.scope)
    scores = config.scores(space) if config.scores else None
    placement = place(space, k, config.position_seed, config.unit, config.order, scores)
    attached = placement.coordinates.attach(model)
    return TunableModel(model, {"z": attached.z}, attached.write, space, placement, attached)


def _tune_projection(model: nn.Module, build: Build | None, config: PlacementConfig) -> TunableModel:
    """Attach z of a projection of apet's space (if `build` is None), or of the parameters in scope that `build` makes trainable.

    The classification head is not part of the projection.
    """
    k = _k(model, config)
    if build is None:
        space = tunable_space(model, config.operations, config.scope)
    else:
        head = {id(p) for p in classification_head(model).values()}
        inner = build(model)
        model, parameters = inner.model, all_names(inner.model)
        tuned = {id(p) for p in inner.trainable.values()} - head
        names = [name for name in tensor_roles(model) if id(parameters[name]) in tuned]
        space = ParameterSpace.of(model, config.scope or "all", names)
    attached = project(config.subspace, space, k, config.position_seed).attach(model)
    return TunableModel(model, {"z": attached.z}, attached.write, space, attached=attached)
