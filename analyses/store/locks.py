"""Claims: which process computes a run, so that two launches of one study share the work.

A claim is a lock of the kernel's on a small file. It ends with the process that holds it, however that ends, so nothing
has to be cleaned up after a kill. Where a file system has no locks, everybody gets the claim: a run may then be computed
twice, with the same result.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apet.errors import ApetError
from apet.files import writing


class Held(ApetError):
    """Another process computes the run right now."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the file `path`, which says who holds it, while the block lasts. Raises Held if another process does,
    WriteError where nobody can."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        with suppress(OSError):  # on a full disk nobody reads who it was
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before it is let go: who comes later makes a file of its own
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of the locked file at `path`."""
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise Held(f"another process computes this run ({holder or 'just begun'})") from None
        except OSError:
            return descriptor  # no locks here
        try:
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # its last holder took the file away while we waited for it
        os.close(descriptor)
