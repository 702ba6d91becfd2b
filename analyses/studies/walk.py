"""One process's walk through a study: it takes what is neither done nor claimed, and waits for what others have claimed.

Several jobs of one launch, two launches of one study at once, and a shard that is run twice are therefore all the same thing: nothing is
lost and nothing is computed twice. What is killed lets go of its claim, and the next one goes on from its checkpoint.
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


PLAIN = Options()
Tell = Callable[[Event], None]


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of I/N. UsageError unless 1 <= I <= N."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise UsageError(f"the shard {text} is not I/N with I from 1 to N, for instance 1/4")
    return int(index), int(count)


def work(study: Study, store: Store, options: Options = PLAIN, tell: Tell = lambda event: None) -> Outcome:
    """Run the study in this process."""
    return Walk(study, store, options, tell, {}).through()


@dataclass
class Walk:
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
