"""New parameters beside a model's own, in the same index space: what the paper calls adding, concatenating and plugging.

    bias     zero biases on the linear layers that have none              (adding)
    prefix   keys and values beside those of every self-attention         (concatenating)
    prompt   rows beside the inputs of every self-attention's keys and values  (concatenating)
    plug     a bottleneck behind self-attention and feed-forward part of every block  (plugging)

Tuning the entries that a model has, `add`, needs nothing new. All start so that the model's function is unchanged; what
does not start at zero is drawn by its name alone, the same for every seed. For a
prefix that means values of zero and a softmax of its own: in one softmax with the model's keys, new keys would take
weight from the old ones whatever their values are (the parallel form of prefix tuning, He et al. 2022, arXiv 2110.04366).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError, lookup
from apet.methods.operation_names import OPERATION_NAMES
from apet.random_numbers import weights

SIZE = 24  # of a bottleneck, the paper's
ROWS = 10  # of a prefix or prompt, in every self-attention


@dataclass(frozen=True)
class _Family:
    """Where a family's self-attention keeps its projections; `split` takes (queries, keys, values) apart where they are fused."""

    attention: re.Pattern[str]
    query: str
    key: str
    value: str
    out: str  # relative to the attention's parent
    feed_forward: re.Pattern[str]  # its last projection
    scaled: bool = True
    split: Callable[[Tensor, int], tuple[Tensor, ...]] | None = None


def _interleaved(fused: Tensor, heads: int) -> tuple[Tensor, ...]:
    """BLOOM: for each head its query, key and value."""
    return tuple(part.flatten(-2) for part in fused.unflatten(-1, (heads, 3, -1)).unbind(-2))


def _thirds(fused: Tensor, heads: int) -> tuple[Tensor, ...]:
    """GPT-2: all queries, all keys, all values."""
    return fused.chunk(3, -1)


FAMILIES = {
    "t5": _Family(re.compile(r"SelfAttention$"), "q", "k", "v", "SelfAttention.o", re.compile(r"DenseReluDense\.wo$"), scaled=False),
    "bert": _Family(
        re.compile(r"attention\.self$"), "query", "key", "value", "output.dense", re.compile(r"(?<!attention)\.output\.dense$")
    ),
    "bloom": _Family(
        re.compile(r"self_attention$"), "query_key_value", "query_key_value", "query_key_value", "self_attention.dense",
        re.compile(r"mlp\.dense_4h_to_h$"),
        split=_interleaved,
    ),
    "gpt2": _Family(re.compile(r"\.attn$"), "c_attn", "c_attn", "c_attn", "attn.c_proj", re.compile(r"mlp\.c_proj$"), split=_thirds),
}  # fmt: skip


def inject(model: nn.Module, operations: tuple[str, ...]) -> list[str]:
    """Give `model` the new parameters of `operations` and return their names, sorted; `add` gives none.

    Raises UsageError for an unknown operation, and for a model whose blocks are not known.
    """
    before = {name for name, _ in model.named_parameters()}
    if any(".apet_" in name for name in before):
        raise UsageError("the model has new parameters already: load it afresh")
    for operation in operations:
        lookup(OPERATIONS, operation, "operation")(model)
    new = sorted({name for name, _ in model.named_parameters()} - before)
    for name in new:
        if name.endswith(("down.weight", ".keys")):
            parameter = model.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(weights(name, parameter.shape) * parameter.shape[-1] ** -0.5)
    return new


def add_zero_biases(model: nn.Module) -> None:
    """Give every linear layer without a bias a bias of zeros, except the output head (its bias would be as long as the vocabulary)."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is None and module is not head:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))


class Bottleneck(nn.Module):
    """x (..., width) -> x + up(gelu(down(x))) (Houlsby et al. 2019, arXiv 1902.00751); `up` starts at zero."""

    def __init__(self, like: Tensor, width: int, size: int):
        super().__init__()
        self.down, self.up = (nn.Linear(a, b, dtype=like.dtype, device=like.device) for a, b in ((width, size), (size, width)))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


def plug(model: nn.Module) -> None:
    """Put a bottleneck behind the last projection of self-attention and of the feed-forward part, two a block."""
    family = _family(model)
    projections: list[Any] = [out for _, _, out in _attentions(model, family)]
    projections += [m for name, m in model.named_modules() if family.feed_forward.search(name)]
    for projection in projections:
        width = projection.weight.shape[1 if _is_conv1d(projection) else 0]
        projection.apet_plug = Bottleneck(projection.weight, width, SIZE)
        projection.register_forward_hook(lambda module, args, output: module.apet_plug(output))


class ParallelPrefixAttention(nn.Module):
    """Attention of a layer's queries to its own rows: keys and values (rows, width), or `inputs` from which both are projected.

    It is added to the layer's attention, with a softmax of its own (the parallel form of prefix tuning, He et al. 2022, arXiv 2110.04366).
    """

    def __init__(self, like: Tensor, width: int, heads: int, scale: float, inputs: int | None):
        super().__init__()
        self.heads, self.scale = heads, scale
        new = {"dtype": like.dtype, "device": like.device}
        if inputs is not None:
            self.inputs = nn.Parameter(torch.zeros(ROWS, inputs, **new))
        else:
            self.keys, self.values = nn.Parameter(torch.empty(ROWS, width, **new)), nn.Parameter(torch.zeros(ROWS, width, **new))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (queries, keys, values))  # (B, T, heads, d), (rows, heads, d)
        weights = torch.softmax(torch.einsum("bthd,rhd->bthr", q, k) * self.scale, -1)
        return torch.einsum("bthr,rhd->bthd", weights, v).flatten(-2)


def prefix(model: nn.Module) -> None:
    """Add keys and values to every self-attention, with a softmax of their own; values start at zero."""
    _add_prefix(model, "apet_prefix", of_inputs=False)


def prompt(model: nn.Module) -> None:
    """Add rows to the inputs of which every self-attention makes keys and values; they start at zero."""
    _add_prefix(model, "apet_prompt", of_inputs=True)


def _add_prefix(model: nn.Module, name: str, of_inputs: bool) -> None:
    family = _family(model)
    for attention, heads, out in _attentions(model, family):
        query = getattr(attention, family.query)
        width = out.weight.shape[0 if _is_conv1d(out) else 1]
        scale = (width // heads) ** -0.5 if family.scaled else 1.0
        inputs = query.weight.shape[0 if _is_conv1d(query) else 1] if of_inputs else None
        setattr(attention, name, ParallelPrefixAttention(query.weight, width, heads, scale, inputs))
        _PrefixHooks(attention, name, family, heads, query, out)


class _PrefixHooks:
    """The two hooks of a `ParallelPrefixAttention`: one keeps the layer's queries, the other adds to the input of the last projection."""

    def __init__(self, attention: nn.Module, name: str, family: _Family, heads: int, query: nn.Module, out: nn.Module):
        self.attention, self.name, self.family, self.heads = attention, name, family, heads
        self.busy = False
        query.register_forward_hook(self.keep)
        out.register_forward_pre_hook(self.add)

    def keep(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if not self.busy:
            self.queries = self._part(output, 0)

    def add(self, module: nn.Module, args: tuple) -> tuple:
        prefix = getattr(self.attention, self.name)
        keys, values = self._projected(prefix.inputs) if hasattr(prefix, "inputs") else (prefix.keys, prefix.values)
        queries, self.queries = self.queries, None
        return (args[0] + prefix(queries, keys, values).to(args[0].dtype), *args[1:])

    def _projected(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows `inputs` without the projections' biases, so that rows of zero give values of zero."""
        self.busy = True
        keys, values = (
            self._part(getattr(self.attention, side)(F.pad(inputs, (0, 0, 0, 1))), i)
            for i, side in ((1, self.family.key), (2, self.family.value))
        )
        self.busy = False
        return keys[:-1] - keys[-1:], values[:-1] - values[-1:]

    def _part(self, projected: Tensor, which: int) -> Tensor:
        return projected if self.family.split is None else self.family.split(projected, self.heads)[which]


def _family(model: nn.Module) -> _Family:
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise UsageError(f"the blocks of a {kind} model are not known: only those of {', '.join(FAMILIES)} are")
    return FAMILIES[kind]


def _attentions(model: Any, family: _Family) -> Iterator[tuple[Any, int, Any]]:
    """Yield (self-attention, its heads, its last projection) of every block."""
    config = model.config
    for name, module in list(model.named_modules()):
        if family.attention.search(name):
            parent = model.get_submodule(name.rpartition(".")[0])
            yield module, config.num_attention_heads, parent.get_submodule(family.out)


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D"


OPERATIONS: dict[str, Callable[[nn.Module], None]] = {
    "add": lambda model: None, "bias": add_zero_biases, "prefix": prefix, "prompt": prompt, "plug": plug,
}  # fmt: skip
assert tuple(OPERATIONS) == OPERATION_NAMES
