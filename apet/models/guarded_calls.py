"""Guards for calls into transformers: one-line errors, nothing printed, and unchanged random generators of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from apet.errors import MissingInput


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn any error that a library raises for a missing, truncated or foreign file into a MissingInput of one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MissingInput(f"{source} cannot be read: {lines[0] if lines else type(error).__name__}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off transformers' progress bars and load reports; this package raises an error for each reported problem that matters."""
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
    """Seed the CPU generator with `seed` in the block and restore the state of the process's generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
