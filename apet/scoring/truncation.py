"""Shorten the fields of an example until its input fits, from the ends of the longest fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apet.errors import UsageError
from apet.scoring.text_tokenizer import TextTokenizer
from apet.tasks import Example, Task

Tokenize = Callable[[Sequence[Example]], list[dict[str, Any]]]  # examples -> items with `input_ids`


def shortened(
    example: Example, item: dict[str, Any], most: int, task: Task, tokenizer: TextTokenizer, tokenize: Tokenize
) -> dict[str, Any]:
    """Return the example's item with at most `most` tokens. `item` is the item of the whole example.

    A cut text may gain a token, so cutting is repeated until the example fits. Raises UsageError if it cannot fit.
    """
    length = len(item["input_ids"])
    while length > most:
        # One character may have several tokens, so a cut to fewer tokens may leave the text unchanged.
        cuts = (_cut(example, excess, task, tokenizer) for excess in range(length - most, length + 1))
        shorter = next((cut for cut in cuts if cut != example), example)
        if shorter == example:
            raise UsageError(f"max_length = {most} is too short for the template of {task.name}: use a larger max_length")
        example = shorter
        (item,) = tokenize([example])
        length = len(item["input_ids"])
    return item


def _cut(example: Example, excess: int, task: Task, tokenizer: TextTokenizer) -> Example:
    cutters = {name: tokenizer.cutter(example[name]) for name in task.fields}
    keep = _level({name: count for name, (count, _) in cutters.items()}, excess)
    return example | {name: cutters[name][1](count) for name, count in keep.items()}


def _level(lengths: dict[str, int], excess: int) -> dict[str, int]:
    """Return the lengths after `excess` cuts by one, each at the longest length, so that the lengths stay as equal as possible."""
    keep = dict(lengths)
    for _ in range(excess):
        longest = max(keep, key=lambda name: keep[name])
        keep[longest] = max(0, keep[longest] - 1)
    return keep
