"""A weight's gradients as products of two thin factors, one pair of rows a token, and inner products of such gradients.

Of a linear layer y = x W' the gradient is A'B with A the derivatives in y (tokens, out) and B = x (tokens, in); of W used as x W it is
x'A; of a table that is looked up it is the sum of A's rows at the rows that were read, whose numbers stand for their unit vectors.
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

BLOCK = 2**27  # bytes of gradients, or of inner products of tokens, that are worked on together


@dataclass
class Factors:
    """The gradients of one weight (m, n) in `rows` outputs: of output r the sum of left' right over `pairs[r]`.

    left is (tokens, m), or the tokens' rows int64 (tokens,); right is (tokens, n).
    """

    shape: tuple[int, int]
    rows: int
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, row: int, left: Tensor, right: Tensor) -> None:
        """Add left' right to the gradient of output `row`."""
        self.pairs.setdefault(row, []).append((_wide(left), _wide(right)))

    def bytes(self) -> float:
        """Return the bytes of the factors; a factor that several weights or outputs share counts several times."""
        return float(sum(factor.nbytes for pairs in self.pairs.values() for pair in pairs for factor in pair))

    def gram(self) -> Tensor | float:
        """Inner products of all gradients, float64 (rows, rows), by whichever of two exact ways is cheaper; 0 of a weight without use."""
        if not self.pairs:
            return 0.0
        tokens = sum(len(right) for pairs in self.pairs.values() for _, right in pairs)
        (m, n), kinds = self.shape, {left.dim() for pairs in self.pairs.values() for left, _ in pairs}
        by_rows = m * n * ((tokens if kinds == {2} else 0) + self.rows**2)
        by_tokens = tokens**2 * (n + (m if kinds == {2} else 1))
        return self._by_tokens() if len(kinds) == 1 and by_tokens <= by_rows else self._by_rows()

    def live(self) -> int:
        """Return the number of entries of the weight that have a token whose left and right factors are non-zero there."""
        pairs = [pair for of_output in self.pairs.values() for pair in of_output]
        if not pairs:
            return 0
        if all(left.dim() == 2 for left, _ in pairs) and bool(torch.stack([right.all() for _, right in pairs]).all()):
            return self.shape[1] * int(torch.stack([left.any(0) for left, _ in pairs]).any(0).sum())
        return sum(int((part != 0).any(0).sum()) for part in self._gradients(lambda x: (x != 0).to(x.dtype)))

    def _by_tokens(self) -> Tensor:
        """<A'B, C'D> = sum of (A C') o (B D'), some tokens at a time."""
        owners = [row for row, pairs in self.pairs.items() for _, right in pairs for _ in range(len(right))]
        lefts, rights = (torch.cat([pair[side] for pairs in self.pairs.values() for pair in pairs]) for side in (0, 1))
        owner = F.one_hot(torch.tensor(owners, device=rights.device), self.rows).to(rights.dtype)
        gram = torch.zeros(self.rows, self.rows, dtype=torch.float64, device=rights.device)
        for part in torch.arange(len(owners)).split(max(1, BLOCK // (8 * len(owners)))):
            at = slice(int(part[0]), int(part[-1]) + 1)
            same = lefts[at] @ lefts.T if lefts.dim() == 2 else (lefts[at, None] == lefts).to(rights.dtype)
            gram += (owner[at].T @ ((rights[at] @ rights.T).mul_(same) @ owner)).double()
        return gram

    def _by_rows(self) -> Tensor:
        return torch.stack([(part @ part.T).double() for part in self._gradients(lambda x: x)]).sum(0)

    def _gradients(self, of: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """Yield the gradients (rows, some rows of the weight times n), part by part, of the factors after `of`."""
        (m, n), like = self.shape, next(iter(self.pairs.values()))[0][1]
        step = max(1, BLOCK // (like.element_size() * self.rows * n))
        for low in range(0, m, step):
            high = min(low + step, m)
            part = like.new_zeros(self.rows, high - low + 1, n)  # one row more for tokens whose rows are not here
            for row, pairs in self.pairs.items():
                for left, right in pairs:
                    if left.dim() == 2:
                        part[row, :-1] += of(left[:, low:high]).T @ of(right)
                    else:
                        part[row].index_add_(0, torch.where((left >= low) & (left < high), left - low, high - low), of(right))
            yield part[:, :-1].flatten(1)


def _wide(factor: Tensor) -> Tensor:
    return factor.float() if factor.is_floating_point() and factor.dtype.itemsize < 4 else factor


@dataclass(frozen=True)
class Use:
    """An operation on a weight: the factor of its gradient that the operation's input is, and where its output is in the graph."""

    weight: int  # id
    factor: Tensor  # (tokens, m) or the rows that were read (tokens,) where it is the left factor, else (tokens, n)
    left: bool
    output: GradientEdge
    unread: Tensor | None = None  # tokens whose gradient does not count (tokens, 1)

    def pair(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return (left, right) from the gradient in the output."""
        other = gradient.reshape(-1, gradient.shape[-1])
        if self.unread is not None:
            other = other.masked_fill(self.unread, 0)
        return (self.factor, other) if self.left else (other, self.factor)


class Recorded(TorchFunctionMode):
    """While it lasts, `uses` gets what the weights with the ids `chosen` are used for, and through these uses no output depends on them.

    Other uses are left to autograd.
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
        return y.clone() if y.is_leaf else y  # a leaf must not be changed in place; where another is, its edge stays what it was


Known = tuple[Tensor, Tensor, bool, int | None]  # weight, the input, whether it is the left factor, the row that has no gradient


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Known:
    return weight, input, False, None


def _conv1d(input: Tensor, mat1: Tensor, mat2: Tensor, **scaled: Any) -> Known | None:
    """transformers' Conv1D: addmm(bias, x, weight), the weight (in, out)."""
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
