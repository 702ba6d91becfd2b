"""Models and losses for timing curvature products, of this project and of peers: BERT 4x256 and T5 4+4x256, 8 x 64 tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

MODELS = ("bert", "t5")


def build(name: str, attention: str = "eager") -> tuple[Any, dict]:
    """Return a model with random weights in evaluation mode, and a batch with labels."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    ids = torch.randint(5, 8192, (8, 64))
    if name == "bert":
        config = BertConfig(
            vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
            attn_implementation=attention,
        )  # fmt: skip
        return BertForSequenceClassification(config).eval(), {"input_ids": ids, "labels": torch.randint(0, 2, (8,))}
    config = T5Config(
        vocab_size=8192, d_model=256, d_ff=1024, d_kv=64, num_layers=4, num_decoder_layers=4, num_heads=4,
        decoder_start_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval(), {"input_ids": ids, "labels": torch.randint(5, 8192, (8, 64))}


def objective_of(model: Any, batch: dict, coordinates: Any) -> tuple[Any, Any]:
    """Return the landscape Objective over the k coordinates, attached to `model`, and the attachment, which must be detached later."""
    from landscape import CrossEntropy, Objective

    attached = coordinates.attach(model)

    def outputs(z, batch):
        attached.bind(z)
        return model(**batch).logits

    return Objective(outputs, CrossEntropy(), [batch], coordinates.k, attached.z.dtype), attached


def coordinates_of(model: Any, k: int, seed: int = 0) -> Any:
    """Return k random entries of all weights, biases and norms, without embeddings."""
    from apet.subspaces import Coordinates, ParameterSpace, random_entries

    space = ParameterSpace.of(model)
    return Coordinates(space, random_entries(space.size, k, seed))


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each work in each round, after one warm-up. The order is rotated from round to round."""
    names = list(works)
    for work in works.values():
        work()
    timings: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            timings[name].append(seconds(works[name]))
    return timings


def ratio(timings: dict[str, list[float]], a: str, b: str) -> tuple[float, float, float]:
    """Return the median over rounds of a / b and its 95 % bootstrap interval."""
    import numpy as np

    ratios = np.array(timings[a]) / np.array(timings[b])
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)
