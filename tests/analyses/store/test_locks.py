"""A claim belongs to one process, ends with the process however it ends, and leaves no file behind."""

import os
import signal

import pytest
from claim_cases import counted, holder

from analyses.store.locks import Held, claim


def made():
    return claim


def test_a_claim_that_another_process_holds_is_refused_and_says_whose_it_is(tmp_path):
    process, forever = holder(made, tmp_path / "claims" / "run")
    with pytest.raises(Held, match=str(process.pid)), claim(tmp_path / "claims" / "run"):
        pass
    forever.set()
    process.join()
    with claim(tmp_path / "claims" / "run"):
        pass
    assert not list((tmp_path / "claims").iterdir())


def test_a_dead_holders_claim_is_free(tmp_path):
    process, _ = holder(made, tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "run").exists()
    with claim(tmp_path / "run"):
        pass


def test_no_two_processes_hold_a_claim_at_once(tmp_path):
    assert counted(made, tmp_path, 200) == 800


def test_what_fails_within_a_claim_lets_it_go(tmp_path):
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "run"):
        raise ZeroDivisionError
    with claim(tmp_path / "run"):
        pass
