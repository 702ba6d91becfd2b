"""What pretraining asks of each family: windows of token ids -> a batch, and a model's losses on it.

`language` is the loss that the ladder reports: mean cross-entropy in nats per target token.
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
    """How a family is pretrained: windows of `length` ids, `batch` a step; training minimises the sum of `losses`.

    With `halves_first` most steps see each window as two of half the length, as BERT's own pretraining began with short ones.
    """

    make_batch: MakeBatch
    losses: Losses
    batch: int
    length: int
    about: str
    halves_first: bool = False


def span_corruption(tokens: np.ndarray, rng: np.random.Generator, density: float = 0.15, span: float = 3.0) -> Arrays:
    """T5's denoising (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4): (batch, length) -> input_ids, labels.

    The number of masked tokens and of spans is the same in every row, so both results are rectangular:
    input_ids (batch, length - masked + spans + 1), labels (batch, masked + spans + 1); both end with </s>.
    """
    length = tokens.shape[1]
    masked = max(1, round(length * density))
    spans = max(1, round(masked / span))
    rows = [_corrupt(row, rng, masked, spans) for row in tokens]
    return {"input_ids": np.stack([r[0] for r in rows]), "labels": np.stack([r[1] for r in rows])}


def masked_pairs(tokens: np.ndarray, rng: np.random.Generator, density: float = 0.3) -> Arrays:
    """BERT's two questions (Devlin et al. 2019, arXiv 1810.04805, section 3.1) on (batch, length) ids.

    A window is cut in two at random; in every second row the second part is another row's. Of the tokens a share `density` is
    chosen, 80 % of it masked, 10 % replaced, 10 % kept. input_ids and token_type_ids (batch, length) hold [CLS] first [SEP]
    second [SEP], so a window's last three ids are not used; position_ids (batch, length) start anywhere in the table that a short
    window leaves room for, so that all of it is trained (Kiyono et al. 2021, arXiv 2109.05644); positions and targets (batch,
    chosen) say what was where; next_sentence_label (batch,) is 0 where the second part follows, 1 where it does not.
    """
    batch, length = tokens.shape
    places = rng.integers(0, POSITIONS - length + 1, (batch, 1)) + np.arange(length)
    cuts = rng.integers(length // 4, length - 3 - length // 4, batch)  # tokens in the first part
    strangers = np.arange(batch) % 2
    second = tokens[(np.arange(batch) + strangers) % batch]  # windows come in random order: the next row's is a stranger's
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
        "position_ids": places,
        "positions": positions,
        "targets": targets,
        "next_sentence_label": strangers,
    }


def next_token(tokens: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Causal language modelling: every piece is predicted from those before it (BLOOM, Scao et al. 2022, arXiv 2211.05100)."""
    return {"input_ids": tokens, "labels": tokens}


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"language": model(**batch).loss}


def bert_losses(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vocabulary is scored at the chosen positions only, which saves most of the output layer."""
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
    """`parts` positive integers that sum to `total`, uniformly at random."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
