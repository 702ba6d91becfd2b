"""The table of known models: the ladder, the aliases and the networks for images."""

from __future__ import annotations

import json
from typing import Any

from apet.models.aliases import ALIASES, count_parameters
from apet.models.ladder import LADDER, ladder_card, ladder_names
from apet.models.mnist_nets import NETS, draw_net


def models_table() -> list[dict[str, Any]]:
    """Return one row per known model, shipped models first.

    BERT is counted as a masked language model. The layers of T5 are the encoder's; the decoder has as many.
    """
    return [*map(_shipped, ladder_names()), *map(_alias_row, ALIASES), *map(_net_row, NETS)]


def _alias_row(name: str) -> dict[str, Any]:
    alias = ALIASES[name]
    return _row(name, alias.config) | {"licence": alias.licence, "source": alias.hub_id, "heldout_loss": None}


def _net_row(name: str) -> dict[str, Any]:
    total = sum(p.numel() for p in draw_net(name, 0, "meta").parameters())
    row = {"name": name, "family": "net", "parameters": total, "without_embeddings": total, "layers": None}
    return row | {"licence": None, "source": "drawn at random", "heldout_loss": None}


def _shipped(name: str) -> dict[str, Any]:
    config = json.loads((LADDER / name / "config.json").read_text())
    return _row(name, config) | {"licence": "CC BY-SA 3.0", "source": "shipped", "heldout_loss": ladder_card(name)["heldout_loss"]}


def _row(name: str, config: dict[str, Any]) -> dict[str, Any]:
    counts = count_parameters(config)
    family = config["model_type"]
    return {"name": name, "family": family, "parameters": counts.total, "without_embeddings": counts.blocks, "layers": counts.layers}
