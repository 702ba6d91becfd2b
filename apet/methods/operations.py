"""Operations: new parameters of a model, in one index space with the existing ones.

The APET paper (Su et al. 2023, arXiv 2306.02320) calls them adding, concatenating and plugging.

    bias     zero biases on linear layers without a bias                                 (adding)
    prefix   additional keys and values for every self-attention                         (concatenating)
    prompt   additional input rows for the keys and values of every self-attention       (concatenating)
    plug     a bottleneck after the self-attention and the feed-forward part of a block  (plugging)

The operation `add` tunes existing entries and needs no new parameters. At the start, new parameters leave the model's function unchanged.
Initial values other than zero depend only on the parameter's name, not on a seed.

A prefix starts with values of zero and has a separate softmax. In one softmax with the model's keys, new keys would take weight from the
old keys, whatever the new values are. A separate softmax is the parallel form of prefix tuning (He et al. 2022, arXiv 2110.04366).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError, lookup
from apet.methods.blocks import is_conv1d, plug_positions
from apet.methods.operation_names import OPERATION_NAMES, SIZE
from apet.random_numbers import weights

ROWS = 10  # rows of a prefix or prompt, in every self-attention


@dataclass(frozen=True)
class _Family:
    """Names of a model family's modules, for `prefix` and `prompt`. `split` separates a fused projection into (queries, keys, values)."""

    attention: re.Pattern[str]
    query: str
    key: str
    value: str
    out: str  # relative to the attention's parent
    scaled: bool = True
    split: Callable[[Tensor, int], tuple[Tensor, ...]] | None = None


def _interleaved(fused: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split BLOOM's fused projection: query, key and value of head 0, then of head 1, and so on."""
    return tuple(part.flatten(-2) for part in fused.unflatten(-1, (heads, 3, -1)).unbind(-2))


def _thirds(fused: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split GPT-2's fused projection: all queries, then all keys, then all values."""
    return fused.chunk(3, -1)


FAMILIES = {
    "t5": _Family(re.compile(r"SelfAttention$"), "q", "k", "v", "SelfAttention.o", scaled=False),
    "bert": _Family(re.compile(r"attention\.self$"), "query", "key", "value", "output.dense"),
    "bloom": _Family(
        re.compile(r"self_attention$"), "query_key_value", "query_key_value", "query_key_value", "self_attention.dense", split=_interleaved
    ),
    "gpt2": _Family(re.compile(r"\.attn$"), "c_attn", "c_attn", "c_attn", "attn.c_proj", split=_thirds),
}  # fmt: skip


def inject(model: nn.Module, operations: tuple[str, ...]) -> list[str]:
    """Add the new parameters of `operations` to `model` and return their names, sorted. `add` has no new parameters.

    Raises UsageError for an unknown operation, for a model that an operation does not support, and for a model that already has new
    parameters.
    """
    return _injected(model, [lookup(OPERATIONS, operation, "operation") for operation in operations])


def inject_bottlenecks(model: nn.Module, size: int) -> list[str]:
    """Add the new parameters of the operation `plug`, with bottlenecks of width `size`, to `model` and return their names, sorted."""
    return _injected(model, [partial(plug, size=size)])


def _injected(model: nn.Module, operations: Sequence[Callable[[nn.Module], None]]) -> list[str]:
    before = {name for name, _ in model.named_parameters()}
    if any(".apet_" in name for name in before):
        raise UsageError("the model already has new parameters: load it again")
    for operation in operations:
        operation(model)
    new = sorted({name for name, _ in model.named_parameters()} - before)
    for name in new:
        if name.endswith(("down.weight", ".keys")):
            parameter = model.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(weights(name, parameter.shape) * parameter.shape[-1] ** -0.5)
    return new


def add_zero_biases(model: nn.Module) -> None:
    """Add a bias of zeros to every linear layer without a bias.

    The output head is left out, because its bias would be as long as the vocabulary.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is None and module is not head:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))


class Bottleneck(nn.Module):
    """The map x (..., width) -> x + up(gelu(down(x))) (Houlsby et al. 2019, arXiv 1902.00751). `up` starts at zero."""

    def __init__(self, like: Tensor, width: int, size: int):
        super().__init__()
        self.down, self.up = (nn.Linear(a, b, dtype=like.dtype, device=like.device) for a, b in ((width, size), (size, width)))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


def plug(model: nn.Module, size: int = SIZE) -> None:
    """Add a bottleneck of width `size` after the last projection of the self-attention and of the feed-forward part: two per block."""
    for module, width in plug_positions(model):
        module.apet_plug = Bottleneck(next(module.parameters()), width, size)
        module.register_forward_hook(_through_bottleneck)


def _through_bottleneck(module: Any, args: tuple, output: Any) -> Any:
    """Return the output through the bottleneck. Some mixtures of experts return a tuple that begins with the output."""
    return (module.apet_plug(output[0]), *output[1:]) if isinstance(output, tuple) else module.apet_plug(output)


class ParallelPrefixAttention(nn.Module):
    """Attention of a layer's queries to trainable rows: keys and values (rows, width), or `inputs` that are projected to both.

    The output is added to the layer's attention. The softmax is separate from the layer's, as in the parallel form of prefix tuning
    (He et al. 2022, arXiv 2110.04366).
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
    """Add keys and values with a separate softmax to every self-attention. The values start at zero."""
    _add_prefix(model, "apet_prefix", of_inputs=False)


def prompt(model: nn.Module) -> None:
    """Add rows to the inputs from which every self-attention computes keys and values. The rows start at zero."""
    _add_prefix(model, "apet_prompt", of_inputs=True)


def _add_prefix(model: nn.Module, name: str, of_inputs: bool) -> None:
    family = _family(model)
    for attention, heads, out in _attentions(model, family):
        query = getattr(attention, family.query)
        width = out.weight.shape[0 if is_conv1d(out) else 1]
        scale = (width // heads) ** -0.5 if family.scaled else 1.0
        inputs = query.weight.shape[0 if is_conv1d(query) else 1] if of_inputs else None
        setattr(attention, name, ParallelPrefixAttention(query.weight, width, heads, scale, inputs))
        _PrefixHooks(attention, name, family, heads, query, out)


class _PrefixHooks:
    """The two hooks of a `ParallelPrefixAttention`.

    `keep` stores the layer's queries. `add` adds the prefix's attention to the input of the layer's last projection.
    """

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
        """Return the keys and values of the rows `inputs`, without the projections' biases: zero rows have zero values."""
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
        raise UsageError(f"prefix and prompt (operations) do not support {kind} models: use a model of the kinds {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def _attentions(model: Any, family: _Family) -> Iterator[tuple[Any, int, Any]]:
    """Yield (self-attention, number of heads, last projection of the self-attention) for every block."""
    config = model.config
    for name, module in list(model.named_modules()):
        if family.attention.search(name):
            parent = model.get_submodule(name.rpartition(".")[0])
            yield module, config.num_attention_heads, parent.get_submodule(family.out)


OPERATIONS: dict[str, Callable[[nn.Module], None]] = {
    "add": lambda model: None, "bias": add_zero_biases, "prefix": prefix, "prompt": prompt, "plug": plug,
}  # fmt: skip
assert tuple(OPERATIONS) == OPERATION_NAMES
