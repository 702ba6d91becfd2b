"""The pretext task of each family: functions that turn windows of token ids into a batch, and compute a model's losses on it.

The ladder reports the loss `language`, the mean cross-entropy in nats per target token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from apet.models import CLS, EOS, FIRST_SENTINEL, MASK, POSITIONS, SEP, SPECIAL_TOKENS, VOCABULARY

Arrays = dict[str, np.ndarray]


class MakeBatch(Protocol):
    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> Arrays: ...


class Losses(Protocol):
    def __call__(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Pretext:
    """The pretraining of a family: `batch` windows of `length` ids per step. Training minimises the sum of `losses`.

    With `halves_first` most steps split each window into two windows of half the length, like the original BERT, whose pretraining began
    with short windows.
    """

    make_batch: MakeBatch
    losses: Losses
    batch: int
    length: int
    about: str
    halves_first: bool = False


def span_corruption(tokens: np.ndarray, rng: np.random.Generator, density: float = 0.15, span: float = 3.0) -> Arrays:
    """Return a batch of T5's span corruption (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4) from tokens (batch, length).

    All rows have equally many masked tokens and spans, so both results are rectangular: `input_ids` (batch, length - masked + spans + 1)
    and `labels` (batch, masked + spans + 1). Both end with </s>.
    """
    length = tokens.shape[1]
    masked = max(1, round(length * density))
    spans = max(1, round(masked / span))
    rows = [_corrupt(row, rng, masked, spans) for row in tokens]
    return {"input_ids": np.stack([r[0] for r in rows]), "labels": np.stack([r[1] for r in rows])}


def masked_pairs(tokens: np.ndarray, rng: np.random.Generator, density: float = 0.3) -> Arrays:
    """Return a batch of BERT's two pretext tasks (Devlin et al. 2019, arXiv 1810.04805, section 3.1) from tokens (batch, length).

    Each window is cut into two parts at random. In every second row the second part comes from another row. A share `density` of the
    tokens is chosen; 80 % of the chosen tokens are masked, 10 % replaced, and 10 % kept.

    input_ids, token_type_ids: (batch, length), [CLS] first [SEP] second [SEP]; the last three ids of a window are not used
    position_ids: (batch, length), from a random start, so that short windows train the whole table (Kiyono et al. 2021, arXiv 2109.05644)
    positions, targets: (batch, chosen), the positions and the original ids of the chosen tokens
    next_sentence_label: (batch,), 0 if the second part follows the first, 1 if it comes from another row
    """
    batch, length = tokens.shape
    position_ids = rng.integers(0, POSITIONS - length + 1, (batch, 1)) + np.arange(length)
    cuts = rng.integers(length // 4, length - 3 - length // 4, batch)  # tokens in the first part
    swapped = np.arange(batch) % 2  # 1 if the second part comes from the next row, which is unrelated: windows come in random order
    second = tokens[(np.arange(batch) + swapped) % batch]
    ids, types = np.empty_like(tokens), np.zeros_like(tokens)
    for row, cut in enumerate(cuts):
        ids[row] = [CLS, *tokens[row, :cut], SEP, *second[row, cut : length - 3], SEP]
        types[row, cut + 2 :] = 1
    chosen = round(density * (length - 3))
    order = rng.random(ids.shape)
    order[np.isin(ids, (CLS, SEP))] = 2.0
    positions = np.sort(np.argsort(order, axis=1)[:, :chosen], axis=1)
    targets = np.take_along_axis(ids, positions, axis=1)
    kind = rng.random(targets.shape)
    noise = rng.integers(len(SPECIAL_TOKENS), VOCABULARY, targets.shape)
    shown = np.where(kind < 0.8, MASK, np.where(kind < 0.9, noise, targets))
    np.put_along_axis(ids, positions, shown, axis=1)
    return {
        "input_ids": ids,
        "token_type_ids": types,
        "position_ids": position_ids,
        "positions": positions,
        "targets": targets,
        "next_sentence_label": swapped,
    }


def next_token(tokens: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Return a batch of causal language modelling: each token is predicted from the earlier ones (Scao et al. 2022, arXiv 2211.05100)."""
    return {"input_ids": tokens, "labels": tokens}


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss that the model itself computes."""
    return {"language": model(**batch).loss}


def bert_losses(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return BERT's two losses. Logits are computed only at the chosen positions, which saves most of the output layer's work."""
    output = model.bert(batch["input_ids"], token_type_ids=batch["token_type_ids"], position_ids=batch["position_ids"])
    at = batch["positions"][:, :, None].expand(-1, -1, output.last_hidden_state.shape[2])
    logits = model.cls.predictions(output.last_hidden_state.gather(1, at))
    follows = model.cls.seq_relationship(output.pooler_output)
    return {
        "language": F.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten()),
        "next sentence": F.cross_entropy(follows.float(), batch["next_sentence_label"]),
    }


PRETEXTS = {
    "t5": Pretext(span_corruption, model_loss, 48, 64, "span corruption (15 %, mean span 3)"),
    "bert": Pretext(
        masked_pairs, bert_losses, 24, POSITIONS, "masked language modelling (30 %) and next-sentence prediction", halves_first=True
    ),
    "bloom": Pretext(next_token, model_loss, 24, 128, "causal language modelling"),
}


def _corrupt(row: np.ndarray, rng: np.random.Generator, masked: int, spans: int) -> tuple[np.ndarray, np.ndarray]:
    kept = _composition(len(row) - masked, spans, rng)
    noise = _composition(masked, spans, rng)
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    position = 0
    for i, (keep, mask) in enumerate(zip(kept, noise, strict=True)):
        sentinel = np.array([FIRST_SENTINEL + i])
        inputs += [row[position : position + keep], sentinel]
        position += keep
        targets += [sentinel, row[position : position + mask]]
        position += mask
    end = np.array([EOS])
    return np.concatenate([*inputs, end]), np.concatenate([*targets, end])


def _composition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Return `parts` positive integers with the sum `total`, drawn uniformly among all such lists."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
