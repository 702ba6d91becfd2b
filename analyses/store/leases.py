"""Leases: claims for a folder on a network file system, where a kernel's lock may not reach other machines.

A lease is a file that is created only if it does not exist, and that its holder renews every RENEWED seconds by a new modification time.
If a process sees the same time for EXPIRES seconds on its clock, because the holder or its machine died, it takes the lease. This needs
no lock of the kernel, and compares no clocks of two machines.

A process that was stopped for longer than EXPIRES may compute a run that another process computes, too. Both give the same results.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from analyses.store.locks import Held
from apet.files import writing

EXPIRES, RENEWED = 90.0, 20.0  # seconds
NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "pvfs2", "smb3", "smbfs")
Stamp = tuple[int, int]  # inode and modification time of a lease's file


def on_network(path: Path) -> bool:
    """Return whether the folder `path` is on a network file system, by the machine's table of mounts."""
    import psutil

    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    kind = next((mounts[folder] for folder in (path.resolve(), *path.resolve().parents) if folder in mounts), "")
    return kind in NETWORK or kind.startswith("fuse.")


class Leases:
    """The leases of one process. It remembers the leases of others that it has seen, to tell which are no longer renewed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Stamp, float]] = {}

    @contextmanager
    def claim(self, path: Path) -> Iterator[None]:
        """Hold the lease `path` while the block lasts. Raises Held if another process holds it, and WriteError if it cannot be written."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = self._created(path)
        ended = Event()
        renewing = Thread(target=_renew, args=(descriptor, ended), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            with suppress(OSError):
                if _stamp(path)[0] == os.fstat(descriptor).st_ino:  # it is still this process's
                    path.unlink()
            os.close(descriptor)

    def _created(self, path: Path) -> int:
        """Return the descriptor of the new file `path`. Raises Held if another process's file exists and has not expired."""
        while True:
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            except FileExistsError:
                self._take(path)
                continue
            self._seen.pop(path, None)
            with suppress(OSError):  # on a full disk the file does not name its holder
                os.write(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
            return descriptor

    def _take(self, path: Path) -> None:
        """Remove a lease that has expired. Raises Held otherwise."""
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            return  # given back in the meantime
        seen, since = self._seen.get(path, (None, 0.0))
        if seen != stamp:
            self._seen[path] = stamp, time.monotonic()
        if seen != stamp or time.monotonic() - since < EXPIRES:
            raise Held("another process is computing this run, perhaps on another machine")
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(path, aside)
            if _stamp(aside) != stamp:  # renewed, or new: another process took the lease first
                with suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()


def _stamp(path: Path) -> Stamp:
    """Return the stamp of a file. Opening the file makes a network file system ask its server."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_mtime_ns


def _renew(descriptor: int, ended: Event) -> None:
    """Renew a lease until its holder gives it back."""
    while not ended.wait(RENEWED):
        with suppress(OSError):  # another process may have taken it, or the network is down
            os.utime(descriptor)
