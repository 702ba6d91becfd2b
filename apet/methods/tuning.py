"""Make a model tunable: by a method of the table, by k entries of APET, or by a projected subspace.

One training loop serves all of them. k is the number of trainable scalars. A projected subspace (`apet.projections.projection_table`) can
replace the entries of apet, or all parameters of another method (for instance, the intrinsic dimension inside LoRA). k is then the length
of z. A classification head is not pretrained, so it is trained together with the other parameters and counted separately.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from apet.errors import UsageError, one_of
from apet.methods.method import Method
from apet.methods.method_options import read_options
from apet.methods.operations import inject
from apet.methods.registry import BASELINE_NAMES, METHODS, method_named
from apet.methods.tunable_model import TunableModel, classification_head
from apet.projections import project
from apet.subspaces import ParameterSpace, Scores, all_names, place, tensor_roles

Build = Callable[[nn.Module], TunableModel]


@dataclass(frozen=True)
class PlacementConfig:
    """The entries that `apet` tunes: k of them, or the number that the method `matched` tunes, placed by `apet.subspaces.place`.

    For another method, k is a request that its dial sets (`chosen_options`), unless a projected subspace has k dimensions. `options` are
    options of the method, or of the method `matched` if the method is apet, as text (`apet.methods.method_options`).
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
    options: str = ""


def make_tunable(method: str, model: nn.Module, config: PlacementConfig = PlacementConfig()) -> TunableModel:
    """Make `model` trainable by `method`. `config` applies to apet and to projected subspaces, and gives other methods their options.

    Raises UsageError for an unknown method, an option that it does not have, a k that is missing or larger than the space, and a placement
    that is not possible.
    """
    record, projected = method_named(method), config.subspace != "coordinates"
    if record.build is None:
        tune = partial(_tune_projection, build=None) if projected else _tune_entries
        build = partial(tune, config=config, k=_k(model, config, config.options))
    elif projected:
        inner = partial(record.build, **chosen_options(method, model, config.options))
        build = partial(_tune_projection, build=inner, config=config, k=_k(model, config, ""))
    else:
        options = chosen_options(method, model, config.options, config.k)
        return replace(_with_head(partial(record.build, **options), model), options=options)
    return _with_head(build, model)


def chosen_options(method: str, model: nn.Module, text: str = "", k: int | None = None) -> dict[str, Any]:
    """Return the options of a method other than apet that differ from their default.

    text: options as users write them (`apet.methods.method_options`).
    k: a requested number of tuned parameters. The method's dial gets the value whose number of tuned parameters is nearest to k.

    Raises UsageError for an option that the method does not have, and for a k without a dial or with a dial that `text` sets.
    """
    record = method_named(method)
    options = read_options(record, text)
    if k is None:
        return options
    if not record.dial:
        raise UsageError(f"{method} has no option that sets its number of tuned parameters: leave out k = {k}")
    if record.dial in options:
        raise UsageError(
            f"k = {k} sets the option {record.dial} of {method}, but {record.dial} = {options[record.dial]} is given too: leave one out"
        )
    return options | {record.dial: _nearest(record, options, model, k)}


def tokens_taken(method: str, model: nn.Module, text: str = "", k: int | None = None) -> int:
    """Return the number of positions that a method takes from the text, with the arguments of `chosen_options`."""
    record = method_named(method)
    if not record.virtual_tokens:
        return 0
    return chosen_options(method, model, text, k).get(record.virtual_tokens, record.options[record.virtual_tokens].default)


def count_tuned(method: str, model: nn.Module, text: str = "", k: int | None = None) -> int:
    """Return the number of parameters that a method other than apet tunes, with the arguments of `chosen_options`.

    The number follows from the shapes of `model`, which is not changed. No memory is allocated, except for a tuner of peft that
    decomposes the weights.
    """
    one_of((*(name for name in METHODS if METHODS[name].build), *BASELINE_NAMES), method, "method")
    return _count(method_named(method), model, chosen_options(method, model, text, k))


def _count(record: Method, model: nn.Module, options: dict[str, Any]) -> int:
    assert record.build is not None
    build = partial(record.build, **options)
    loaded = not any(p.is_meta for p in model.parameters())
    try:
        with torch.device("meta"):
            return _with_head(build, _shapes_only(model)).k
    except RuntimeError as error:  # without values there is nothing to decompose
        if not loaded:
            raise UsageError(f"{record.name} computes with the weights, so its number of tuned parameters needs a loaded model") from error
    except UsageError:
        if not loaded:
            raise
    with torch.random.fork_rng():
        return _with_head(build, copy.deepcopy(model)).k


def _nearest(record: Method, options: dict[str, Any], model: nn.Module, k: int) -> int:
    """Return the value of the method's dial whose number of tuned parameters is nearest to k (the smaller of two equally near values)."""

    @cache
    def count(value: int) -> float:
        try:
            return _count(record, model, options | {record.dial: value})
        except UsageError:
            if value == 1:
                raise
            return math.inf  # larger than the method permits

    slope = count(2) - count(1)
    if not slope > 0:
        raise UsageError(f"the number of tuned parameters of {record.name} does not grow with {record.dial}: leave out k = {k}")
    low, high = 1, 2 if slope == math.inf else max(2, 1 + math.ceil((k - count(1)) / slope))  # exact if the number is linear
    while count(high) < k:
        low, high = high, 2 * high
    low = high - 1 if count(high - 1) <= k else low
    while high - low > 1:  # count(low) <= k <= count(high), unless k is below count(1)
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= k else (low, middle)
    return min((low, high), key=lambda value: abs(count(value) - k))


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


def _k(model: nn.Module, config: PlacementConfig, options: str) -> int:
    """Return the k of `config`, where `options` belong to the method `matched`."""
    if config.k is not None and config.matched is None:
        return config.k
    if config.k is None and config.matched is not None:
        return count_tuned(config.matched, model, options)
    raise UsageError("apet needs either the number of tuned parameters or a method to match, not both", k=..., matched=...)


def _tune_entries(model: nn.Module, config: PlacementConfig, k: int) -> TunableModel:
    """Attach the k entries that `config` selects."""
    space = tunable_space(model, config.operations, config.scope)
    scores = config.scores(space) if config.scores else None
    placement = place(space, k, config.position_seed, config.unit, config.order, scores)
    attached = placement.coordinates.attach(model)
    return TunableModel(model, {"z": attached.z}, attached.write, space, placement, attached)


def _tune_projection(model: nn.Module, build: Build | None, config: PlacementConfig, k: int) -> TunableModel:
    """Attach z of a projection of apet's space (if `build` is None), or of the parameters in scope that `build` makes trainable.

    The classification head is not part of the projection.
    """
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
