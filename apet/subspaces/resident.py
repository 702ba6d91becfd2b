"""Resident weights: frozen tensors of the model that hold the tuned values and pass autograd the positions of the tuned entries.

The forward pass reads an ordinary tensor, so it costs as much as the frozen model's forward pass. `__torch_function__` intercepts the
operations on the weight: a linear layer uses the trilinear kernels, an embedding uses a gather, and any other operation uses a
differentiable copy of the whole tensor. So every module is supported, whether its weight is tied or used several times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from apet.subspaces.kernels import NotPerExample, product, scale
from apet.subspaces.sparsity_pattern import FullPattern, Pattern, SparsityPattern


class Resident(torch.Tensor):
    """A tensor that shares its storage with the frozen weight that it replaces. `tuned()`, (n,) or (B, n), returns its tuned entries.

    A deep copy is an ordinary parameter that holds the current values.
    """

    pattern: Pattern  # of the weight as a matrix; a vector is one row
    tuned: Callable[[], Tensor]
    flat: Tensor | None  # ascending positions (n,) in the flattened weight, on the host; None: all
    _chosen: tuple[tuple[int, ...], Tensor, Pattern | None] | None = None  # see `_within`

    @staticmethod
    def of(weight: Tensor, flat: Tensor | None, values: Callable[[], Tensor], kernel: str | None = None) -> Resident:
        """Return the replacement of `weight` whose tuned entries are `values()`.

        `flat` (n,) holds ascending positions in the flattened weight, on the host (None: all entries).
        """
        self = weight.detach().as_subclass(Resident)
        self._is_param, self.flat = True, flat  # so that nn.Module accepts it as a parameter
        columns = weight.shape[-1] if weight.dim() else 1
        self.tuned, self.pattern = values, _pattern((weight.numel() // columns, columns), flat, kernel, weight.device)
        return self

    def __deepcopy__(self, memo: dict) -> torch.nn.Parameter:
        return torch.nn.Parameter(plain(self).clone(), requires_grad=False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return torch.nn.Parameter(plain(self), requires_grad=False).__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OPERATIONS:
            return OPERATIONS[func](*args, **kwargs)
        if func not in METADATA:
            return _with_dense_copies(func, *args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


def _pattern(shape: tuple[int, int], flat: Tensor | None, kernel: str | None, device: torch.device) -> Pattern:
    return FullPattern(shape, kernel, device) if flat is None else SparsityPattern.at(shape, flat, kernel, device)


@dataclass(frozen=True)
class Rows:
    """Distinct rows of a matrix: `ids` on the host, and the same numbers as an index (C,) on the matrix's device."""

    ids: tuple[int, ...]
    index: Tensor


def rows_of(weight: Tensor, rows: Rows) -> Tensor:
    """Return the chosen rows of a matrix, or the chosen elements of a vector. Rows of a resident weight keep their tuned entries."""
    if not isinstance(weight, Resident):
        return weight[rows.index]
    which, pattern = _within(weight, rows)
    chosen = plain(weight)[rows.index]
    if pattern is not None:
        chosen = chosen.as_subclass(Resident)
        chosen.tuned, chosen.pattern = lambda: weight.tuned()[..., which], pattern
    return chosen


def _within(weight: Resident, rows: Rows) -> tuple[Tensor, Pattern | None]:
    """Return (indices of the tuned entries in these rows, their pattern in the chosen rows). The last result is cached.

    The pattern is None if no tuned entry lies in the rows.
    """
    if weight._chosen is None or weight._chosen[0] != rows.ids:
        width = 1 if weight.dim() == 1 else weight.shape[1]
        shape = (1, len(rows.ids)) if weight.dim() == 1 else (len(rows.ids), width)
        if weight.flat is None:
            which = (torch.tensor(rows.ids)[:, None] * width + torch.arange(width)).flatten()
            pattern = _pattern(shape, None, None, weight.device)
        else:
            which, flat = _entries_of_rows(weight.flat, rows.ids, len(weight), width)
            pattern = _pattern(shape, flat, None, weight.device) if len(flat) else None
        weight._chosen = rows.ids, which.to(weight.device), pattern
    return weight._chosen[1:]


def _entries_of_rows(flat: Tensor, ids: tuple[int, ...], count: int, width: int) -> tuple[Tensor, Tensor]:
    """Return (indices into `flat` of the entries in the rows `ids`, their ascending positions in the submatrix of these rows).

    `flat` holds positions in a flattened matrix (count, width).
    """
    position = torch.full((count,), -1)
    position[list(ids)] = torch.arange(len(ids))
    row = position[flat // width]
    inside = torch.nonzero(row >= 0).squeeze(1)
    within, order = (row[inside] * width + flat[inside] % width).sort()
    return inside[order], within


def plain(value: Any) -> Any:
    """Return a resident weight as an ordinary tensor that shares its storage. Other values are returned unchanged."""
    if not isinstance(value, Resident):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def differentiable(value: Any) -> Any:
    """Return a resident weight (also in a list or tuple) as an ordinary tensor that depends on its tuned values.

    Other values are returned unchanged. Raises NotPerExample if the tuned values are per example (B, n).
    """
    if not isinstance(value, Resident):
        return type(value)(differentiable(item) for item in value) if type(value) in (list, tuple) else value
    z = value.tuned()
    if z.dim() == 2:
        raise NotPerExample("the tensor is used for all examples together: its gradient cannot be split by example")
    return _Dense.apply(z, plain(value), value.pattern)


def _with_dense_copies(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `func` with a differentiable copy of every resident weight. The result is correct for any operation, but gradients are dense."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*map(differentiable, args), **{name: differentiable(value) for name, value in kwargs.items()})


class _Dense(Function):
    """The whole tensor as a function of its tuned values: the identity, with the gather as its adjoint."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern, ctx.dtype = pattern, z.dtype
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.pattern.take(grads[0]).to(ctx.dtype), None, None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = differentiable(input)
    if isinstance(bias, Resident) and bias.tuned().dim() == 2:
        return F.linear(x, weight) + _per_example(bias, x)
    if not isinstance(weight, Resident) or weight.dim() != 2:
        return _with_dense_copies(F.linear, x, weight, bias)
    return product(*_autocast(x, plain(weight), differentiable(bias)), weight.tuned(), weight.pattern)


def _conv1d(input: Tensor, mat1: Tensor, mat2: Tensor, **kwargs: Any) -> Tensor:
    """Compute transformers' Conv1D, which calls torch.addmm(bias, x, weight) with a weight of shape (in, out)."""
    bias, x, weight = input, differentiable(mat1), mat2
    if not isinstance(weight, Resident) or bias.dim() != 1 or kwargs:
        return _with_dense_copies(torch.addmm, bias, x, weight, **kwargs)
    if isinstance(bias, Resident) and bias.tuned().dim() == 2:
        return product(x, plain(weight).t(), None, weight.tuned(), weight.pattern.transposed) + _per_example(bias, x)
    return product(*_autocast(x, plain(weight).t(), differentiable(bias)), weight.tuned(), weight.pattern.transposed)


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast the arguments of a linear layer as autocast would. Autocast does not cast the arguments of custom functions."""
    device = x.device.type
    if x.dtype == torch.float64 or not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    if max_norm is not None:
        raise NotImplementedError("an embedding with max_norm cannot be tuned, because its forward pass rewrites the weight")
    if not isinstance(weight, Resident) or scale_grad_by_freq or not input.numel():
        return _with_dense_copies(F.embedding, input, weight, padding_idx, None, norm_type, scale_grad_by_freq)
    if weight.tuned().dim() == 2:
        raise NotPerExample("an embedding is looked up for all examples together: its gradient cannot be split by example")
    return _Lookup.apply(weight.tuned(), plain(weight), input, padding_idx, weight.pattern)


class _Lookup(Function):
    """A lookup of rows of a table. Its gradient is summed over the tokens of the batch, not over the whole table."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, ids: Tensor, padding: int | None, pattern: Pattern) -> Tensor:
        ctx.ids, ctx.padding, ctx.pattern, ctx.dtype = ids, padding, pattern, z.dtype
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, ids = grads[0].reshape(-1, grads[0].shape[-1]), ctx.ids.reshape(-1)
        count, pattern = len(ids), ctx.pattern
        # Each row of the table gets a row of `sums`: the number of a token that reads it, or the last row, which stays zero.
        sum_row = torch.full((pattern.shape[0],), count, device=g.device).index_put_((ids,), torch.arange(count, device=g.device))
        sums = torch.zeros(count + 1, g.shape[1], dtype=ctx.dtype, device=g.device).index_add(0, sum_row[ids], g.to(ctx.dtype))
        if ctx.padding is not None:  # as in torch, the padding row has no gradient
            sum_row[ctx.padding] = count
        if isinstance(pattern, FullPattern):
            return sums[sum_row].flatten(), None, None, None, None
        return sums[sum_row[pattern.rows], pattern.cols], None, None, None, None


def _times(input: Any, other: Any) -> Tensor:
    """Multiply elementwise. A product with a resident vector, such as RMSNorm's weight, has a sparse gradient."""
    weight, x = (input, other) if isinstance(input, Resident) else (other, input)
    if weight.dim() == 1 and type(x) is Tensor and x.dim() > 1 and x.shape[-1] == len(weight) and x.dtype == weight.dtype:
        return scale(x, plain(weight), weight.tuned(), weight.pattern.cols)
    return _with_dense_copies(torch.mul, input, other)


def _layer_norm(input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    if not any(isinstance(p, Resident) and p.tuned().dim() == 2 for p in (weight, bias)):
        return _with_dense_copies(F.layer_norm, input, normalized_shape, weight, bias, eps)
    y = F.layer_norm(input, normalized_shape, None, None, eps)
    y = y if weight is None else y * (_per_example(weight, y) if isinstance(weight, Resident) else weight)
    return y if bias is None else y + (_per_example(bias, y) if isinstance(bias, Resident) else bias)


def _per_example(vector: Resident, x: Tensor) -> Tensor:
    """Repeat `vector` (n,) for each example of x (B, ..., n): (B, 1, ..., n), as a function of the tuned values (B, k)."""
    z = vector.tuned()
    if len(x) != len(z):
        raise NotPerExample(f"the tensor is applied to {len(x)} rows, not {len(z)} examples: its gradient cannot be split by example")
    base = plain(vector).expand(len(z), -1)
    moved = base.index_add(1, vector.pattern.cols, (z - z.detach()).to(base.dtype))
    return moved.view(len(z), *[1] * (x.dim() - 2), -1)


def _without_derivative(func: Any) -> Callable[..., Any]:
    """Return `func` as an operation on the current values of resident weights, without derivatives."""

    def on_plain(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*map(plain, args), **kwargs)

    return on_plain


def _refuse_move(weight: Resident, value: Any) -> None:
    raise RuntimeError("detach the coordinates before you move or cast the model: its weights hold tuned values")


_DATA: Any = Tensor.data
_FLAG: Any = Tensor.requires_grad

OPERATIONS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.addmm: _conv1d,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _times),
    **{func: _without_derivative(func) for func in (Tensor.detach, Tensor.__repr__, _DATA.__get__)},
    _DATA.__set__: _refuse_move,
}

# Operations that only query the tensor and need no derivative.
_METHODS = "requires_grad_ size dim numel is_floating_point is_complex is_contiguous stride element_size data_ptr __len__ __hash__"
_PROPERTIES = "shape dtype device requires_grad is_leaf grad ndim layout is_meta is_cuda _version"
METADATA = {
    *(getattr(Tensor, name) for name in _METHODS.split()),
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES.split()),
    _FLAG.__set__,
}
