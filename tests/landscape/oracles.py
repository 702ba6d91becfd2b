"""Slow, independent answers in float64: looped double backward by columns, explicit random subspaces."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def columns(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the Jacobian of f at x, (outputs, len(x)), with one reverse pass per output."""
    x = x.detach().requires_grad_()
    y = f(x).reshape(-1)
    rows = [torch.autograd.grad(value, x, retain_graph=True, materialize_grads=True, allow_unused=True)[0] for value in y]
    return torch.stack([row.reshape(-1) for row in rows]).detach()


def hessian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the Hessian of a scalar f at x by looped double backward (never torch.func: facts.md, trap 1)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros(x.numel(), x.numel(), dtype=x.dtype)
    rows = [torch.autograd.grad(g, x, retain_graph=True, materialize_grads=True, allow_unused=True)[0] for g in gradient.reshape(-1)]
    return torch.stack([row.reshape(-1) for row in rows]).detach()


def gauss_newton(outputs: Callable[[Tensor], Tensor], criterion: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """J' H_out J with explicit J and H_out."""
    jacobian = columns(outputs, z)
    return jacobian.T @ hessian(criterion, outputs(z).detach()) @ jacobian


def subspace_losses(h: np.ndarray, g: np.ndarray, ks: list[int], seeds: int) -> np.ndarray:
    """g'd + d'Hd/2 minimised over explicit random Gaussian subspaces nested in k, (len(ks), seeds)."""
    result = np.empty((len(ks), seeds))
    for seed in range(seeds):
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(g), max(ks))))
        curved, along = basis.T @ h @ basis, basis.T @ g
        for row, k in enumerate(ks):
            result[row, seed] = -0.5 * along[:k] @ np.linalg.lstsq(curved[:k, :k], along[:k], rcond=1e-12)[0]
    return result


def nested_excesses(root: np.ndarray, a: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """|root d + a|^2 / 2 minimised over the span of the first 0, 1, 2, ... columns of `basis`, (columns + 1,), by one QR decomposition."""
    q, _ = np.linalg.qr(root @ basis)
    return (a @ a - np.concatenate([[0.0], np.cumsum((q.T @ a) ** 2)])) / 2
