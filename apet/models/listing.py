"""The table of known models: the ladder, the aliases and the networks for images. It needs neither torch nor transformers."""

from __future__ import annotations

from typing import Any

from apet.models.aliases import ALIASES, BUILT_IN, Count
from apet.models.ladder import ladder_card, ladder_names
from apet.models.net_names import NET_NAMES


def models_table() -> list[dict[str, Any]]:
    """Return one row per known model by family, shipped models first. `apet.models.aliases.Count` explains the counts."""
    return [*map(_shipped, ladder_names()), *map(_alias_row, ALIASES), *map(_net_row, NET_NAMES)]


def _shipped(name: str) -> dict[str, Any]:
    family = f"mini-{name.split('-')[1]}"
    return _row(name, family, BUILT_IN[name], "CC BY-SA 3.0", "shipped", ladder_card(name)["heldout_loss"])


def _alias_row(name: str) -> dict[str, Any]:
    alias = ALIASES[name]
    return _row(name, alias.family, alias.count, alias.licence, alias.hub_id)


def _net_row(name: str) -> dict[str, Any]:
    return _row(name, "mnist", BUILT_IN[name], None, "drawn at random")


def _row(name: str, family: str, count: Count, licence: str | None, source: str, heldout_loss: float | None = None) -> dict[str, Any]:
    counts = {"parameters": count.parameters, "without_embeddings": count.without_embeddings, "layers": count.layers}
    return {"name": name, "family": family, **counts, "licence": licence, "source": source, "heldout_loss": heldout_loss}
