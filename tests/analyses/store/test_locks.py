"""A claim belongs to one process, ends with the process however it ends, and leaves no file behind."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from analyses.store.locks import Held, claim

FORK = multiprocessing.get_context("fork")


def hold(path: Path, held, forever) -> None:
    with claim(path):
        held.set()
        forever.wait()


def holder(path: Path):
    held, forever = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(path, held, forever))
    process.start()
    assert held.wait(10)
    return process, forever


def test_a_claim_that_another_process_holds_is_refused_and_says_whose_it_is(tmp_path):
    process, forever = holder(tmp_path / "claims" / "run")
    with pytest.raises(Held, match=str(process.pid)), claim(tmp_path / "claims" / "run"):
        pass
    forever.set()
    process.join()
    with claim(tmp_path / "claims" / "run"):
        pass
    assert not list((tmp_path / "claims").iterdir())


def test_a_dead_holders_claim_is_free(tmp_path):
    process, _ = holder(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "run").exists()
    with claim(tmp_path / "run"):
        pass


def count_up(path: Path, counter: Path) -> None:
    for _ in range(200):
        while True:
            try:
                with claim(path):
                    counter.write_text(str(int(counter.read_text()) + 1))
                    break
            except Held:
                pass


def test_no_two_processes_hold_a_claim_at_once(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [FORK.Process(target=count_up, args=(tmp_path / "run", counter)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "800"


def test_what_fails_within_a_claim_lets_it_go(tmp_path):
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "run"):
        raise ZeroDivisionError
    with claim(tmp_path / "run"):
        pass
