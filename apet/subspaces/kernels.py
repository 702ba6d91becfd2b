"""The trilinear form behind tunable entries of a weight, and its three contractions.

For a weight W (m, n) with tuned scalars z_j at entries (r_j, c_j), inputs x (t, n) and output gradients g (t, m),

    T(g, x, z) = sum_t sum_j z_j g[t, r_j] x[t, c_j].

Contracted over (g, x) it is the gradient of z, over (x, z) the sparse forward, over (g, z) the sparse input gradient:
`sample` and `scatter`, the latter on the entries or on their transpose. They are closed under differentiation: the
backward of each is made of the other. So derivatives of any order build no dense gradient of W unless that is faster.
Each contraction has three kernels, chosen by the constants in `apet.subspaces.kernel_costs` and the sizes.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from apet.subspaces.kernel_costs import current
from apet.subspaces.recompute import instead_of

warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are implicitly)")

KERNELS = ("gather", "sampled", "dense")


class NotPerExample(RuntimeError):
    """A tuned tensor was used outside of any example, so its gradient cannot be split among them."""


class Entries:
    """k distinct places of a matrix of `shape` (m, n), kept row by row: `starts` (m + 1,) and `cols` (k,), int32.

    `order` (k,) says which entry of z each place belongs to, None: in their own order. `kernel` overrides the choice by
    size: gather (products of gathered columns), sampled (a sampled dense-dense product), dense (a dense product, then
    its entries). `occupied` says how many rows and columns have an entry: as numbers, so that no kernel asks the device for them.
    """

    def __init__(
        self, shape: tuple[int, int], starts: Tensor, cols: Tensor, occupied: tuple[int, int], order: Tensor | None = None,
        kernel: str | None = None,
    ):  # fmt: skip
        self.shape, self.starts, self.cols, self.order, self.k = shape, starts, cols, order, len(cols)
        self.occupied, self.kernel = occupied, kernel or cheapest(shape, self.k)

    @classmethod
    def at(cls, shape: tuple[int, int], flat: Tensor, kernel: str | None = None, device: torch.device | str = "cpu") -> Entries:
        """The entries, on `device`, at ascending places `flat` (k,) of the flattened matrix, which are on the host."""
        rows, cols = flat // shape[1], flat % shape[1]
        occupied = int(torch.bincount(rows).count_nonzero()), int(torch.bincount(cols).count_nonzero())
        return cls(shape, _starts(rows, shape[0]).to(device), cols.int().to(device), occupied, None, kernel)

    @property
    def rows(self) -> Tensor:  # (k,)
        return self._few_rows if self.kernel == "gather" else self._rows()

    def _rows(self) -> Tensor:
        return torch.repeat_interleave(self.starts.diff().long(), output_size=self.k)

    @cached_property
    def _few_rows(self) -> Tensor:
        """Kept where they are few and asked for in every product."""
        return self._rows()

    @property
    def flat(self) -> Tensor:  # (k,)
        return self.rows * self.shape[1] + self.cols

    @cached_property
    def needed(self) -> tuple[Tensor | None, Entries]:
        """(the columns that occur, the same entries in a matrix of only these); (None, self) where most occur."""
        (m, n), count = self.shape, self.occupied[1]
        if 2 * count > n:
            return None, self
        there = torch.zeros(n, dtype=torch.int64, device=self.cols.device).index_fill_(0, self.cols.long(), 1)
        position = there.cumsum(0) - 1  # among the columns that occur
        target = torch.where(there > 0, position, count)  # the others are written to one place more, and cut off
        columns = target.new_empty(count + 1).scatter_(0, target, torch.arange(n, device=target.device))[:count]
        return columns, Entries((m, count), self.starts, position[self.cols].int(), self.occupied, self.order, self.kernel)

    @cached_property
    def transposed(self) -> Entries:
        """The same entries of the transposed matrix, in the same order of z."""
        rows = self.rows
        order = torch.argsort(self.cols.long() * self.shape[0] + rows)
        starts = _starts(self.cols[order], self.shape[1])
        (m, n), (occupied_rows, occupied_cols) = self.shape, self.occupied
        back = order if self.order is None else self.order[order]
        return Entries((n, m), starts, rows[order].int(), (occupied_cols, occupied_rows), back, self.kernel)

    def of_z(self, z: Tensor) -> Tensor:
        """z (k,) in the order of the places."""
        return z if self.order is None else z[self.order]

    def to_z(self, values: Tensor) -> Tensor:
        """Values (..., k) in the order of the places, put in z's."""
        return values if self.order is None else torch.empty_like(values).index_copy_(-1, self.order, values)


def _starts(rows: Tensor, m: int) -> Tensor:
    """Where each of m rows begins among ascending ones (k,), and where the last ends: int32 (m + 1,)."""
    return torch.searchsorted(rows, torch.arange(m + 1, dtype=rows.dtype, device=rows.device)).int()


def cheapest(shape: tuple[int, int], k: int) -> str:
    """The kernel that takes least time for k entries of a matrix of `shape`, by the constants that are in use."""
    costs = current()
    return min(KERNELS, key=lambda kernel: costs.of(kernel, shape, k))


def product(x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, entries: Entries) -> Tensor:
    """x (..., n) -> x W' + bias (..., m), bitwise F.linear's, differentiable in x, bias and z any number of times.

    `weight` holds z's values already (resident): it is not differentiated. z is (k,), or (B, k) with x (B, ..., n): a
    copy of the same z for each example, whose gradient holds each example's own. Of x only the needed columns are kept.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad or (bias is not None and bias.requires_grad))):
        return F.linear(x, weight, bias)
    if z.dim() == 2 and len(x) != len(z):
        raise NotPerExample(f"the weight meets {len(x)} rows, not {len(z)} examples")
    columns, compact = entries.needed
    if columns is not None:
        return _Product.apply(x, x.index_select(-1, columns), z, weight, bias, entries, compact)
    with instead_of(x):
        return _Product.apply(x, x, z, weight, bias, entries, compact)


def scale(x: Tensor, weight: Tensor, z: Tensor, flat: Tensor) -> Tensor:
    """weight x, an RMSNorm's last step: weight (n,) resident with z (k,) or (B, k) at `flat`, x (..., n) as for `product`."""
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad)):
        return weight * x
    return _Scale.apply(x, x.index_select(-1, flat), z, weight, flat)


def sample(g: Tensor, x: Tensor, entries: Entries) -> Tensor:
    """sum_t g[t, r_j] x[t, c_j]: (k,) from g (..., m) and x (..., n), differentiable any number of times."""
    return _Sample.apply(g, x, entries)


def scatter(z: Tensor, x: Tensor, entries: Entries) -> Tensor:
    """y[t, r_j] += z_j x[t, c_j]: (..., m) from z (k,) and x (..., n), differentiable any number of times."""
    return _Scatter.apply(z, x, entries)


class _Product(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kept: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, entries: Entries, compact: Entries
    ) -> Tensor:
        ctx.save_for_backward(kept, z, weight if ctx.needs_input_grad[0] else None)
        ctx.entries, ctx.compact, ctx.bias = entries, compact, None if bias is None else bias.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (kept, z, weight) = grads, ctx.saved_tensors
        x_needed, _, z_needed, _, bias_needed, _, _ = ctx.needs_input_grad
        dx = _input_gradient(g, weight, z, ctx.entries) if x_needed else None
        each = z.dim() == 2
        dz = (_sample_each if each else sample)(g, kept, ctx.compact).to(z.dtype) if z_needed else None
        dbias = _rows(g).sum(0).to(ctx.bias) if bias_needed else None
        return dx, None, dz, None, dbias, None, None


def _input_gradient(g: Tensor, weight: Tensor, z: Tensor, entries: Entries) -> Tensor:
    if not torch.is_grad_enabled():  # a first derivative needs no transposed entries
        return g @ weight
    return product(g, weight.t(), None, z, entries.transposed)


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, z: Tensor, weight: Tensor, flat: Tensor) -> Tensor:
        ctx.save_for_backward(kept, z, weight)
        ctx.flat = flat
        return weight * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (kept, z, weight) = grads, ctx.saved_tensors
        dx = scale(g, weight, z, ctx.flat).to(kept.dtype) if ctx.needs_input_grad[0] else None
        terms = _wide(g.index_select(-1, ctx.flat)) * _wide(kept)
        dz = terms.reshape(*z.shape[:-1], -1, z.shape[-1]).sum(-2).to(z.dtype) if ctx.needs_input_grad[2] else None
        return dx, None, dz, None, None


class _Sample(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.entries = entries
        return SAMPLE[entries.kernel](_rows(g), _rows(x), entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v,), (g, x) = grads, ctx.saved_tensors
        dg = scatter(v, x, ctx.entries).to(g.dtype) if ctx.needs_input_grad[0] else None
        dx = scatter(v, g, ctx.entries.transposed).to(x.dtype) if ctx.needs_input_grad[1] else None
        return dg, dx, None


class _Scatter(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(z, x)
        ctx.entries = entries
        y = SCATTER[entries.kernel](z.to(x.dtype), _rows(x), entries)
        return y.view(*x.shape[:-1], entries.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (h,), (z, x) = grads, ctx.saved_tensors
        dz = sample(h, x, ctx.entries).to(z.dtype) if ctx.needs_input_grad[0] else None
        dx = scatter(z, h, ctx.entries.transposed).to(x.dtype) if ctx.needs_input_grad[1] else None
        return dz, dx, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _wide(x: Tensor) -> Tensor:
    """Sums over tokens are kept in fp32 at least; sparse kernels know no narrower type."""
    return x.float() if x.dtype.itemsize < 4 else x


def _sample_gather(g: Tensor, x: Tensor, entries: Entries) -> Tensor:
    return entries.to_z((_wide(g.index_select(1, entries.rows)) * _wide(x.index_select(1, entries.cols))).sum(0))


def _sample_sampled(g: Tensor, x: Tensor, entries: Entries) -> Tensor:
    g, x = _wide(g), _wide(x)
    zeros = torch.sparse_csr_tensor(entries.starts, entries.cols, x.new_zeros(entries.k), entries.shape)
    return entries.to_z(torch.sparse.sampled_addmm(zeros, g.t(), x, beta=0.0).values())


def _sample_dense(g: Tensor, x: Tensor, entries: Entries) -> Tensor:
    return entries.to_z(_wide(g.t() @ x).flatten()[entries.flat])


def _sample_each(g: Tensor, x: Tensor, entries: Entries) -> Tensor:
    """Each example's own gradient: (B, k) from g (B, ..., m) and x (B, ..., n)."""
    g, x = (_wide(t.reshape(len(t), -1, t.shape[-1])) for t in (g, x))
    if entries.kernel == "gather":
        return entries.to_z((g.index_select(-1, entries.rows) * x.index_select(-1, entries.cols)).sum(1))
    flat = entries.flat
    return entries.to_z(torch.stack([(a.t() @ b).flatten()[flat] for a, b in zip(g, x, strict=True)]))


def _scatter_gather(z: Tensor, x: Tensor, entries: Entries) -> Tensor:
    y = x.new_zeros(len(x), entries.shape[0])
    return y.index_add_(1, entries.rows, x.index_select(1, entries.cols) * entries.of_z(z))


def _scatter_bag(z: Tensor, x: Tensor, entries: Entries) -> Tensor:
    wide = _wide(x).t().contiguous()
    weights = entries.of_z(z).to(wide.dtype)
    bags = F.embedding_bag(entries.cols, wide, entries.starts[:-1], mode="sum", per_sample_weights=weights)
    return bags.t().to(x.dtype).contiguous()


def _scatter_dense(z: Tensor, x: Tensor, entries: Entries) -> Tensor:
    flat = x.new_zeros(entries.shape[0] * entries.shape[1])
    return x @ flat.index_copy_(0, entries.flat, entries.of_z(z)).view(entries.shape).t()


SAMPLE = {"gather": _sample_gather, "sampled": _sample_sampled, "dense": _sample_dense}
SCATTER = {"gather": _scatter_gather, "sampled": _scatter_bag, "dense": _scatter_dense}
