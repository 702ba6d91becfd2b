"""Atomic writes: an interrupted write never leaves a partial file behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apet.errors import ApetError


class WriteError(ApetError):
    """The disk is full, or the path is not writable."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise a one-line WriteError if the body of the `with` statement fails to write `target`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
        if type(error).__name__ == "SafetensorError":  # wraps the operating system's error
            raise WriteError(f"cannot write {target}: {error}") from error
        raise


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, which is renamed to `target` on success and removed on failure.

    Raises WriteError if the file cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with writing(target):
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes) -> None:
    """Write `content` to the file `target` atomically, and return when it is on the disk (fsync)."""
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, which replaces `target` on success and is removed on failure."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
