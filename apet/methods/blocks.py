"""The blocks of a Transformer, found by structure instead of by a table of model types.

A self-attention is a module whose class name contains "attention" or "attn" and which lies in an element of a `ModuleList`.
Cross-attention does not count. RWKV's recurrence does not count either: it is named attention, but it has a receptance instead of queries.
A block is the smallest element of a `ModuleList` that holds a self-attention and a feed-forward part: T5 has lists inside its blocks, and
ALBERT has blocks inside shared groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from apet.errors import UsageError

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_CROSS = re.compile(r"cross|^enc.*att", re.IGNORECASE)  # crossattention, cross_attn, encoder_attn, EncDecAttention


def is_conv1d(module: nn.Module) -> bool:
    """Return whether `module` is transformers' Conv1D, whose weight has the shape (in, out)."""
    return type(module).__name__ == "Conv1D"


def widths(projection: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear projection."""
    rows, columns = projection.get_parameter("weight").shape
    return (rows, columns) if is_conv1d(projection) else (columns, rows)


def projections(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Return the linear projections inside `module` by path, in the order of their definition."""
    return {path: part for path, part in module.named_modules(prefix=prefix) if isinstance(part, nn.Linear) or is_conv1d(part)}


def self_attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the self-attentions of `model` by path.

    Raises UsageError if there are none, or if they are PyTorch's own, which read the weights of their projections without calling them.
    """
    found = {path: m for path, m in _attentions(model).items() if not _CROSS.search(f"{path.rpartition('.')[2]} {type(m).__name__}")}
    name = type(model).__name__
    if not found:
        raise UsageError(f"{name} has no self-attention in a list of blocks: lora, adapter and plug need a Transformer")
    if any(isinstance(part, nn.MultiheadAttention) for attention in found.values() for part in attention.modules()):
        raise UsageError(f"{name} has torch.nn.MultiheadAttention, which does not call its projections: lora, adapter and plug need that")
    return found


def elements(model: nn.Module, path: str) -> Iterator[str]:
    """Yield the paths of the elements of `ModuleList`s that hold the module at `path`, the smallest element first."""
    while path:
        parent = path.rpartition(".")[0]
        if isinstance(model.get_submodule(parent), nn.ModuleList):
            yield path
        path = parent


def plug_positions(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """Return the modules whose outputs take a bottleneck, and the width of these outputs: two modules for each block.

    These modules are the last projections of the self-attention and of the feed-forward part, both with outputs of the hidden size. A
    mixture of experts has no last projection that every token passes, so its feed-forward module is returned.

    Raises UsageError if a block lacks one of the two.
    """
    attentions, name = _attentions(model), type(model).__name__
    found: dict[int, tuple[nn.Module, int]] = {}
    for path, attention in self_attentions(model).items():
        out = _last_projection(attention)
        if out is None:
            raise UsageError(f"the self-attention of {name} ({path}) has no last linear projection: adapter and plug need one")
        width = widths(out)[1]
        ends = (_feed_forward(model, element, attentions, width) for element in elements(model, path))
        end = next((module for module in ends if module is not None), None)
        if end is None:
            raise UsageError(f"{name} has no feed-forward part in one block with {path}: adapter and plug need one")
        found |= {id(module): (module, width) for module in (out, end)}
    return list(found.values())


def _attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the self- and cross-attentions by path. An attention inside another one is not returned."""
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        named = _ATTENTION.search(type(module).__name__) and any(p.dim() > 1 for p in module.parameters())
        if named and not _inside(path, found) and not hasattr(module, "receptance") and any(elements(model, path)):
            found[path] = module
    return found


def _inside(path: str, modules: dict[str, nn.Module] | list[str]) -> bool:
    return any(f"{path}.".startswith(f"{outer}.") for outer in modules)


def _stacked(module: nn.Module) -> bool:
    """Return whether `module` holds matrices of several experts or heads in a tensor of three dimensions."""
    convolution = isinstance(module, nn.modules.conv._ConvNd)
    return not convolution and any(p.dim() == 3 and min(p.shape) > 1 for p in module.parameters(recurse=False))


def _last_projection(attention: nn.Module) -> nn.Module | None:
    """Return the last projection to the hidden size, from which the attention's first projection reads."""
    if any(map(_stacked, attention.modules())):
        return None
    linear = list(projections(attention).values())
    return next((p for p in reversed(linear) if widths(p)[1] == widths(linear[0])[0]), None)


def _feed_forward(model: nn.Module, element: str, attentions: dict[str, nn.Module], width: int) -> nn.Module | None:
    """Return the module that ends the feed-forward part of `element`, or None if there is none.

    If several projections have outputs of the hidden size, the one with the most inputs ends the feed-forward part.
    """
    block = model.get_submodule(element)
    outside = {path: m for path, m in block.named_modules(prefix=element) if path != element and not _inside(path, attentions)}
    for path, module in outside.items():
        if (path.endswith(".experts") or _stacked(module)) and any(width in p.shape for p in module.parameters()):
            parent = path.rpartition(".")[0]
            return module if parent == element else model.get_submodule(parent)
    ends = [p for path, p in projections(block, element).items() if path in outside and widths(p)[1] == width]
    return max(reversed(ends), key=lambda p: widths(p)[0], default=None)
