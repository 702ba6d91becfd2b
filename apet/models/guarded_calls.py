"""Calls into transformers that neither print, nor raise errors of many lines, nor touch the process's random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from apet.errors import MissingInput


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises for a file that is missing, cut or of another format into one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MissingInput(f"{what} cannot be read: {lines[0] if lines else type(error).__name__}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters of those becomes an error here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def own_seed(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU and leave the process's own generators as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
