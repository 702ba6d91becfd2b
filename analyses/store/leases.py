"""Leases: claims for a folder on a network file system, where a kernel's lock may not reach other machines.

A lease is a file that its holder renews every RENEWED seconds. If it is not renewed for EXPIRES seconds, because the holder or its machine
died, another process takes it. A process that was stopped for longer than that may compute a run that another process computes, too; both
give the same files, which are written atomically.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses.store.locks import Held
from apet.files import writing

EXPIRES, RENEWED = 90.0, 20.0  # seconds
NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
}


def on_network(path: Path) -> bool:
    """Return whether the folder `path` is on a network file system, by the machine's table of mounts."""
    import psutil

    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    kind = next((mounts[folder] for folder in (path.resolve(), *path.resolve().parents) if folder in mounts), "")
    return kind in NETWORK or kind.startswith("fuse.")


class Leases:
    """The leases of one process. It remembers the leases of others that it has seen, to tell which are no longer renewed."""

    def __init__(self) -> None:
        self._seen: dict[Path, Any] = {}

    @contextmanager
    def claim(self, path: Path) -> Iterator[None]:
        """Hold the lease `path` while the block lasts. Raises Held if another process holds it, and WriteError if it cannot be written."""
        from filelock import SoftFileLease, Timeout

        if path not in self._seen:
            self._seen[path] = SoftFileLease(path, lease_duration=EXPIRES, heartbeat_interval=RENEWED, thread_local=False)
        lease = self._seen[path]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lease.acquire(timeout=0)
            except Timeout:
                raise Held("another process is computing this run, perhaps on another machine") from None
        del self._seen[path]
        try:
            yield
        finally:
            lease.release()
