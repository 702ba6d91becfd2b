"""The trilinear form behind tunable entries of a weight, and its three contractions.

For a weight W (m, n) with tuned scalars z_j at entries (r_j, c_j), inputs x (t, n) and output gradients g (t, m),

    T(g, x, z) = sum_t sum_j z_j g[t, r_j] x[t, c_j].

Contracted over (g, x) it is the gradient of z, over (x, z) the sparse forward, over (g, z) the sparse input gradient:
`sampled_outer_product` (SDDMM) and `sparse_matmul` (SpMM), the latter on the pattern of the entries or on its transpose. They are closed
under differentiation: the backward of each is made of the other. So derivatives of any order build no dense gradient of W unless that is
faster. Each contraction has three kernels; the pattern chooses one (`apet.subspaces.sparsity_pattern`).
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
    """A tuned tensor was used outside of any example, so its gradient cannot be split among them."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, pattern: Pattern) -> Tensor:
    """x (..., n) -> x W' + bias (..., m), bitwise F.linear's, differentiable in x, bias and z any number of times.

    `weight` holds z's values already (resident): it is not differentiated. z is (k,), or (B, k) with x (B, ..., n): a
    copy of the same z for each example, whose gradient holds each example's own. Of x only the needed columns are kept.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad or (bias is not None and bias.requires_grad))):
        return F.linear(x, weight, bias)
    if z.dim() == 2 and len(x) != len(z):
        raise NotPerExample(f"the weight meets {len(x)} rows, not {len(z)} examples")
    columns, compact = pattern.needed
    if columns is not None:
        return _Product.apply(x, x.index_select(-1, columns), z, weight, bias, pattern, compact)
    with recompute_instead_of_saving(x):
        return _Product.apply(x, x, z, weight, bias, pattern, compact)


def scale(x: Tensor, weight: Tensor, z: Tensor, flat: Tensor) -> Tensor:
    """weight x, an RMSNorm's last step: weight (n,) resident with z (k,) or (B, k) at `flat`, x (..., n) as for `product`."""
    if not (torch.is_grad_enabled() and (x.requires_grad or z.requires_grad)):
        return weight * x
    return _Scale.apply(x, x.index_select(-1, flat), z, weight, flat)


def sampled_outer_product(g: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """sum_t g[t, r_j] x[t, c_j]: (k,) from g (..., m) and x (..., n), differentiable any number of times."""
    return _SampledOuterProduct.apply(g, x, pattern)


def sparse_matmul(z: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """y[t, r_j] += z_j x[t, c_j]: (..., m) from z (k,) and x (..., n), differentiable any number of times."""
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
    """Sums over tokens are kept in fp32 at least; sparse kernels know no narrower type."""
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
    """Each example's own gradient: (B, k) from g (B, ..., m) and x (B, ..., n)."""
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
