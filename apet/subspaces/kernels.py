"""The trilinear form of the tuned entries of a weight, and its three contractions.

For a weight W (m, n) with tuned scalars z_j at entries (r_j, c_j), inputs x (t, n) and output gradients g (t, m),

    T(g, x, z) = sum_t sum_j z_j g[t, r_j] x[t, c_j].

Its contractions are

- over (g, x): the gradient of z, `sampled_outer_product` (SDDMM)
- over (x, z): the sparse forward product, `sparse_matmul` (SpMM) with the pattern of the entries
- over (g, z): the sparse input gradient, `sparse_matmul` with the transposed pattern

The two functions are closed under differentiation: the backward pass of each calls the other. So derivatives of any order need no dense
gradient of W, unless a dense one is faster. Each contraction has three kernels. The pattern chooses one of them
(`apet.subspaces.sparsity_pattern`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from apet.subspaces.recompute import recompute_instead_of_saving
from apet.subspaces.sparsity_pattern import Pattern

warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are implicitly)")


class NotPerExample(RuntimeError):
    """A tuned tensor is used for all examples together, so its gradient cannot be split by example."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, pattern: Pattern) -> Tensor:
    """Compute x W' + bias (..., m) for x (..., n), bitwise equal to F.linear, differentiable in x, bias and z any number of times.

    `weight` is resident: it already holds the values of z and is not differentiated. z has shape (k,). To get the gradient of each example,
    pass z (B, k), one copy per example, with x (B, ..., n). Only the columns of x at tuned entries are saved.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad or (bias is not None and bias.requires_grad))):
        return F.linear(x, weight, bias)
    if z.dim() == 2 and len(x) != len(z):
        raise NotPerExample(f"the weight is applied to {len(x)} rows, not {len(z)} examples: its gradient cannot be split by example")
    columns, compact = pattern.needed
    if columns is not None:
        return _Product.apply(x, x.index_select(-1, columns), z, weight, bias, pattern, compact)
    with recompute_instead_of_saving(x):
        return _Product.apply(x, x, z, weight, bias, pattern, compact)


def scale(x: Tensor, weight: Tensor, z: Tensor, flat: Tensor) -> Tensor:
    """Return weight * x for x (..., n), the last step of RMSNorm. `weight` (n,) is resident with z, (k,) or (B, k), at positions `flat`.

    Shapes and derivatives are as in `product`.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad)):
        return weight * x
    return _Scale.apply(x, x.index_select(-1, flat), z, weight, flat)


def sampled_outer_product(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Compute sum_t g[t, r_j] x[t, c_j] for g (..., m) and x (..., n): (k,), differentiable any number of times."""
    return _SampledOuterProduct.apply(g, x, pattern)


def sparse_matmul(z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Compute y[t, r_j] += z_j x[t, c_j] for z (k,) and x (..., n): (..., m), differentiable any number of times."""
    return _SparseMatmul.apply(z, x, pattern)


class _Product(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, saved_x: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, compact: Pattern
    ) -> Tensor:
        ctx.save_for_backward(saved_x, z, weight if ctx.needs_input_grad[0] else None)
        ctx.pattern, ctx.compact, ctx.bias = pattern, compact, None if bias is None else bias.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (saved_x, z, weight) = grads, ctx.saved_tensors
        x_needed, _, z_needed, _, bias_needed, _, _ = ctx.needs_input_grad
        dx = _input_gradient(g, weight, z, ctx.pattern) if x_needed else None
        per_example = z.dim() == 2
        dz = (_sample_examples if per_example else sampled_outer_product)(g, saved_x, ctx.compact).to(z.dtype) if z_needed else None
        dbias = _rows(g).sum(0).to(ctx.bias) if bias_needed else None
        return dx, None, dz, None, dbias, None, None


def _input_gradient(g: Tensor, weight: Tensor, z: Tensor, pattern: Pattern) -> Tensor:
    if not torch.is_grad_enabled():  # a first derivative needs no transposed pattern
        return g @ weight
    return product(g, weight.t(), None, z, pattern.transposed)


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, saved_x: Tensor, z: Tensor, weight: Tensor, flat: Tensor) -> Tensor:
        ctx.save_for_backward(saved_x, z, weight)
        ctx.flat = flat
        return weight * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (saved_x, z, weight) = grads, ctx.saved_tensors
        dx = scale(g, weight, z, ctx.flat).to(saved_x.dtype) if ctx.needs_input_grad[0] else None
        terms = _wide(g.index_select(-1, ctx.flat)) * _wide(saved_x)
        dz = terms.reshape(*z.shape[:-1], -1, z.shape[-1]).sum(-2).to(z.dtype) if ctx.needs_input_grad[2] else None
        return dx, None, dz, None, None


class _SampledOuterProduct(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.pattern = pattern
        return SAMPLE[pattern.kernel](_rows(g), _rows(x), pattern)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v,), (g, x) = grads, ctx.saved_tensors
        dg = sparse_matmul(v, x, ctx.pattern).to(g.dtype) if ctx.needs_input_grad[0] else None
        dx = sparse_matmul(v, g, ctx.pattern.transposed).to(x.dtype) if ctx.needs_input_grad[1] else None
        return dg, dx, None


class _SparseMatmul(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(z, x)
        ctx.pattern = pattern
        y = SCATTER[pattern.kernel](z.to(x.dtype), _rows(x), pattern)
        return y.view(*x.shape[:-1], pattern.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (h,), (z, x) = grads, ctx.saved_tensors
        dz = sampled_outer_product(h, x, ctx.pattern).to(z.dtype) if ctx.needs_input_grad[0] else None
        dx = sparse_matmul(z, h, ctx.pattern.transposed).to(x.dtype) if ctx.needs_input_grad[1] else None
        return dz, dx, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _wide(x: Tensor) -> Tensor:
    """Convert to fp32 at least, for accurate sums over tokens. Sparse kernels do not support narrower types."""
    return x.float() if x.dtype.itemsize < 4 else x


def _sample_gather(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    return pattern.to_z_order((_wide(g.index_select(1, pattern.rows)) * _wide(x.index_select(1, pattern.cols))).sum(0))


def _sample_sampled(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    g, x = _wide(g), _wide(x)
    zeros = torch.sparse_csr_tensor(pattern.starts, pattern.cols, x.new_zeros(pattern.k), pattern.shape)
    return pattern.to_z_order(torch.sparse.sampled_addmm(zeros, g.t(), x, beta=0.0).values())


def _sample_dense(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    return pattern.take(_wide(g.t() @ x))


def _sample_examples(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Return the gradient of each example, (B, k), from g (B, ..., m) and x (B, ..., n)."""
    g, x = (_wide(t.reshape(len(t), -1, t.shape[-1])) for t in (g, x))
    if pattern.kernel == "gather":
        return pattern.to_z_order((g.index_select(-1, pattern.rows) * x.index_select(-1, pattern.cols)).sum(1))
    return torch.stack([pattern.take(a.t() @ b) for a, b in zip(g, x, strict=True)])


def _scatter_gather(z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    y = x.new_zeros(len(x), pattern.shape[0])
    return y.index_add_(1, pattern.rows, x.index_select(1, pattern.cols) * pattern.to_row_order(z))


def _scatter_bag(z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    wide = _wide(x).t().contiguous()
    weights = pattern.to_row_order(z).to(wide.dtype)
    bags = F.embedding_bag(pattern.cols, wide, pattern.starts[:-1], mode="sum", per_sample_weights=weights)
    return bags.t().to(x.dtype).contiguous()


def _scatter_dense(z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    return x @ pattern.matrix(z).t()


SAMPLE = {"gather": _sample_gather, "sampled": _sample_sampled, "dense": _sample_dense}
SCATTER = {"gather": _scatter_gather, "sampled": _scatter_bag, "dense": _scatter_dense}
