"""Run a study with several processes. Each process walks through the same batches of runs (`analyses.studies.walk`)."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from analyses.specs import Spec
from analyses.store import Store
from analyses.studies.signals import terminable
from analyses.studies.study_file import Study
from analyses.studies.walk import PLAIN, Event, Options, Outcome, Tell, Walk, work
from apet.errors import ApetError

START = "spawn"  # how processes are started; a fork may hang while threads of a library run
DEATHS = 2  # a run has failed if its process died this many times


def seat(number: int, jobs: int, devices: int) -> tuple[int, int]:
    """Return (GPU, number of jobs on this GPU) of job `number` in 0..jobs - 1, with the jobs spread evenly over `devices` GPUs."""
    device = number % devices
    return device, len(range(device, jobs, devices))


def run_study(study: Study, store: Store, options: Options = PLAIN, tell: Tell = lambda event: None, jobs: int = 1) -> Outcome:
    """Compute the runs that are not done yet. A failed run does not stop the others. With `jobs` > 1 each process uses one thread.

    Raises Interrupted or KeyboardInterrupt on Ctrl-C and SIGTERM, after current runs have saved their state. Raises WriteError if results
    cannot be written.
    """
    with terminable():
        return work(study, store, options, tell) if jobs == 1 else _crew(study, store.root, jobs, options, tell)


def _crew(study: Study, root: Path, jobs: int, options: Options, tell: Tell) -> Outcome:
    """Run the study with `jobs` processes. Each process walks through the whole study, so the last one to finish knows the full outcome."""
    crew = _Crew(study, root, jobs, options, tell)
    try:
        for number in range(jobs):
            crew.start(number)
        while crew.members:
            for pipe in wait(list(crew.members)):
                crew.listen(pipe)
    except BaseException:
        crew.stop()
        raise
    assert crew.outcome is not None
    return crew.outcome


class _Crew:
    """The processes of a study, by the pipe through which each one reports.

    Each process has a separate pipe, so that a killed process cannot take a shared lock with it.
    """

    def __init__(self, study: Study, root: Path, jobs: int, options: Options, tell: Tell):
        self.study, self.root, self.jobs, self.options, self.tell = study, root, jobs, options, tell
        self.members: dict[Any, Any] = {}  # pipe -> process
        self.numbers: dict[Any, int] = {}  # pipe -> number of the job
        self.hand: dict[Any, Spec] = {}  # pipe -> current run
        self.deaths: Counter[Spec] = Counter()
        self.died: dict[Spec, str] = {}
        self.outcome: Outcome | None = None
        self._reported: set[tuple[str, Spec]] = set()
        self._known: Counter[Any] = Counter()  # pipe -> number of runs that the process has announced
        self._most = 0

    def start(self, number: int) -> None:
        """Start the process of job `number`."""
        context = multiprocessing.get_context(START)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_member, args=(theirs, os.getpid(), self.study, self.root, self.options, self.died, number, self.jobs)
        )
        # The process inherits the blocked signal and unblocks it when it is ready.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.members[ours], self.numbers[ours] = process, number

    def listen(self, pipe: Any) -> None:
        """Receive a message of a process and handle it. Raises the error that the process sent."""
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return self._bury(pipe)
        if isinstance(message, Outcome):
            self.outcome = message
        elif isinstance(message, ApetError | KeyboardInterrupt):
            raise message
        else:
            self._hear(pipe, message)

    def stop(self) -> None:
        """Ask all processes to save their current run. Receive messages until they have ended, so that none blocks on a full pipe."""
        for process in self.members.values():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        while self.members:
            for pipe in wait(list(self.members)):
                try:
                    pipe.recv()  # type: ignore[union-attr]
                except (EOFError, OSError):
                    self.members.pop(pipe).join()

    def _hear(self, pipe: Any, event: Event) -> None:
        """Pass on an event unless another process has reported it: every process reports all runs."""
        if event.kind == "begin" and event.spec is not None:
            self.hand[pipe] = event.spec
        if event.kind in ("done", "failed") and event.spec is not None:
            self.hand.pop(pipe, None)
            if (event.kind, event.spec) in self._reported:
                return
            self._reported.add((event.kind, event.spec))
        if event.kind == "known":
            return self._count(pipe, event)
        self.tell(event)

    def _count(self, pipe: Any, event: Event) -> None:
        self._known[pipe] += int(event.total)
        if self._known[pipe] > self._most:
            self.tell(event)
            self._most = self._known[pipe]

    def _bury(self, pipe: Any) -> None:
        """Handle the end of a process. A run that it was computing is tried again, and fails at the DEATHS-th death of a process."""
        process, spec, number = self.members.pop(pipe), self.hand.pop(pipe, None), self.numbers.pop(pipe)
        pipe.close()
        process.join()
        if process.exitcode == 0:
            return
        reason = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
        if spec is None:
            raise ApetError(f"a process of the study died between runs ({reason})")
        self.deaths[spec] += 1
        if self.deaths[spec] >= DEATHS:
            self.died[spec] = f"the process died {DEATHS} times in this run ({reason}; signal 9 often means that memory ran out)"
        self.start(number)


def _member(
    pipe: Connection, parent: int, study: Study, root: Path, options: Options, died: dict[Spec, str], number: int, jobs: int
) -> None:
    """Run one job of the crew in its process.

    The parent handles Ctrl-C and SIGTERM and passes them on once. The process stops if the parent dies.
    """
    import torch

    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it by default
    torch.set_num_threads(1)
    _sit(number, jobs, options.device)

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:  # the parent is gone, which is not a failure of the current run
            raise KeyboardInterrupt from None

    try:
        _follow(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        pipe.send(Walk(study, Store(root), options, tell, died).through())
    except (ApetError, KeyboardInterrupt) as error:
        with suppress(OSError):
            pipe.send(error)


def _sit(number: int, jobs: int, device: str) -> None:
    """Select the job's GPU and limit the job to its share of the memory."""
    import torch

    from apet.machine import share_memory

    share_memory(cpu=jobs)
    if torch.device(device).type == "cuda":
        gpu, sharers = seat(number, jobs, torch.cuda.device_count())
        torch.cuda.set_device(gpu)
        share_memory(cuda=sharers)


def _follow(parent: int) -> None:
    """Ask the kernel to send SIGINT when the parent dies (Linux only; elsewhere the next message to the parent fails)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
    if os.getppid() != parent:
        raise KeyboardInterrupt
