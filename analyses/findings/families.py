"""Families of models. The models of a family differ only in size."""

from __future__ import annotations


def family(model: str) -> str:
    """Return the model's name without its organisation and size. Random-init twins form a separate family.

    `family("google/mini-t5-240k (random init)")` is "mini-t5 (random init)". `family("gpt2")` is "gpt2", like `family("gpt2-xl")`.
    """
    name, control, rest = model.rstrip("/").rpartition("/")[2].partition(" (")
    return (name.rpartition("-")[0] or name) + control + rest
