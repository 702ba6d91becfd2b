"""The CASES every operator is checked on: what can go wrong in a second derivative, in the fewest parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import CrossEntropy, Objective

Batch = tuple[Tensor, Tensor]  # inputs (n, 3), labels (n,)


@dataclass(frozen=True)
class Case:
    name: str
    outputs: Callable[[Tensor, Batch], Tensor]
    criterion: Callable[[Tensor, Batch], tuple[Tensor, float]]
    size: int
    batches: tuple[Batch, ...]

    @property
    def z(self) -> Tensor:
        return torch.randn(self.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    @property
    def whole(self) -> Batch:
        inputs, labels = zip(*self.batches, strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def objective(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Objective[Batch]:
        batches = [(inputs.to(device, dtype), labels.to(device)) for inputs, labels in self.batches]
        return Objective(self.outputs, self.criterion, batches, self.size, dtype, device)

    def split(self, sizes: list[int], order: Tensor) -> "Case":
        """Return the examples in another order and in other batches."""
        inputs, labels = self.whole
        parts = zip(inputs[order].split(sizes), labels[order].split(sizes), strict=True)
        return replace(self, batches=tuple(parts))

    def whole_outputs(self, z: Tensor) -> Tensor:
        """Return the outputs on all examples, with attention that can be differentiated twice."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.outputs(z, self.whole)

    def loss(self, z: Tensor) -> Tensor:
        """Return the mean loss as one expression, without Objective."""
        loss_sum, weight = self.criterion(self.whole_outputs(z), self.whole)
        return loss_sum / weight


def _layernorm_mlp(z: Tensor, batch: Batch) -> Tensor:
    # The input of the LayerNorm, its weight and its bias all depend on z: where nested torch.func routes go wrong.
    hidden = F.layer_norm(batch[0] @ z[:12].view(3, 4), (4,), z[12:16], z[16:20])
    return torch.tanh(hidden) @ z[20:32].view(4, 3)


def _attention(z: Tensor, batch: Batch) -> Tensor:
    # transformers' default attention, whose fused kernels have no double backward.
    query, key, value = (batch[0] @ z[i : i + 9].view(3, 3) for i in (0, 9, 18))
    # In four dimensions (batch, heads, tokens, width): with fewer, torch does not choose the fused kernel.
    return F.scaled_dot_product_attention(query[None, None], key[None, None], value[None, None])[0, 0]


def _softmax_regression(z: Tensor, batch: Batch) -> Tensor:
    return batch[0] @ z.view(3, 3)


def _plain_cross_entropy(outputs: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Return a criterion without any closed form."""
    return F.cross_entropy(outputs, batch[1], reduction="sum"), float(len(batch[1]))


def _pieces(z: Tensor, batch: Batch) -> Tensor:
    """Return three tokens per text of two words each, logits (B, 3, 4)."""
    words = torch.stack([batch[0], batch[0].flip(0), batch[0] ** 2], dim=1)
    return torch.tanh(words @ z[:12].view(3, 4)) @ z[12:28].view(4, 4)


def _labels_of_pieces(batch: Batch) -> Tensor:
    """Return labels in which the first token of every second text is not counted."""
    labels = torch.stack([batch[1], (batch[1] + 1) % 4, (batch[1] + 2) % 4], dim=1)
    labels[::2, 0] = -100
    return labels


def _linear(z: Tensor, batch: Batch) -> Tensor:
    return batch[0] @ z


def _squares(outputs: Tensor, batch: Batch) -> tuple[Tensor, float]:
    return ((outputs - batch[1]) ** 2).sum() / 2, float(len(batch[1]))


def _batches(sizes: tuple[int, ...]) -> tuple[Batch, ...]:
    random = torch.Generator().manual_seed(0)
    return tuple((torch.randn(n, 3, generator=random, dtype=torch.float64), torch.randint(3, (n,), generator=random)) for n in sizes)


_OF_EXAMPLES = CrossEntropy(lambda batch: batch[1])

CASES = [
    Case("layernorm_mlp", _layernorm_mlp, _OF_EXAMPLES, 32, _batches((4, 4, 3))),
    # Attention mixes the examples of a batch, so it has a single one.
    Case("attention", _attention, _OF_EXAMPLES, 27, _batches((6,))),
    Case("text", _pieces, CrossEntropy(_labels_of_pieces), 28, _batches((6,))),
    Case("softmax_regression", _softmax_regression, _plain_cross_entropy, 9, _batches((5, 5, 1))),
    Case("quadratic", _linear, _squares, 3, _batches((4, 2))),
]
SEPARABLE = [case for case in CASES if case.name not in ("attention", "text")]
