"""Scope: which tensors may be tuned, as a line of text.

Terms separated by spaces must all hold of a tensor; `a|b` is either of two, `!a` is not a. A term is a role (attention,
feed-forward, embeddings, positions, token-tables, head, encoder, decoder, weights, biases, norms, new, all), a range of
layers (layers:0-3, counted in the encoder and in the decoder), or a pattern of names (*.q.weight).

    encoder attention weights            layers:0-1 !norms            *.wi_0.weight|*.wo.weight

The token embeddings and the output head have a row a token, and their share in all parameters changes along a family of
models: they are in scope only where a term asks for them (token-tables, embeddings, head, all, or their whole name).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from apet.errors import UsageError, did_you_mean

DEFAULT = ""  # everything but the token tables
_ASKS_FOR_TABLES = {"token-tables", "embeddings", "head", "all"}

# Where the blocks of T5, BERT, BLOOM and GPT-2 keep things; what a module is (norm, embedding) is asked of its class.
_BY_NAME = {
    "attention": re.compile(r"attention\.|attn\."),
    "feed-forward": re.compile(r"denserelu|intermediate\.|(?<!attention\.)output\.dense|mlp\.|ffn\."),
    "positions": re.compile(r"position_embeddings|relative_attention_bias|\bwpe\."),
    "encoder": re.compile(r"(^|\.)encoder\."),
    "decoder": re.compile(r"(^|\.)(decoder\.(block|layers?|final|embed)|h\.\d+|ln_f)"),
    "new": re.compile(r"(^|\.)apet_"),
}
_HEADS = re.compile(r"(classifier|classification_head|score|qa_outputs|cls)(\.|$)")
_RANGE = re.compile(r"layers?:(\d+)(?:-(\d+))?")
_LAYER = re.compile(r"(?:^|\.)(?:block|layers?|h)\.(\d+)\.")
ROLES = (*_BY_NAME, "embeddings", "token-tables", "head", "weights", "biases", "norms", "all")


def all_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter by each of its names; a tied one has several."""
    return dict(model.named_parameters(remove_duplicate=False))


@contextmanager
def only_trainable(model: nn.Module, chosen: Collection[nn.Parameter]) -> Iterator[None]:
    """While it lasts, `chosen` are the parameters of `model` that require a gradient; then all are as before."""
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
    """Roles of every parameter by name; a tied tensor has those of all its places, and the first of its shortest names."""
    names: dict[int, str] = {}
    for name, p in all_names(model).items():
        names[id(p)] = min(names.get(id(p), name), name, key=lambda each: (len(each), each))
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
    if type(module).__name__.endswith("Norm"):
        return {"norms"} | ({"biases"} if leaf == "bias" else set())
    if isinstance(module, nn.Embedding):
        return {"embeddings"}
    return {"biases"} if leaf == "bias" else {"weights"}


def parse_scope(scope: str) -> list[list[str]]:
    """Terms that must all hold, each a list of alternatives. Raises UsageError for what is no role, range or pattern."""
    terms = [term.split("|") for term in scope.split()]
    for option in (option.removeprefix("!") for term in terms for option in term):
        if not (option in ROLES or _RANGE.fullmatch(option) or _is_pattern(option)):
            raise UsageError(f"unknown scope '{option}'{did_you_mean(option, ROLES)} (a role, layers:L-M, or a pattern with *)")
    return terms


def in_scope(name: str, roles: frozenset[str], terms: list[list[str]]) -> bool:
    """Return whether the tensor is selected."""
    asked = any(option in _ASKS_FOR_TABLES or option == name for term in terms for option in term)
    return all(any(_holds(name, roles, option) for option in term) for term in terms) and (asked or "token-tables" not in roles)


def _holds(name: str, roles: frozenset[str], term: str) -> bool:
    if term.startswith("!"):
        return not _holds(name, roles, term[1:])
    if match := _RANGE.fullmatch(term):
        layer = layer_of(name)
        return layer is not None and int(match[1]) <= layer <= int(match[2] or match[1])
    return term in roles if term in ROLES else fnmatchcase(name, term)


def _is_pattern(term: str) -> bool:
    return "*" in term or "." in term


def layer_of(name: str) -> int | None:
    """Return the number of the block that the tensor is in, None outside the blocks."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def layer_label(name: str) -> str:
    """`encoder 0`, `decoder 3`, ..., or `outside` the blocks."""
    layer = layer_of(name)
    if layer is None:
        return "outside"
    side = next((side for side in ("encoder", "decoder") if _BY_NAME[side].search(name.lower())), "layer")
    return f"{side} {layer}"


KINDS = ("new", "norms", "biases", "positions", "token-tables", "attention", "feed-forward", "embeddings", "weights")


def kind_label(roles: frozenset[str]) -> str:
    """Return the first of KINDS that the tensor is."""
    return next(kind for kind in KINDS if kind in roles)
