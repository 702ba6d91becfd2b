"""The walk of one process through a study: it computes runs that are neither done nor claimed, and waits for runs that others have claimed.

So several jobs of one launch, two simultaneous launches of one study, and a shard that is run twice all behave alike: no run is lost and no
run is computed twice. A killed process loses its claim, and the next process resumes the run from its checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from analyses.runs import compute, fail, gradients, identify
from analyses.specs import Spec
from analyses.store import DONE, FAILED, Held, Store
from analyses.studies.stages import batches
from analyses.studies.study_file import Study
from analyses.thresholds import Run
from apet.errors import ApetError, UsageError

POLL = 0.5  # seconds between checks of runs that other processes have claimed


@dataclass(frozen=True)
class Event:
    """A report of a process.

    kind: "begin", "progress" (`done` of `total`), "held" (by another process), "done" or "failed" for the run `spec`; or "known" for
    `total` more runs, whose weights (`weight`) sum to `done`.
    """

    kind: str
    spec: Spec | None = None
    text: str = ""
    done: float = 0
    total: float = 0


@dataclass
class Outcome:
    """The outcome of a study."""

    done: list[str] = field(default_factory=list)  # ids of finished runs
    failed: list[tuple[Spec, str]] = field(default_factory=list)  # (spec, error)
    elsewhere: int = 0  # number of runs that other shards still have to do


@dataclass(frozen=True)
class Options:
    """Options for running a study.

    shard: (i, n) computes runs i, i + n, i + 2n, ... of every batch, counted from 1.
    force, retry_failed: compute again all runs, or all failed runs, that are older than `since` (ns of the file system's clock).
    """

    device: str = "cpu"
    shard: tuple[int, int] = (1, 1)
    force: bool = False
    retry_failed: bool = False
    longest_first: bool = False
    since: int = 0


PLAIN = Options()
Tell = Callable[[Event], None]
Launch = Callable[[Study, Store, Options, Tell], Outcome]  # computes the runs of a study
Settled = tuple[Spec, str, str | None]  # a run that is over: (spec, run id, error)


def parse_shard(text: str) -> tuple[int, int]:
    """Return (I, N) for the text I/N. Raises UsageError unless 1 <= I <= N."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise UsageError(f"the shard must have the form I/N with I from 1 to N, for instance 1/4 (got: {text})")
    return int(index), int(count)


def work(study: Study, store: Store, options: Options = PLAIN, tell: Tell = lambda event: None) -> Outcome:
    """Run the study in this process."""
    return Walk(study, store, options, tell, {}).through()


@dataclass
class Walk:
    """The walk of one process through a study. `died` maps each run that killed its processes to the reason; these runs have failed."""

    study: Study
    store: Store
    options: Options
    tell: Tell
    died: dict[Spec, str]

    def through(self, settled: Callable[[list[Spec]], Iterator[Settled]] | None = None) -> Outcome:
        """Compute all runs of the shard and return the outcome. `settled` yields runs once they are over (default: the method)."""
        outcome, settled = Outcome(), settled or self.settled
        index, count = self.options.shard
        for specs in batches(self.study, partial(find, self.study, self.store)):
            shard = specs[index - 1 :: count]
            self.tell(Event("known", done=sum(map(weight, shard)), total=len(shard)))
            for spec, name, error in settled(sorted(shard, key=weight, reverse=True) if self.options.longest_first else shard):
                if error is None:
                    outcome.done.append(name)
                else:
                    outcome.failed.append((spec, error))
                self.tell(Event("done" if error is None else "failed", spec, error or ""))
            outcome.elsewhere = sum(self.ended(spec) is None for spec in set(specs) - set(shard))
            if outcome.elsewhere:
                break  # the next batch depends on these runs
        return outcome

    def settled(self, specs: list[Spec]) -> Iterator[Settled]:
        """Yield (spec, run id, error) of every run once it is over, in this or another process. Runs that others have claimed come last."""
        waiting, held = deque(specs), 0
        while waiting:
            spec = waiting.popleft()
            try:
                yield spec, *self.settle(spec)
                held = 0
            except Held:
                waiting.append(spec)
                held += 1
                if held >= len(waiting):
                    time.sleep(POLL)
                    held = 0

    def settle(self, spec: Spec) -> tuple[str, str | None]:
        """Return (run id, error) of a run; compute the run if it is not over yet. Raises Held if another process computes it."""
        ended = self.ended(spec)
        if ended is not None:
            return ended
        data = self.study.data.get(spec.task_name)
        name = identify(spec, data, self.options.device)
        with self.store.claim(name):
            if self._state(name) is None:  # no other process has computed it in the meantime
                self._make(spec, name, data)
        return self.result(name)

    def ended(self, spec: Spec) -> tuple[str, str | None] | None:
        """Return (run id, error) of a run that is over, None for a run that must be computed. A run without its model or data is over."""
        try:
            name = identify(spec, self.study.data.get(spec.task_name), self.options.device)
        except ApetError as error:
            return "", str(error)
        return None if self._state(name) is None else self.result(name)

    def result(self, name: str) -> tuple[str, str | None]:
        """Return (run id, error) of a complete run. Raises ApetError if it is not complete."""
        state = self.store.state(name)
        if state is None:
            raise ApetError(f"run {name} was complete and has changed since: check that no other program writes to {self.store.root}")
        return name, None if state == DONE else self.store.rows(name)[0].note

    def _make(self, spec: Spec, name: str, data: Path | None) -> None:
        self.tell(Event("begin", spec))
        if spec in self.died:
            return fail(spec, name, self.store, self.died[spec])
        if self.store.state(name) is not None or (self.options.force and self._old(name)):
            self.store.forget(name)
        report = lambda what, done, total: self.tell(Event("progress", spec, what, done, total))  # noqa: E731
        compute(spec, name, self.store, data, self.options.device, report, keep_failure=True, afresh=self.options.force)

    def _state(self, name: str) -> str | None:
        """Return DONE or FAILED for a run that is over, None for a run that must be computed (again)."""
        state = self.store.state(name)
        repeat = self.options.force or (self.options.retry_failed and state == FAILED)
        return None if repeat and self._old(name) else state

    def _old(self, name: str) -> bool:
        """Return whether the run's folder is older than this launch."""
        return self.store.changed(name) < self.options.since


def find(study: Study, store: Store, spec: Spec) -> Run | None:
    """Return the run of `spec` if it is complete and did not fail, else None."""
    try:
        name = identify(spec, study.data.get(spec.task_name))
        return Run.of(store, name) if store.done(name) else None
    except ApetError:  # its model or data are missing, or its files are damaged and will be made again
        return None


def weight(spec: Spec) -> float:
    """Return an estimate of a run's time in arbitrary units: example gradients times model parameters (10^6 if unknown)."""
    return gradients(spec, spec.examples or 1000) * _sizes().get(spec.model, 1e6)


@cache
def _sizes() -> dict[str, int]:
    from apet.models import models_table

    return {row["name"]: row["parameters"] for row in models_table()}
