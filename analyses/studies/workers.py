"""Running a study with several processes, each of which walks through the same batches of runs (`analyses.studies.walk`)."""

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

POLL = 0.5  # seconds between looks at runs that others have claimed
START = "spawn"  # how processes are started: with a library's threads running, a fork may hang
DEATHS = 2  # a run in whose hands a process died so often has failed


def seat(number: int, jobs: int, devices: int) -> tuple[int, int]:
    """(the GPU of job `number` of 0 .. jobs - 1, how many jobs share it) where they are spread evenly over `devices`."""
    device = number % devices
    return device, len(range(device, jobs, devices))


def run_study(study: Study, store: Store, jobs: int = 1, options: Options = PLAIN, tell: Tell = lambda event: None) -> Outcome:
    """Run what is not done yet; a failed run does not stop the others. With `jobs` > 1 each process uses one thread.

    Raises Interrupted or KeyboardInterrupt on Ctrl-C and SIGTERM, after what runs has saved its state, and WriteError where
    results cannot be written.
    """
    with terminable():
        return work(study, store, options, tell) if jobs == 1 else _crew(study, store.root, jobs, options, tell)


def _crew(study: Study, root: Path, jobs: int, options: Options, tell: Tell) -> Outcome:
    """The study by `jobs` processes. Each goes through all of it, so the outcome of the last to finish is that of all."""
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
    """Processes at work, by the pipe that each talks through (one each: a process that is killed takes no shared lock along)."""

    def __init__(self, study: Study, root: Path, jobs: int, options: Options, tell: Tell):
        self.study, self.root, self.jobs, self.options, self.tell = study, root, jobs, options, tell
        self.members: dict[Any, Any] = {}
        self.numbers: dict[Any, int] = {}  # of the jobs
        self.hand: dict[Any, Spec] = {}  # the run that each has in hand
        self.deaths: Counter[Spec] = Counter()
        self.died: dict[Spec, str] = {}
        self.outcome: Outcome | None = None
        self._told: set[tuple[str, Spec]] = set()
        self._known: Counter[Any] = Counter()  # runs that each has told of
        self._most = 0

    def start(self, number: int) -> None:
        context = multiprocessing.get_context(START)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_member, args=(theirs, os.getpid(), self.study, self.root, self.options, self.died, number, self.jobs)
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which it inherits, and takes when it is ready
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.members[ours], self.numbers[ours] = process, number

    def listen(self, pipe: Any) -> None:
        try:
            said = pipe.recv()
        except (EOFError, OSError):
            return self._bury(pipe)
        if isinstance(said, Outcome):
            self.outcome = said
        elif isinstance(said, ApetError | KeyboardInterrupt):
            raise said
        else:
            self._hear(pipe, said)

    def stop(self) -> None:
        """Ask all to save what they have in hand, and listen until they are gone: none may wait for its words to be heard."""
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
        """Pass on what is news: all of them tell of all runs."""
        if event.kind == "begin" and event.spec is not None:
            self.hand[pipe] = event.spec
        if event.kind in ("done", "failed") and event.spec is not None:
            self.hand.pop(pipe, None)
            if (event.kind, event.spec) in self._told:
                return
            self._told.add((event.kind, event.spec))
        if event.kind == "known":
            return self._count(pipe, event)
        self.tell(event)

    def _count(self, pipe: Any, event: Event) -> None:
        self._known[pipe] += int(event.total)
        if self._known[pipe] > self._most:
            self.tell(event)
            self._most = self._known[pipe]

    def _bury(self, pipe: Any) -> None:
        """A process is gone: at its end, or in the middle of a run, which is then tried again, and given up the second time."""
        process, spec, number = self.members.pop(pipe), self.hand.pop(pipe, None), self.numbers.pop(pipe)
        pipe.close()
        process.join()
        if process.exitcode == 0:
            return
        reason = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
        if spec is None:
            raise ApetError(f"a process of the study died outside of any run ({reason})")
        self.deaths[spec] += 1
        if self.deaths[spec] >= DEATHS:
            self.died[spec] = f"the process died {DEATHS} times in this run ({reason}; 9 often means that memory ran out)"
        self.start(number)


def _member(
    pipe: Connection, parent: int, study: Study, root: Path, options: Options, died: dict[Spec, str], number: int, jobs: int
) -> None:
    """The process of a job of the crew. Ctrl-C and SIGTERM are the parent's, which passes them on once; if the parent dies, it stops."""
    import torch

    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    torch.set_num_threads(1)
    _sit(number, jobs, options.device)

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:  # nobody listens any more: no failure of the run in hand
            raise KeyboardInterrupt from None

    try:
        _follow(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        pipe.send(Walk(study, Store(root), options, tell, died).through())
    except (ApetError, KeyboardInterrupt) as error:
        with suppress(OSError):
            pipe.send(error)


def _sit(number: int, jobs: int, device: str) -> None:
    """Take the job's GPU, and its share of the memory."""
    import torch

    from apet.machine import share_memory

    share_memory(cpu=jobs)
    if torch.device(device).type == "cuda":
        gpu, sharers = seat(number, jobs, torch.cuda.device_count())
        torch.cuda.set_device(gpu)
        share_memory(cuda=sharers)


def _follow(parent: int) -> None:
    """Have the kernel send Ctrl-C when the parent is gone (Linux only; elsewhere the next word to it tells)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
    if os.getppid() != parent:
        raise KeyboardInterrupt
