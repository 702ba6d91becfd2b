"""Short names of Hugging Face checkpoints, with their ids, architectures and parameter counts (the data: `known_models.yaml`).

The names `t5-*` stand for T5 v1.1, the models of the paper. The original T5 has no size "xl": its largest checkpoints are
google-t5/t5-3b and google-t5/t5-11b. The v1.1 checkpoints with further training as language models (for prompts) have no short
name; use their ids, google/t5-*-lm-adapt. The names `electra-*` stand for the discriminators, whose checkpoints have no language-model
head; `electra-generator-*` are masked language models.

The architectures are stored so that random weights and parameter counts need neither the network nor the cache. They consist of the
fields of each checkpoint's config.json that determine the function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KNOWN = yaml.safe_load((Path(__file__).parent / "known_models.yaml").read_text(encoding="utf-8"))
LAYERS = ("num_hidden_layers", "num_layers", "n_layer")  # fields of a configuration with the number of layers


@dataclass(frozen=True)
class Count:
    """Parameter counts of a model: all, with tied tensors once, and without token embeddings and output head.

    An encoder counts as a masked language model. `layers` is the number of layers, None for an image network. The layers of T5 are the
    encoder's; the decoder has as many.
    """

    parameters: int
    without_embeddings: int
    layers: int | None


@dataclass(frozen=True)
class Alias:
    """A checkpoint: its family, Hugging Face id, licence, fields of its transformers configuration (with `model_type`), and counts."""

    family: str
    hub_id: str
    licence: str
    config: dict[str, Any]
    count: Count


def _aliases(family: str, shared: dict[str, Any]) -> Iterator[tuple[str, Alias]]:
    """Yield (name, alias) of a family's models."""
    columns = shared["columns"]
    for name, (hub_id, parameters, without_embeddings, *values) in shared["models"].items():
        own = dict(values[len(columns)]) if len(values) > len(columns) else {}
        licence = own.pop("licence", shared["licence"])
        config = {**shared["config"], **dict(zip(columns, values, strict=False)), **own}
        layers = next(config[field] for field in LAYERS if field in config)
        yield name, Alias(family, hub_id, licence, config, Count(parameters, without_embeddings, layers))


ALIASES = {name: alias for family, shared in KNOWN["families"].items() for name, alias in _aliases(family, shared)}
BUILT_IN = {name: Count(*numbers) for name, numbers in KNOWN["built_in"].items()}
