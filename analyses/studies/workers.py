"""Running a study: processes that walk through the same batches of runs and share them by claims.

A process takes what is neither done nor claimed, and before the next batch waits for what others have claimed. Several jobs
of one launch, two launches of one study at once, and a shard that is run twice are therefore all the same thing: nothing is
lost and nothing is computed twice. What is killed lets go of its claim, and the next one goes on from its checkpoint.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from analyses.runs import compute, fail, gradients, identify
from analyses.specs import Spec
from analyses.store import DONE, FAILED, Held, Store
from analyses.studies.signals import terminable
from analyses.studies.stages import batches
from analyses.studies.study_file import Study
from analyses.thresholds import Run
from apet.errors import ApetError, UsageError

POLL = 0.5  # seconds between looks at runs that others have claimed
START = "spawn"  # how processes are started: with a library's threads running, a fork may hang
DEATHS = 2  # a run in whose hands a process died so often has failed


@dataclass(frozen=True)
class Event:
    """What a process tells: `begin`, `progress` (done of total), `done` or `failed` of a run; `known`: `total` more runs, which weigh
    `done` together."""

    kind: str
    spec: Spec | None = None
    text: str = ""
    done: float = 0
    total: float = 0


@dataclass
class Outcome:
    """What came of a study's runs: ids of finished runs, (spec, error) of failed ones, and how many other shards have to do yet."""

    done: list[str] = field(default_factory=list)
    failed: list[tuple[Spec, str]] = field(default_factory=list)
    elsewhere: int = 0


@dataclass(frozen=True)
class Options:
    """How a study is run. `shard` (i, n): of every batch the i-th, i + n-th, ... run; `since` (ns, the file system's clock): with
    `force` whatever is older is done again, with `retry_failed` failed runs that are."""

    device: str = "cpu"
    shard: tuple[int, int] = (1, 1)
    force: bool = False
    retry_failed: bool = False
    longest_first: bool = False
    since: int = 0


Tell = Callable[[Event], None]


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of I/N. UsageError unless 1 <= I <= N."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise UsageError(f"the shard {text} is not I/N with I from 1 to N, for instance 1/4")
    return int(index), int(count)


def seat(number: int, jobs: int, devices: int) -> tuple[int, int]:
    """(the GPU of job `number` of 0 .. jobs - 1, how many jobs share it) where they are spread evenly over `devices`."""
    device = number % devices
    return device, len(range(device, jobs, devices))


def run_study(study: Study, store: Store, jobs: int = 1, options: Options = Options(), tell: Tell = lambda event: None) -> Outcome:
    """Run what is not done yet; a failed run does not stop the others. With `jobs` > 1 each process uses one thread.

    Raises Interrupted or KeyboardInterrupt on Ctrl-C and SIGTERM, after what runs has saved its state, and WriteError where
    results cannot be written.
    """
    with terminable():
        return work(study, store, options, tell) if jobs == 1 else _crew(study, store.root, jobs, options, tell)


def work(study: Study, store: Store, options: Options = Options(), tell: Tell = lambda event: None) -> Outcome:
    """Run the study in this process."""
    return _Walk(study, store, options, tell, {}).through()


@dataclass
class _Walk:
    """One process on its way through a study; `died` are runs that are given up, with the reason."""

    study: Study
    store: Store
    options: Options
    tell: Tell
    died: dict[Spec, str]

    def through(self) -> Outcome:
        outcome = Outcome()
        index, count = self.options.shard
        for specs in batches(self.study, partial(find, self.study, self.store)):
            mine = specs[index - 1 :: count]
            self.tell(Event("known", done=sum(map(weight, mine)), total=len(mine)))
            for spec, name, error in self._settled(sorted(mine, key=weight, reverse=True) if self.options.longest_first else mine):
                if error is None:
                    outcome.done.append(name)
                else:
                    outcome.failed.append((spec, error))
                self.tell(Event("done" if error is None else "failed", spec, error or ""))
            outcome.elsewhere = sum(not self._over(spec) for spec in set(specs) - set(mine))
            if outcome.elsewhere:
                break  # the next batch is not known before
        return outcome

    def _settled(self, specs: list[Spec]) -> Iterator[tuple[Spec, str, str | None]]:
        """(spec, run id, error) of every run as it is over, in whatever process; those that others have claimed come last."""
        waiting, held = deque(specs), 0
        while waiting:
            spec = waiting.popleft()
            try:
                yield spec, *self._settle(spec)
                held = 0
            except Held:
                waiting.append(spec)
                held += 1
                if held >= len(waiting):
                    time.sleep(POLL)
                    held = 0

    def _settle(self, spec: Spec) -> tuple[str, str | None]:
        """(run id, error) of one run, which is made here if it is not over yet."""
        data = self.study.data.get(spec.task)
        try:
            name = identify(spec, data)
        except ApetError as error:  # its model or data are not here
            return "", str(error)
        state = self._state(name)
        if state is None:
            with self.store.claim(name):
                if self._state(name) is None:  # nobody has made it in the meantime
                    self._make(spec, name, data)
            state = self.store.state(name)
        if state is None:
            raise ApetError(f"run {name} was whole and no longer is: does something else write to {self.store.root}?")
        return name, None if state == DONE else self.store.rows(name)[0].note

    def _make(self, spec: Spec, name: str, data: Path | None) -> None:
        self.tell(Event("begin", spec))
        if spec in self.died:
            return fail(spec, name, self.store, self.died[spec])
        if self.store.state(name) is not None or (self.options.force and self._old(name)):
            self.store.forget(name)
        report = lambda what, done, total: self.tell(Event("progress", spec, what, done, total))  # noqa: E731
        compute(spec, name, self.store, data, self.options.device, report, keep_failure=True)

    def _state(self, name: str) -> str | None:
        """DONE or FAILED for a run that is over, None for one that is to be made (again)."""
        state = self.store.state(name)
        again = self.options.force or (self.options.retry_failed and state == FAILED)
        return None if again and self._old(name) else state

    def _old(self, name: str) -> bool:
        """Whether what is there of the run is from before this launch."""
        return self.store.changed(name) < self.options.since

    def _over(self, spec: Spec) -> bool:
        try:
            return self._state(identify(spec, self.study.data.get(spec.task))) is not None
        except ApetError:
            return True  # it never will be made here


def find(study: Study, store: Store, spec: Spec) -> Run | None:
    """The run of `spec` if it is done and did not fail."""
    try:
        name = identify(spec, study.data.get(spec.task))
        return Run.of(store, name) if store.done(name) else None
    except ApetError:  # not here, or damaged: it is about to be made again
        return None


def weight(spec: Spec) -> float:
    """About how long a run takes, in units of its own: its example-gradients times the model's parameters, where they are known."""
    return gradients(spec, spec.examples or 1000) * _sizes().get(spec.model, 1e6)


@cache
def _sizes() -> dict[str, int]:
    from apet.models import models_table

    return {row["name"]: row["parameters"] for row in models_table()}


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
        pipe.send(_Walk(study, Store(root), options, tell, died).through())
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
