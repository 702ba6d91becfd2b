"""Recompute inputs of tuned layers in the backward pass instead of saving them for it.

The gradient of tuned entries needs the inputs of their layer, which a frozen model does not save. Most inputs are one cheap operation away
from tensors that autograd saves anyway. For instance, a norm's output follows from the norm's input, and the output of attention from its
weights and values. The recipe of a tensor x is derived from its autograd graph. So no assumptions about modules are needed, and in-place
operations are detected. An input without a known recipe is saved as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

Make = Callable[[], Tensor]


class RecomputeRecipe:
    """A recipe for recomputing a tensor. The result is kept from the first to the last use in a backward pass."""

    def __init__(self, node: Any, make: Make):
        self.node, self.make = node, make
        self.uses = self.left = 0
        self._value: Tensor | None = None

    def value(self) -> Tensor:
        if self._value is None:
            with torch.no_grad():
                self._value, self.left = self.make(), self.uses
        value, self.left = self._value, self.left - 1
        if self.left == 0:
            self._value = None
        return value


def recompute_instead_of_saving(x: Tensor) -> AbstractContextManager[Any]:
    """Let autograd save the recipe of x instead of x inside the `with` block, if x has a recipe."""
    recipe = None if _hooked() else _recipe_of(x)
    if recipe is None:
        return nullcontext()
    address, shape = x.data_ptr(), x.shape  # a hook that referred to x would keep it alive

    def pack(saved: Tensor) -> Tensor | RecomputeRecipe:
        if saved.data_ptr() != address or saved.shape != shape:
            return saved
        recipe.uses += 1
        return recipe

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.value() if isinstance(saved, RecomputeRecipe) else saved)


def _hooked() -> bool:
    """Return whether other hooks (gradient checkpointing) control the saved tensors. Recipes would undo their effect."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None  # pyright: ignore[reportAttributeAccessIssue]


def _recipe_of(x: Tensor) -> RecomputeRecipe | None:
    """Return the recipe of x, or None. All layers that read x share one recipe."""
    recipe: RecomputeRecipe | None = getattr(x, "_recipe", None)
    if recipe is not None and recipe.node is x.grad_fn:
        return recipe
    make = _recipe(x.grad_fn, tuple(x.shape))
    if make is None:
        return None
    x._recipe = RecomputeRecipe(x.grad_fn, make)  # type: ignore[attr-defined]
    return x._recipe  # type: ignore[attr-defined]


def _recipe(node: Any, shape: tuple[int, ...]) -> Make | None:
    """Return a function that computes the output of `node` (of `shape`) from saved tensors of the graph, or None."""
    if node is None or node.name() not in RECIPES:
        return None
    return RECIPES[node.name()](node, shape)


def _layer_norm(node: Any, shape: tuple[int, ...]) -> Make:
    def make() -> Tensor:
        y = (node._saved_input - node._saved_result1) * node._saved_result2
        y = y if node._saved_weight is None else y * node._saved_weight
        return y if node._saved_bias is None else y + node._saved_bias

    return make


def _mul(node: Any, shape: tuple[int, ...]) -> Make | None:
    """Return the recipe of a product, such as RMSNorm's two: hidden times inverse norm, then times weight.

    If one factor is not saved, its recipe is applied first.
    """
    factors = node._saved_self, node._saved_other
    missing = [i for i, factor in enumerate(factors) if factor is None]
    if not missing:
        return lambda: node._saved_self * node._saved_other
    inner = _recipe(node.next_functions[missing[0]][0], shape) if len(missing) == 1 else None
    if inner is None:
        return None
    return (lambda: inner() * node._saved_other) if missing == [0] else (lambda: node._saved_self * inner())


def _scale(node: Any, shape: tuple[int, ...]) -> Make | None:
    """Return the recipe of the last step of an RMSNorm with a tuned weight (`apet.subspaces.kernels.scale`)."""
    inner = _recipe(node.next_functions[0][0], shape)
    return inner and (lambda: node.saved_tensors[2] * inner())


def _bmm(node: Any, shape: tuple[int, ...]) -> Make | None:
    if node._saved_self is None or node._saved_mat2 is None:
        return None
    return lambda: torch.bmm(node._saved_self, node._saved_mat2)


def _view(node: Any, shape: tuple[int, ...]) -> Make | None:
    inner = _recipe(node.next_functions[0][0], tuple(node._saved_self_sym_sizes))
    return inner and (lambda: inner().reshape(shape))


def _clone(node: Any, shape: tuple[int, ...]) -> Make | None:
    inner = _recipe(node.next_functions[0][0], shape)
    return inner and (lambda: inner().contiguous())


def _transpose(node: Any, shape: tuple[int, ...]) -> Make | None:
    a, b = (_signed(dim) % len(shape) for dim in (node._saved_dim0, node._saved_dim1))
    before = list(shape)
    before[a], before[b] = before[b], before[a]
    inner = _recipe(node.next_functions[0][0], tuple(before))
    return inner and (lambda: inner().transpose(a, b))


def _permute(node: Any, shape: tuple[int, ...]) -> Make | None:
    dims = [_signed(dim) % len(shape) for dim in node._saved_dims]
    before = [0] * len(shape)
    for size, dim in zip(shape, dims, strict=True):
        before[dim] = size
    inner = _recipe(node.next_functions[0][0], tuple(before))
    return inner and (lambda: inner().permute(dims))


def _signed(dim: int) -> int:
    """Convert an unsigned 64-bit dimension to a signed one: autograd reports -1 as 2^64 - 1."""
    return dim - 2**64 if dim >= 2**63 else dim


RECIPES: dict[str, Callable[[Any, tuple[int, ...]], Make | None]] = {
    "NativeLayerNormBackward0": _layer_norm,
    "MulBackward0": _mul,
    "_ScaleBackward": _scale,
    "BmmBackward0": _bmm,
    "ViewBackward0": _view,
    "UnsafeViewBackward0": _view,
    "CloneBackward0": _clone,
    "TransposeBackward0": _transpose,
    "PermuteBackward0": _permute,
}
