"""Processes share a study: no run is lost and no run is computed twice, whichever process is killed."""

import errno
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from study_cases import rows_of, small, spec_of, with_thresholds

import analyses.studies.workers
from analyses.runs.run_kinds import RUN_KINDS
from analyses.runs.train import train_run
from analyses.store.run_store import Store
from analyses.studies.study_file import Stage, Study
from analyses.studies.walk import Event, Options, work
from analyses.studies.workers import run_study, seat
from apet.errors import ApetError, Interrupted
from apet.machine.memory import free_memory, share_memory

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("whole"))
    run_study(small(folder), store)
    return with_thresholds(store)


def launch(study: Study, root: Path, made: Path) -> None:
    """Run the study in this process and append the runs that it computes to the file `made`."""

    def tell(event: Event) -> None:
        if event.kind == "begin":
            with made.open("a") as file:
                file.write(f"{event.spec}\n")

    work(study, Store(root), tell=tell)


def launched(study: Study, root: Path, made: Path):
    process = FORK.Process(target=launch, args=(study, root, made))
    process.start()
    return process


@pytest.mark.parametrize(("jobs", "devices"), [(1, 1), (4, 1), (4, 2), (5, 2), (3, 8)])
def test_jobs_are_spread_over_the_devices_and_know_how_many_share_one(jobs, devices):
    seats = [seat(number, jobs, devices) for number in range(jobs)]
    count = Counter(device for device, _ in seats)
    assert set(count) == set(range(min(jobs, devices)))
    assert max(count.values()) - min(count.values()) <= 1
    assert all(sharers == count[device] for device, sharers in seats)


def test_the_free_memory_is_divided_among_the_jobs():
    alone = free_memory("cpu")
    try:
        share_memory(cpu=4)
        assert free_memory("cpu") == pytest.approx(alone / 4, rel=0.5)  # others use the machine, too
    finally:
        share_memory(cpu=1)


@pytest.mark.parametrize("leased", [False, True], ids=["locks", "no locks"])
def test_two_launches_at_once_share_the_runs(whole, folder, tmp_path, monkeypatch, leased):
    if leased:  # as on a network file system that loses locks
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        Store(tmp_path / "store").use_leases()
    processes = [launched(small(folder), tmp_path / "store", tmp_path / "made") for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = Store(tmp_path / "store")
    assert rows_of(with_thresholds(store)) == rows_of(whole)
    assert len((tmp_path / "made").read_text().splitlines()) == 6


@pytest.mark.parametrize("order", [(1, 2, 1), pytest.param((2, 2, 1), marks=pytest.mark.long)])
def test_shards_make_up_the_study_and_one_that_is_run_twice_does_nothing_more(whole, folder, tmp_path, order):
    store, begun, outcomes = Store(tmp_path), [], []
    for index in order:
        tell = lambda event: begun.append(event.spec) if event.kind == "begin" else None  # noqa: E731
        outcomes.append(work(small(folder), store, Options(shard=(index, 2)), tell))
    assert len(begun) == len(set(begun)) == 6
    assert outcomes[0].elsewhere == 3
    assert outcomes[2].elsewhere == 0
    assert rows_of(with_thresholds(store)) == rows_of(whole)


def test_a_launch_waits_for_what_another_has_claimed_and_takes_it_over_when_that_dies(whole, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("analyses.studies.walk.POLL", 0.01)
    study, store = small(folder), Store(tmp_path)
    process = FORK.Process(target=_stuck, args=(study, tmp_path))
    process.start()
    while not list(tmp_path.glob(".claims/*")):
        time.sleep(0.01)
    threading.Timer(2.0, lambda: os.kill(process.pid, signal.SIGKILL)).start()
    assert len(work(study, store).done) == 6
    process.join()
    assert rows_of(with_thresholds(store)) == rows_of(whole)


def _stuck(study: Study, root: Path) -> None:
    RUN_KINDS["train"] = replace(RUN_KINDS["train"], run=lambda *_: time.sleep(600))
    work(study, Store(root))


@pytest.mark.long
def test_force_makes_every_run_once_more_and_leaves_the_others_alone(folder, tmp_path):
    study, store = small(folder), Store(tmp_path)
    run_study(study, store)
    other = Study("other", (Stage("runs", (spec_of(k=7).resolved(),)),), (), study.data)
    run_study(other, store)
    stamps = {name: store.changed(name) for name in store.run_ids()}
    (store.folder("x" * 16)).mkdir()
    begun = []
    options = Options(force=True, since=store.now())
    for _ in range(2):  # as two processes of one launch do
        work(study, store, options, lambda event: begun.append(event.spec) if event.kind == "begin" else None)
    assert len(begun) == 6
    redone = [name for name, stamp in stamps.items() if store.changed(name) != stamp]
    assert len(redone) == 6


def test_a_place_that_cannot_be_written_to_stops_the_study_in_one_line(folder, tmp_path):
    root = tmp_path / "store"
    root.write_text("a file, where a folder should be")
    with pytest.raises(ApetError, match="cannot write"):
        work(small(folder), Store(root))


def filled_after(monkeypatch, writes: float) -> list[int]:
    """Let `writes` files fit on the disk. Return a list with an entry for each file that was written."""
    written, plain = [], os.fsync

    def full(descriptor: int) -> None:
        if len(written) >= writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)
        written.append(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    return written


LONG = pytest.mark.long


@pytest.mark.parametrize(("runs", "files"), [(0, 3), *(pytest.param(*case, marks=LONG) for case in ((0, 0), (1, -1), (1, 0), (2, 2)))])
def test_a_full_disk_stops_the_study_and_harms_no_run(whole, folder, tmp_path, monkeypatch, runs, files):
    """The disk is full after `runs` complete runs and `files` more files. Then there is room again."""
    written, ends = filled_after(monkeypatch, math.inf), [0]
    work(small(folder), Store(tmp_path / "room"), tell=lambda event: ends.append(len(written)) if event.kind == "done" else None)
    monkeypatch.undo()
    filled_after(monkeypatch, writes := ends[runs] + files)
    store = Store(tmp_path / "full")
    with pytest.raises(ApetError, match="cannot write .*No space left on device"):
        work(small(folder), store)
    assert len(store.run_ids()) == sum(end <= writes for end in ends) - 1
    assert not store.run_ids("failed")
    assert not list(tmp_path.glob("**/*.tmp"))
    monkeypatch.undo()
    assert len(work(small(folder), store).done) == 6
    assert rows_of(with_thresholds(store)) == rows_of(whole)


def test_a_study_that_is_done_can_be_looked_at_where_nothing_can_be_written(whole, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("analyses.store.locks.os.open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(work(small(folder), Store(whole.root)).done) == 6


@pytest.mark.long
def test_two_processes_give_the_rows_of_one(whole, folder, tmp_path):
    store = Store(tmp_path)
    assert len(run_study(small(folder), store, jobs=2).done) == 6
    assert rows_of(with_thresholds(store)) == rows_of(whole)


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes of a crew, so that they inherit the patches of this process."""
    monkeypatch.setattr(analyses.studies.workers, "START", "fork")


def test_a_run_that_kills_its_process_twice_has_failed_and_the_others_are_done(forked, folder, tmp_path, monkeypatch):
    """Kill the process without a message, as when memory runs out."""

    def deadly(spec, *rest):
        if spec.method == "full":
            os.kill(os.getpid(), signal.SIGKILL)
        return train_run(spec, *rest)

    monkeypatch.setitem(RUN_KINDS, "train", replace(RUN_KINDS["train"], run=deadly))
    store, events = Store(tmp_path), []
    outcome = run_study(small(folder), store, jobs=2, tell=events.append)
    assert len(outcome.done) == 5
    ((spec, error),) = outcome.failed
    assert spec.method == "full"
    assert "died 2 times in this run (signal 9" in error
    assert len(store.run_ids("failed")) == 1
    assert sum(event.total for event in events if event.kind == "known") == 6
    assert sum(event.kind == "done" for event in events) == 5


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def ctrl_c(request):
    """Set the handler of Ctrl-C: the default in the foreground, or ignored as in a background job of a shell."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


STOPS_TOO = ((1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGTERM))
STOPS = [(2, signal.SIGTERM), *(pytest.param(*each, marks=pytest.mark.long) for each in STOPS_TOO)]


@pytest.mark.parametrize(("jobs", "number"), STOPS)
def test_a_study_that_is_told_to_stop_saves_what_runs_and_goes_on_later(forked, ctrl_c, whole, folder, tmp_path, number, jobs):
    if number == signal.SIGINT and ctrl_c == signal.SIG_IGN:
        pytest.skip("ignored, as it should be")
    store, saved = Store(tmp_path), tmp_path / "saved"

    def stop(event: Event) -> None:
        if event.kind == "begin" and event.spec.method == "full" and not saved.exists():
            saved.mkdir()
            threading.Timer(0.1, lambda: os.kill(os.getpid(), number)).start()

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run_study(small(folder), store, tell=stop, jobs=jobs)
    assert len(store.run_ids()) < 6
    run_study(small(folder), store, jobs=jobs)
    assert rows_of(with_thresholds(store)) == rows_of(whole)
