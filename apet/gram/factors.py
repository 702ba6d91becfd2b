"""Gradients of a weight as products of two thin factors (one pair of rows per token), and inner products of such gradients.

With A the derivatives in the output y (tokens, out) and x the input (tokens, in), the gradient of W is

- A'x for a linear layer y = x W'
- x'A for y = x W
- the sum of the rows of A at the rows that were read, for a lookup in a table. The left factor holds row numbers, which stand for their
  unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

BLOCK = 2**27  # bytes of gradients, or of inner products of tokens, that are processed together


@dataclass
class Factors:
    """The gradients of `rows` outputs in one weight (m, n). The gradient of output r is the sum of left' right over `pairs[r]`.

    left is (tokens, m), or the row number of each token, int64 (tokens,). right is (tokens, n).
    """

    shape: tuple[int, int]
    rows: int
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, row: int, left: Tensor, right: Tensor) -> None:
        """Add left' right to the gradient of output `row`."""
        self.pairs.setdefault(row, []).append((_wide(left), _wide(right)))

    def bytes(self) -> float:
        """Return the size of the factors in bytes. A factor that several weights or outputs share is counted several times."""
        return float(sum(factor.nbytes for pairs in self.pairs.values() for pair in pairs for factor in pair))

    def gram(self) -> Tensor | float:
        """Compute the inner products of all gradients, float64 (rows, rows), by the cheaper of two exact methods.

        Return 0 for a weight without uses.
        """
        if not self.pairs:
            return 0.0
        tokens = sum(len(right) for pairs in self.pairs.values() for _, right in pairs)
        (m, n), kinds = self.shape, {left.dim() for pairs in self.pairs.values() for left, _ in pairs}
        by_rows = m * n * ((tokens if kinds == {2} else 0) + self.rows**2)
        by_tokens = tokens**2 * (n + (m if kinds == {2} else 1))
        return self._by_tokens() if len(kinds) == 1 and by_tokens <= by_rows else self._by_rows()

    def active(self) -> int:
        """Return the number of active entries (i, j) of the weight: left[:, i] and right[:, j] are both non-zero for some token."""
        pairs = [pair for of_output in self.pairs.values() for pair in of_output]
        if not pairs:
            return 0
        if all(left.dim() == 2 for left, _ in pairs) and bool(torch.stack([right.all() for _, right in pairs]).all()):
            return self.shape[1] * int(torch.stack([left.any(0) for left, _ in pairs]).any(0).sum())
        return sum(int((part != 0).any(0).sum()) for part in self._gradients(lambda x: (x != 0).to(x.dtype)))

    def _by_tokens(self) -> Tensor:
        """Compute <A'B, C'D> = sum of (A C') o (B D'), in blocks of tokens."""
        owners = [row for row, pairs in self.pairs.items() for _, right in pairs for _ in range(len(right))]
        lefts, rights = (torch.cat([pair[side] for pairs in self.pairs.values() for pair in pairs]) for side in (0, 1))
        owner = F.one_hot(torch.tensor(owners, device=rights.device), self.rows).to(rights.dtype)
        gram = torch.zeros(self.rows, self.rows, dtype=torch.float64, device=rights.device)
        for part in torch.arange(len(owners)).split(max(1, BLOCK // (8 * len(owners)))):
            at = slice(int(part[0]), int(part[-1]) + 1)
            products = lefts[at] @ lefts.T if lefts.dim() == 2 else (lefts[at, None] == lefts).to(rights.dtype)
            gram += (owner[at].T @ ((rights[at] @ rights.T).mul_(products) @ owner)).double()
        return gram

    def _by_rows(self) -> Tensor:
        return torch.stack([(part @ part.T).double() for part in self._gradients(lambda x: x)]).sum(0)

    def _gradients(self, function: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """Yield the gradients from the factors after `function`, for one block of the weight's rows at a time: (rows, block rows * n)."""
        (m, n), like = self.shape, next(iter(self.pairs.values()))[0][1]
        step = max(1, BLOCK // (like.element_size() * self.rows * n))
        for low in range(0, m, step):
            high = min(low + step, m)
            part = like.new_zeros(self.rows, high - low + 1, n)  # one extra row for tokens whose rows are outside the block
            for row, pairs in self.pairs.items():
                for left, right in pairs:
                    if left.dim() == 2:
                        part[row, :-1] += function(left[:, low:high]).T @ function(right)
                    else:
                        part[row].index_add_(0, torch.where((left >= low) & (left < high), left - low, high - low), function(right))
            yield part[:, :-1].flatten(1)


def _wide(factor: Tensor) -> Tensor:
    return factor.float() if factor.is_floating_point() and factor.dtype.itemsize < 4 else factor


@dataclass(frozen=True)
class Use:
    """One use of a weight in an operation.

    The operation's input is one factor of the weight's gradient. The gradient in the operation's output is the other factor.
    """

    weight: int  # id of the weight
    factor: Tensor  # a left factor: (tokens, m), or the rows that were read (tokens,); a right factor: (tokens, n)
    left: bool
    output: GradientEdge
    unread: Tensor | None = None  # mask (tokens, 1) of the tokens without gradient (padding)

    def pair(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return (left, right) for the `gradient` in the output."""
        other = gradient.reshape(-1, gradient.shape[-1])
        if self.unread is not None:
            other = other.masked_fill(self.unread, 0)
        return (self.factor, other) if self.left else (other, self.factor)


class Recorded(TorchFunctionMode):
    """A context that records in `uses` the known operations on the weights with the ids `chosen`.

    A recorded operation uses a detached weight, so autograd does not compute the weight's gradient. Other uses are left to autograd.
    """

    def __init__(self, chosen: Collection[int]):
        super().__init__()
        self.chosen, self.uses = chosen, list[Use]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        use = _KNOWN[func](*args, **kwargs) if func in _KNOWN else None
        if use is None or id(use[0]) not in self.chosen:
            return func(*args, **kwargs)
        weight, read_input, left, padding = use
        frozen = weight.detach()
        y = func(*(frozen if value is weight else value for value in args), **{n: frozen if x is weight else x for n, x in kwargs.items()})
        y = y if y.requires_grad else y.detach().requires_grad_()
        flat = read_input.detach().reshape(-1) if read_input.dtype == torch.int64 else read_input.detach().reshape(-1, read_input.shape[-1])
        unread = None if padding is None else (flat == padding % len(weight))[:, None]
        self.uses.append(Use(id(weight), flat, left, get_gradient_edge(y), unread))
        return y.clone() if y.is_leaf else y  # a leaf must not be changed in place; for any other tensor, `output` stays the same


Known = tuple[Tensor, Tensor, bool, int | None]  # weight, input, whether the input is the left factor, padding row without gradient


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Known:
    return weight, input, False, None


def _conv1d(input: Tensor, mat1: Tensor, mat2: Tensor, **scaled: Any) -> Known | None:
    """Describe transformers' Conv1D, which calls addmm(bias, x, weight) with a weight of shape (in, out)."""
    return None if scaled else (mat2, mat1, True, None)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Known | None:  # fmt: skip
    return None if max_norm is not None or scale_grad_by_freq else (weight, input, True, padding_idx)


def _rows(weight: Tensor, index: Any) -> Known | None:
    return (weight, index, True, None) if isinstance(index, Tensor) and index.dtype == torch.int64 else None


_KNOWN: dict[Any, Callable[..., Known | None]] = {
    F.linear: _linear, torch.addmm: _conv1d, F.embedding: _embedding, Tensor.__getitem__: _rows,
}  # fmt: skip
