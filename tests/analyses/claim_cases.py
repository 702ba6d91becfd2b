"""Processes that hold and contend for claims, for tests of locks and of leases. `made` makes the claim in each process."""

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from analyses.store.locks import Held

FORK = multiprocessing.get_context("fork")
Claim = Callable[[Path], AbstractContextManager[None]]


def hold(made: Callable[[], Claim], path: Path, held, forever) -> None:
    with made()(path):
        held.set()
        forever.wait()


def holder(made: Callable[[], Claim], path: Path):
    """Start a process that holds a claim. Return (process, event that makes it give the claim back)."""
    held, forever = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(made, path, held, forever))
    process.start()
    assert held.wait(10)
    return process, forever


def count_up(made: Callable[[], Claim], path: Path, counter: Path, times: int) -> None:
    claim = made()
    for _ in range(times):
        while True:
            try:
                with claim(path):
                    counter.write_text(str(int(counter.read_text()) + 1))
                    break
            except Held:
                pass


def counted(made: Callable[[], Claim], folder: Path, times: int) -> int:
    """Let four processes each add 1 to a number `times` times, each time within the claim. Return the number."""
    counter = folder / "counter"
    counter.write_text("0")
    processes = [FORK.Process(target=count_up, args=(made, folder / "run", counter, times)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(counter.read_text())
