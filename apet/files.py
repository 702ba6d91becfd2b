"""Writing that never leaves half a file behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apet.errors import ApetError


class WriteError(ApetError):
    """The disk is full, or the place cannot be written to."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the system says of a write to `target` that failed into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
        if type(error).__name__ == "SafetensorError":  # it wraps the system's
            raise WriteError(f"cannot write {target}: {error}") from error
        raise


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`; renamed onto it on success, removed on failure. WriteError where it cannot be written."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with writing(target):
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes) -> None:
    """`content` as the file `target`, on the disk when this returns."""
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Like `atomic_path` for a whole folder; an older `target` is replaced at the end."""
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
