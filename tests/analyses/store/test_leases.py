"""A lease belongs to one process and is taken by another one only when its holder no longer renews it. No test needs a kernel's lock."""

import os
import queue
import signal
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest
from claim_cases import FORK, counted, holder

from analyses.store import leases
from analyses.store.leases import Leases, on_network
from analyses.store.locks import Held
from analyses.store.run_store import Store
from apet.files import WriteError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let leases expire after a second, and lose all of the kernel's locks."""

    def lost(*arguments):
        raise AssertionError("a lease asked for a kernel's lock")

    monkeypatch.setattr(leases, "EXPIRES", 1.0)
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    monkeypatch.setattr("fcntl.flock", lost)
    monkeypatch.setattr("fcntl.lockf", lost)


def made():
    return Leases().claim


def test_a_lease_that_another_machine_renews_is_refused_until_it_is_given_back(tmp_path):
    process, forever = holder(made, tmp_path / "run")
    mine, until = Leases(), time.monotonic() + 2.5  # longer than a lease lasts
    while time.monotonic() < until:
        with pytest.raises(Held), mine.claim(tmp_path / "run"):
            pass
        time.sleep(0.1)
    forever.set()
    process.join()
    with mine.claim(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lease_of_a_machine_that_died_is_taken_when_it_has_expired(tmp_path):
    process, _ = holder(made, tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    mine, began, taken = Leases(), time.monotonic(), 0.0
    with pytest.raises(Held), mine.claim(tmp_path / "run"):
        pass
    while not taken:
        with suppress(Held), mine.claim(tmp_path / "run"):
            taken = time.monotonic() - began
        time.sleep(0.05)
    assert 0.7 < taken < 5


def take(path: Path, taken, other) -> None:
    mine = Leases()
    for _ in range(100):
        with suppress(Held), mine.claim(path):
            taken.put(os.getpid())
            other.wait()  # hold it until all others have tried
            return
        time.sleep(0.02)


def test_an_expired_lease_has_one_new_holder(tmp_path):
    process, _ = holder(made, tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    taken, other = FORK.Queue(), FORK.Event()
    processes = [FORK.Process(target=take, args=(tmp_path / "run", taken, other)) for _ in range(4)]
    for each in processes:
        each.start()
    taken.get(timeout=20)
    time.sleep(2)
    other.set()
    for each in processes:
        each.join()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(queue.Empty):
        taken.get(timeout=0.1)


def test_a_holder_that_lost_its_lease_leaves_the_next_one_alone(tmp_path):
    mine = Leases()
    with mine.claim(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "aside")
        (tmp_path / "run").write_text("of another process")
    assert (tmp_path / "run").read_text() == "of another process"


def test_no_two_processes_hold_a_lease_at_once(tmp_path):
    assert counted(made, tmp_path, 50) == 200


def test_a_folder_without_write_access_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write .*run"), Leases().claim(tmp_path / "file" / "run"):
        pass


Mount = namedtuple("Mount", "mountpoint fstype")


@pytest.mark.parametrize(("kind", "network"), [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("ext4", False), ("tmpfs", False)])
def test_a_network_file_system_is_known_by_its_mount(tmp_path, monkeypatch, kind, network):
    mounts = [Mount("/", "ext4"), Mount(str(tmp_path), kind), Mount(str(tmp_path / "far"), "nfs")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    assert on_network(tmp_path / "results" / "study") == network
    assert on_network(tmp_path / "far" / "study")
    assert not on_network(tmp_path.parent)


def test_a_store_on_a_network_uses_leases_and_so_does_every_other_launch(tmp_path, monkeypatch):
    """The launches of the machine that exports the folder see an ordinary file system."""
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Mount("/", "nfs")])
    far = Store(tmp_path)
    with far.claim("run"):
        monkeypatch.setattr("psutil.disk_partitions", lambda all: [Mount("/", "ext4")])
        with pytest.raises(Held, match="perhaps on another machine"), Store(tmp_path).claim("run"):
            pass
    with Store(tmp_path).claim("run"):
        pass
