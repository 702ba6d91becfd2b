"""Turn text into token ids, with control tokens only where the template has them.

A tokenizer turns the name of a control token, such as `</s>` or `[MASK]`, into that token wherever a text quotes the name. TextTokenizer
does so only for the template's slot. It reads the names in the texts of an example as ordinary characters.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from apet.errors import UsageError

# A code point that Unicode excludes from texts. It splits a text for the tokenizer and is removed from the ids.
BREAK = "\ufdd0"


class TextTokenizer:
    """Encode texts with `pretrained`, a transformers tokenizer.

    `rows` is the number of rows of the model's embedding (None: unknown). `prefix` and `suffix` are the ids that the tokenizer adds before
    and after every text, such as BOS.
    """

    def __init__(self, pretrained: Any, rows: int | None = None):
        self.pretrained, self.rows = pretrained, rows
        framed, bare = pretrained("a")["input_ids"], pretrained("a", add_special_tokens=False)["input_ids"]
        starts = [i for i in range(len(framed) - len(bare) + 1) if framed[i : i + len(bare)] == bare]
        start = starts[0] if starts else 0
        self.prefix, self.suffix = list(framed[:start]), list(framed[start + len(bare) :])

    @property
    def pad(self) -> int:
        """The id at positions whose attention mask is 0: the padding id, or any other id if the tokenizer does not have one."""
        known = (self.pretrained.pad_token_id, self.pretrained.eos_token_id)
        return next((id for id in known if id is not None), 0)

    def escaped(self, text: str) -> str:
        """Return `text` with a BREAK inside each name of a control token, so that the name is read as ordinary text."""
        return text if self._control_names is None else self._control_names.sub(lambda match: match[0][0] + BREAK + match[0][1:], text)

    def encode(self, texts: Sequence[str], seconds: Sequence[str] | None = None, framed: bool = True) -> list[dict[str, list[int]]]:
        """Return the `input_ids` of each text, or of each pair of texts if `seconds` are passed, and `token_type_ids` if available.

        With `framed` the result includes the ids that the tokenizer adds around a text. Raises UsageError for an id without a row in the
        model's embedding.
        """
        marked = any(BREAK in text for text in (*texts, *(seconds or ())))
        tokenizer = self._breaking if marked else self.pretrained
        encoded = tokenizer(list(texts), *([list(seconds)] if seconds else []), add_special_tokens=framed, verbose=False)
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]
        if marked:
            end = tokenizer.convert_tokens_to_ids(BREAK)
            rows = [_without(row, end) for row in rows]
        for row in rows:
            self._check_rows(row["input_ids"])
        return rows

    def continuation(self, lead: str, text: str, space: str = " ") -> list[int]:
        """Return the ids of `text` after `lead` and `space`, without the ids that the tokenizer adds around a text.

        A tokenizer may encode a word differently at the beginning of a text.
        """
        text = self.escaped(text.strip())
        if not lead:
            return self.encode([f" {text}"], framed=False)[0]["input_ids"]
        alone, whole = (row["input_ids"] for row in self.encode([lead, f"{lead}{space}{text}"], framed=False))
        same = next((i for i, pair in enumerate(zip(alone, whole, strict=False)) if pair[0] != pair[1]), min(len(alone), len(whole)))
        return whole[same:]

    def cutter(self, text: str) -> tuple[int, Callable[[int], str]]:
        """Return the number of tokens of `text`, and a function that cuts the text to approximately a given number of tokens."""
        if not self.pretrained.is_fast:  # slow tokenizers do not report where a token ends
            return self._count(text), lambda count: self._by_halves(text, count)
        offsets = self.pretrained(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return len(offsets), lambda count: text[: offsets[count - 1][1] if count else 0]

    def _count(self, text: str) -> int:
        return len(self.pretrained(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _by_halves(self, text: str, count: int) -> str:
        fits, too_long = 0, len(text) + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            fits, too_long = (middle, too_long) if self._count(text[:middle]) <= count else (fits, middle)
        return text[:fits]

    def _check_rows(self, ids: list[int]) -> None:
        if self.rows is not None and ids and max(ids) >= self.rows:
            token = self.pretrained.convert_ids_to_tokens(max(ids))
            raise UsageError(
                f"the tokenizer gives {token!r} the id {max(ids)}, but the model's embedding has only {self.rows} rows: "
                f"use the model's own tokenizer, or resize the embedding after adding a token"
            )

    @cached_property
    def control(self) -> set[int]:
        """The ids of all control tokens except the unknown token."""
        tokenizer = self.pretrained
        named = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
        return named - {tokenizer.unk_token_id}

    @cached_property
    def _control_names(self) -> re.Pattern[str] | None:
        """A pattern that matches the name of any control token. If several names match, the longest wins."""
        names = [str(self.pretrained.convert_ids_to_tokens(i)) for i in self.control]
        names = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def _breaking(self) -> Any:
        """A copy of the tokenizer that also splits texts at BREAK."""
        from tokenizers import AddedToken

        tokenizer = copy.deepcopy(self.pretrained)
        tokenizer.add_tokens([AddedToken(BREAK, normalized=False, special=False)])
        return tokenizer


def _without(row: dict[str, list[int]], id: int) -> dict[str, list[int]]:
    """Return the row without the positions whose input id is `id`."""
    positions = [i for i, token in enumerate(row["input_ids"]) if token != id]
    return {name: [values[i] for i in positions] for name, values in row.items()}
