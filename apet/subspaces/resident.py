"""Resident weights: a frozen tensor of the model that holds the tuned values, and tells autograd where they are.

The forward pass reads an ordinary tensor, so it costs what the frozen model's does. Operations on the weight are met
where they happen, by `__torch_function__`: a linear layer gets the trilinear kernels, an embedding a gather, anything
else a differentiable copy of the whole tensor. So any module works, called any number of times, tied or not.
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
    """Shares its storage with the frozen weight that it replaces; its tuned entries are `tuned()` (n,) or (B, n).

    A deep copy is an ordinary parameter that holds the values of the moment.
    """

    pattern: Pattern  # of the weight as a matrix, a vector as one row
    tuned: Callable[[], Tensor]
    flat: Tensor | None  # (n,), ascending, of the flattened weight, on the host; None: all
    _chosen: tuple[tuple[int, ...], Tensor, Pattern | None] | None = None  # see `_within`

    @staticmethod
    def of(weight: Tensor, flat: Tensor | None, values: Callable[[], Tensor], kernel: str | None = None) -> Resident:
        """Return what stands for `weight`: `flat` (n,) are ascending positions of the flattened weight, on the host; None: all of them."""
        self = weight.detach().as_subclass(Resident)
        self._is_param, self.flat = True, flat  # nn.Module keeps it among its parameters
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
            return _anyhow(func, *args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


def _pattern(shape: tuple[int, int], flat: Tensor | None, kernel: str | None, device: torch.device) -> Pattern:
    return FullPattern(shape, kernel, device) if flat is None else SparsityPattern.at(shape, flat, kernel, device)


@dataclass(frozen=True)
class Rows:
    """Distinct rows of a matrix, on the host and as an index (C,) on the matrix's device."""

    ids: tuple[int, ...]
    index: Tensor


def rows_of(weight: Tensor, rows: Rows) -> Tensor:
    """Return the chosen rows of a matrix, or elements of a vector. Rows of a resident weight keep their tuned entries."""
    if not isinstance(weight, Resident):
        return weight[rows.index]
    which, pattern = _within(weight, rows)
    chosen = plain(weight)[rows.index]
    if pattern is not None:
        chosen = chosen.as_subclass(Resident)
        chosen.tuned, chosen.pattern = lambda: weight.tuned()[..., which], pattern
    return chosen


def _within(weight: Resident, rows: Rows) -> tuple[Tensor, Pattern | None]:
    """Return (which of the tuned entries lie in these rows, their pattern in the chosen rows, None if there are none); kept."""
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
    """Return (which entries `flat` of a matrix (count, width) lie in the rows `ids`, their ascending positions in those rows alone)."""
    position = torch.full((count,), -1)
    position[list(ids)] = torch.arange(len(ids))
    row = position[flat // width]
    inside = torch.nonzero(row >= 0).squeeze(1)
    within, order = (row[inside] * width + flat[inside] % width).sort()
    return inside[order], within


def plain(value: Any) -> Any:
    """Return the weight as an ordinary tensor of the same storage."""
    if not isinstance(value, Resident):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def differentiable(value: Any) -> Any:
    """Return a resident weight as an ordinary tensor that depends on its tuned values; other arguments as they are."""
    if not isinstance(value, Resident):
        return type(value)(differentiable(each) for each in value) if type(value) in (list, tuple) else value
    z = value.tuned()
    if z.dim() == 2:
        raise NotPerExample("the tensor is not used example by example")
    return _Dense.apply(z, plain(value), value.pattern)


def _anyhow(func: Any, *args: Any, **kwargs: Any) -> Any:
    """`func` with every resident weight as a differentiable copy: right for any operation, dense."""
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
        return F.linear(x, weight) + _beside(bias, x)
    if not isinstance(weight, Resident) or weight.dim() != 2:
        return _anyhow(F.linear, x, weight, bias)
    return product(*_autocast(x, plain(weight), differentiable(bias)), weight.tuned(), weight.pattern)


def _conv1d(input: Tensor, mat1: Tensor, mat2: Tensor, **kwargs: Any) -> Tensor:
    """transformers' Conv1D is torch.addmm(bias, x, weight), the weight (in, out)."""
    bias, x, weight = input, differentiable(mat1), mat2
    if not isinstance(weight, Resident) or bias.dim() != 1 or kwargs:
        return _anyhow(torch.addmm, bias, x, weight, **kwargs)
    if isinstance(bias, Resident) and bias.tuned().dim() == 2:
        return product(x, plain(weight).t(), None, weight.tuned(), weight.pattern.transposed) + _beside(bias, x)
    return product(*_autocast(x, plain(weight).t(), differentiable(bias)), weight.tuned(), weight.pattern.transposed)


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What autocast would do to a linear layer's arguments: a custom function must do it itself."""
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
        raise NotImplementedError("an embedding with max_norm rewrites its weight: it cannot be tuned")
    if not isinstance(weight, Resident) or scale_grad_by_freq or not input.numel():
        return _anyhow(F.embedding, input, weight, padding_idx, None, norm_type, scale_grad_by_freq)
    if weight.tuned().dim() == 2:
        raise NotPerExample("an embedding is looked up for all examples at once")
    return _Lookup.apply(weight.tuned(), plain(weight), input, padding_idx, weight.pattern)


class _Lookup(Function):
    """Rows of a table; the gradient is summed over the tokens that are there, not over the whole table."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, ids: Tensor, padding: int | None, pattern: Pattern) -> Tensor:
        ctx.ids, ctx.padding, ctx.pattern, ctx.dtype = ids, padding, pattern, z.dtype
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, ids = grads[0].reshape(-1, grads[0].shape[-1]), ctx.ids.reshape(-1)
        count, pattern = len(ids), ctx.pattern
        # The row of the sums that each row of the table is summed in: that of a token which reads it, else one that stays zero.
        place = torch.full((pattern.shape[0],), count, device=g.device).index_put_((ids,), torch.arange(count, device=g.device))
        sums = torch.zeros(count + 1, g.shape[1], dtype=ctx.dtype, device=g.device).index_add(0, place[ids], g.to(ctx.dtype))
        if ctx.padding is not None:  # as in torch, its row has no gradient
            place[ctx.padding] = count
        if isinstance(pattern, FullPattern):
            return sums[place].flatten(), None, None, None, None
        return sums[place[pattern.rows], pattern.cols], None, None, None, None


def _times(input: Any, other: Any) -> Tensor:
    """Return a product with a vector of scales: RMSNorm's weight."""
    weight, x = (input, other) if isinstance(input, Resident) else (other, input)
    if weight.dim() == 1 and type(x) is Tensor and x.dim() > 1 and x.shape[-1] == len(weight) and x.dtype == weight.dtype:
        return scale(x, plain(weight), weight.tuned(), weight.pattern.cols)
    return _anyhow(torch.mul, input, other)


def _layer_norm(input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    if not any(isinstance(p, Resident) and p.tuned().dim() == 2 for p in (weight, bias)):
        return _anyhow(F.layer_norm, input, normalized_shape, weight, bias, eps)
    y = F.layer_norm(input, normalized_shape, None, None, eps)
    y = y if weight is None else y * (_beside(weight, y) if isinstance(weight, Resident) else weight)
    return y if bias is None else y + (_beside(bias, y) if isinstance(bias, Resident) else bias)


def _beside(vector: Resident, x: Tensor) -> Tensor:
    """`vector` (n,) once for each example of x (B, ..., n): (B, 1, ..., n), a function of values (B, k)."""
    z = vector.tuned()
    if len(x) != len(z):
        raise NotPerExample(f"the tensor meets {len(x)} rows, not {len(z)} examples")
    base = plain(vector).expand(len(z), -1)
    moved = base.index_add(1, vector.pattern.cols, (z - z.detach()).to(base.dtype))
    return moved.view(len(z), *[1] * (x.dim() - 2), -1)


def _as_it_is(func: Any) -> Callable[..., Any]:
    """An operation on the values of the moment, that no derivative passes through."""

    def on_plain(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*map(plain, args), **kwargs)

    return on_plain


def _no_move(weight: Resident, value: Any) -> None:
    raise RuntimeError("detach the coordinates before the model is moved or cast: its weights hold tuned values")


_DATA: Any = Tensor.data
_FLAG: Any = Tensor.requires_grad

OPERATIONS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.addmm: _conv1d,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _times),
    **{func: _as_it_is(func) for func in (Tensor.detach, Tensor.__repr__, _DATA.__get__)},
    _DATA.__set__: _no_move,
}

# What asks about the tensor and needs no derivative.
_METHODS = "requires_grad_ size dim numel is_floating_point is_complex is_contiguous stride element_size data_ptr __len__ __hash__"
_PROPERTIES = "shape dtype device requires_grad is_leaf grad ndim layout is_meta is_cuda _version"
METADATA = {
    *(getattr(Tensor, name) for name in _METHODS.split()),
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES.split()),
    _FLAG.__set__,
}
