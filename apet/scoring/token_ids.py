"""Text -> token ids, as the model was trained to read them, whatever a user's text holds.

A tokenizer turns the name of a control token, such as `</s>` or `[MASK]`, into that token wherever a text quotes it. Here only the
template's own slot does that: in the texts of an example such a name is read as the ordinary characters that it consists of.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from apet.errors import UsageError

# Splits a text for the tokenizer and is taken out of its answer: a code point that Unicode keeps out of texts.
BREAK = "\ufdd0"


class Pieces:
    """The tokenizer of a model whose embedding has `rows` rows (None: not known), asked for ids.

    `prefix` and `suffix` are the ids that the tokenizer itself puts before and after every text, such as a BOS.
    """

    def __init__(self, tokenizer: Any, rows: int | None = None):
        self.tokenizer, self.rows = tokenizer, rows
        framed, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
        starts = [i for i in range(len(framed) - len(bare) + 1) if framed[i : i + len(bare)] == bare]
        start = starts[0] if starts else 0
        self.prefix, self.suffix = list(framed[:start]), list(framed[start + len(bare) :])

    @property
    def pad(self) -> int:
        """What fills a batch where its mask is 0: any id, if the tokenizer has none for it."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((each for each in known if each is not None), 0)

    def quoted(self, text: str) -> str:
        """`text` for a template, with the names of control tokens in it broken up, so that they are read as text."""
        return text if self._names is None else self._names.sub(lambda found: found[0][0] + BREAK + found[0][1:], text)

    def of(self, texts: Sequence[str], seconds: Sequence[str] | None = None, framed: bool = True) -> list[dict[str, list[int]]]:
        """`input_ids`, and `token_type_ids` where the tokenizer has them, of each text (with `seconds` of each pair of texts).

        With `framed` the ids that the tokenizer itself puts around a text are there too. Raises UsageError for an id that the
        model's embedding has no row for.
        """
        marked = any(BREAK in text for text in (*texts, *(seconds or ())))
        tokenizer = self._breaking if marked else self.tokenizer
        encoded = tokenizer(list(texts), *([list(seconds)] if seconds else []), add_special_tokens=framed, verbose=False)
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        found = [dict(zip(names, each, strict=True)) for each in zip(*(encoded[name] for name in names), strict=True)]
        if marked:
            end = tokenizer.convert_tokens_to_ids(BREAK)
            kept = [[i for i, piece in enumerate(each["input_ids"]) if piece != end] for each in found]
            found = [{name: [ids[i] for i in those] for name, ids in each.items()} for each, those in zip(found, kept, strict=True)]
        for each in found:
            self._check_rows(each["input_ids"])
        return found

    def behind(self, lead: str, text: str) -> list[int]:
        """The ids of `text` as it goes on behind `lead` and a space, without what the tokenizer puts around a text.

        A tokenizer may write the first word of a text in another way than the same word later on.
        """
        text = self.quoted(text.strip())
        if not lead:
            return self.of([f" {text}"], framed=False)[0]["input_ids"]
        alone, whole = (each["input_ids"] for each in self.of([lead, f"{lead} {text}"], framed=False))
        same = next((i for i, pair in enumerate(zip(alone, whole, strict=False)) if pair[0] != pair[1]), min(len(alone), len(whole)))
        return whole[same:]

    def cutter(self, text: str) -> tuple[int, Callable[[int], str]]:
        """Return the number of pieces of `text`, and a function that cuts it to about a given number of pieces."""
        if not self.tokenizer.is_fast:  # it does not say where in the text a piece ends
            return self._count(text), lambda count: self._by_halves(text, count)
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return len(offsets), lambda count: text[: offsets[count - 1][1] if count else 0]

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _by_halves(self, text: str, count: int) -> str:
        fits, too_long = 0, len(text) + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            fits, too_long = (middle, too_long) if self._count(text[:middle]) <= count else (fits, middle)
        return text[:fits]

    def _check_rows(self, ids: list[int]) -> None:
        if self.rows is not None and ids and max(ids) >= self.rows:
            piece = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise UsageError(
                f"the tokenizer gives {piece!r} the id {max(ids)}, and the model's embedding has {self.rows} rows: "
                f"the tokenizer is of another model, or the embedding was not resized when the token was added"
            )

    @cached_property
    def control(self) -> set[int]:
        """The ids of all control tokens but the one for what is unknown."""
        tokenizer = self.tokenizer
        named = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
        return named - {tokenizer.unk_token_id}

    @cached_property
    def _names(self) -> re.Pattern[str] | None:
        """What matches the name of any control token; the longest of those that begin alike."""
        names = [str(self.tokenizer.convert_ids_to_tokens(i)) for i in self.control]
        names = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def _breaking(self) -> Any:
        """A copy of the tokenizer that splits a text at BREAK; other texts it reads as the original does."""
        from tokenizers import AddedToken

        made = copy.deepcopy(self.tokenizer)
        made.add_tokens([AddedToken(BREAK, normalized=False, special=False)])
        return made
