"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): two a block, after attention and after the feed-forward part.

Each is x -> x + up(gelu(down(x))) on the output of the part's last projection. `up` starts at zero, so the model's
function does not change until something is tuned.
"""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError

SIZE = 24  # of the bottleneck, the paper's
# The last projection of self-attention and of the feed-forward part in T5, BERT, BLOOM and GPT-2.
PROJECTIONS = re.compile(
    r"SelfAttention\.o$|DenseReluDense\.wo$|attention\.output\.dense$|(?<!attention)\.output\.dense$|self_attention\.dense$|mlp\.dense_4h_to_h$"
    r"|attn\.c_proj$|mlp\.c_proj$"
)


class Bottleneck(nn.Module):
    """x (..., width) -> x + up(gelu(down(x)))."""

    def __init__(self, width: int, size: int = SIZE, **like):
        super().__init__()
        self.down, self.up = nn.Linear(width, size, **like), nn.Linear(size, width, **like)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


def plug(model: nn.Module, size: int = SIZE) -> list[nn.Parameter]:
    """Plug a bottleneck (named `apet_plug`) behind both parts of every block; returns the new parameters.

    Raises UsageError for a model whose blocks are not known.
    """
    projections = [(name, m) for name, m in model.named_modules() if PROJECTIONS.search(name)]
    if not projections:
        raise UsageError(f"{type(model).__name__} has no block that an adapter is known to fit: T5, BERT, BLOOM and GPT-2 have")
    added = []
    for _, projection in projections:
        weight = projection.weight
        width = weight.shape[1] if type(projection).__name__ == "Conv1D" else weight.shape[0]
        projection.apet_plug = Bottleneck(width, size, dtype=weight.dtype, device=weight.device)
        projection.register_forward_hook(lambda module, args, output: module.apet_plug(output))
        added += list(projection.apet_plug.parameters())
    return added
