"""Claims: only the process that holds the claim of a run computes it, so that two launches of one study share the work.

A claim is a kernel lock (flock) on a small file. The lock ends with the process that holds it, however that process ends, so a kill leaves
nothing to clean up. On a file system without locks every process gets the claim: a run may then be computed twice, with the same result.
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
    """Raised if another process is computing the run."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the lock on the file `path`, which names the host and process, while the block lasts.

    Raises Held if another process holds the lock, and WriteError if the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        with suppress(OSError):  # on a full disk the file does not name its holder
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock is released, so that the next process makes a new file
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Lock the file at `path` and return its descriptor."""
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise Held(f"another process is computing this run ({holder or 'it has just begun'})") from None
        except OSError:
            return descriptor  # the file system has no locks
        try:
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # its last holder deleted the file before it was locked here
        os.close(descriptor)
