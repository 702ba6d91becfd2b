"""Scope: the tensors that may be tuned, as one line of text.

A scope is a list of terms separated by spaces. A tensor is in scope if all terms match it. `a|b` matches if a or b does, `!a` matches if
a does not. A term is one of

- a role: attention, feed-forward, embeddings, positions, token-tables, head, encoder, decoder, weights, biases, norms, new, all
- a range of layers: layers:0-3, counted separately in the encoder and in the decoder
- a pattern of names: *.q.weight

Examples:

    encoder attention weights            layers:0-1 !norms            *.wi_0.weight|*.wo.weight

The token embeddings and the output head have one row per token, and their share of all parameters differs between the sizes of a model
family. So they are in scope only if a term asks for them: token-tables, embeddings, head, all, or the full name of the tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from apet.errors import UsageError, did_you_mean

DEFAULT = ""  # everything except the token tables
_ASKS_FOR_TABLES = {"token-tables", "embeddings", "head", "all"}

# Names in the blocks of transformers' models. Norms and embeddings are recognised by the module's class instead (`_by_class`).
_BY_NAME = {
    "attention": re.compile(r"attentions?\.|attn\."),
    "feed-forward": re.compile(
        r"denserelu|intermediate\.|(?<!attention\.)output\.dense|mlp\.|ffns?\.|ffn_output|feed_forward\.|(^|\.)ff\.|(^|\.)fc[12]\."
    ),
    "positions": re.compile(r"position_embeddings|relative_attention_bias|\bwpe\."),
    "encoder": re.compile(r"(^|\.)encoder\."),
    "decoder": re.compile(r"(^|\.)(decoder\.(block|layers?|final|embed)|h\.\d+|ln_f)"),
    "new": re.compile(r"(^|\.)apet_"),
}
_HEADS = re.compile(r"(classifier|classification_head|score|qa_outputs|cls|logits_proj|sequence_summary)(\.|$)")
_RANGE = re.compile(r"layers?:(\d+)(?:-(\d+))?")
_LAYER = re.compile(r"(?:^|\.)(?:blocks?|layers?|h|albert_layer_groups|attentions|ffns|layer_norm[12])\.(\d+)\.")
ROLES = (*_BY_NAME, "embeddings", "token-tables", "head", "weights", "biases", "norms", "all")


def all_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return {name: parameter} with every name of every parameter. A tied parameter has several names."""
    return dict(model.named_parameters(remove_duplicate=False))


@contextmanager
def only_trainable(model: nn.Module, chosen: Collection[nn.Parameter]) -> Iterator[None]:
    """Let only the parameters `chosen` of `model` require a gradient inside the `with` block. The old flags are restored at its end."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    for p in chosen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def tensor_roles(model: nn.Module) -> dict[str, frozenset[str]]:
    """Return {name: roles} of every parameter.

    A tied tensor is listed once, under its shortest name (the alphabetically first one), with the roles of all modules that use it.
    """
    names: dict[int, str] = {}
    for name, p in all_names(model).items():
        names[id(p)] = min(names.get(id(p), name), name, key=lambda candidate: (len(candidate), candidate))
    roles_by_name: dict[str, set[str]] = {name: {"all"} for name in names.values()}
    tables = {side: _parameters(getattr(model, f"get_{side}_embeddings", lambda: None)()) for side in ("input", "output")}
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            roles = roles_by_name[names[id(parameter)]]
            roles |= _by_class(module, leaf)
            parts = {role for role, pattern in _BY_NAME.items() if pattern.search(f"{path}.{leaf}".lower())}
            roles |= parts - {"attention", "feed-forward"} if "norms" in roles else parts
            roles |= {"token-tables"} if id(parameter) in tables["input"] | tables["output"] else set()
            roles |= {"head"} if id(parameter) in tables["output"] or _HEADS.match(path) else set()
    return {name: frozenset(roles) for name, roles in roles_by_name.items()}


def _parameters(module: nn.Module | None) -> set[int]:
    return {id(p) for p in module.parameters()} if module is not None else set()


def _by_class(module: nn.Module, leaf: str) -> set[str]:
    if type(module).__name__.endswith(("Norm", "NormGated")):
        return {"norms"} | ({"biases"} if leaf == "bias" else set())
    if isinstance(module, nn.Embedding):
        return {"embeddings"}
    return {"biases"} if leaf == "bias" or leaf.endswith("_bias") else {"weights"}


def parse_scope(scope: str) -> list[list[str]]:
    """Return the terms that must all match, each as a list of alternatives.

    Raises UsageError for an alternative that is not a role, a range of layers or a pattern.
    """
    terms = [term.split("|") for term in scope.split()]
    for option in (option.removeprefix("!") for term in terms for option in term):
        if not (option in ROLES or _RANGE.fullmatch(option) or _is_pattern(option)):
            raise UsageError(f"unknown scope '{option}'{did_you_mean(option, ROLES)} (use a role, layers:L-M, or a pattern with *)")
    return terms


def in_scope(name: str, roles: frozenset[str], terms: list[list[str]]) -> bool:
    """Return whether `terms` (from `parse_scope`) select the tensor `name` with these `roles`."""
    asked = any(option in _ASKS_FOR_TABLES or option == name for term in terms for option in term)
    return all(any(_matches(name, roles, option) for option in term) for term in terms) and (asked or "token-tables" not in roles)


def _matches(name: str, roles: frozenset[str], term: str) -> bool:
    if term.startswith("!"):
        return not _matches(name, roles, term[1:])
    if match := _RANGE.fullmatch(term):
        layer = layer_of(name)
        return layer is not None and int(match[1]) <= layer <= int(match[2] or match[1])
    return term in roles if term in ROLES else fnmatchcase(name, term)


def _is_pattern(term: str) -> bool:
    return "*" in term or "." in term


def layer_of(name: str) -> int | None:
    """Return the number of the tensor's block, or None for a tensor outside the blocks."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def layer_label(name: str) -> str:
    """Return the tensor's layer: `encoder 0`, `decoder 3`, `layer 2` (neither side in the name), or `outside` the blocks."""
    layer = layer_of(name)
    if layer is None:
        return "outside"
    side = next((side for side in ("encoder", "decoder") if _BY_NAME[side].search(name.lower())), "layer")
    return f"{side} {layer}"


KINDS = ("new", "norms", "biases", "positions", "token-tables", "attention", "feed-forward", "embeddings", "weights")


def kind_label(roles: frozenset[str]) -> str:
    """Return the first of KINDS among the tensor's `roles`."""
    return next(kind for kind in KINDS if kind in roles)
