"""Live table of a study: finished, running and failed runs, their progress, and the estimated time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analyses.specs import Spec
from analyses.store import Store
from analyses.studies import Event, Launch, Options, Outcome, Study, weight
from analyses.terminal.printing import log, say


def run_watched(study: Study, store: Store, launch: Launch, options: Options) -> Outcome:
    """Run the study by `launch` with a live table of its progress on stderr, then print the failed runs."""
    board = Board()

    def receive(event: Event) -> None:
        board.take(event)
        if not log.is_terminal and event.kind in ("done", "failed") and event.spec in board.met:  # the log of a scheduler
            log.print(f"{event.kind} {event.spec.title}: {board.headline}", highlight=False, soft_wrap=True)

    log.print(f"study {study.name}: results in {store.root}", highlight=False, soft_wrap=True)
    with Live(board, console=log, transient=True, refresh_per_second=2):
        outcome = launch(study, store, options, receive)
    for spec, error in outcome.failed:
        say("failed:", f"{spec.title}: {error}")
    return outcome


class Board:
    """Progress of a study, updated by its events and displayed by rich."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.known = self.done = self.failed = 0
        self.begun: dict[Spec, float] = {}
        self.met: set[Spec] = set()  # runs that were not over before this launch
        self.progress: dict[Spec, tuple[str, float, float]] = {}
        self.work = self.over = 0.0  # weight (analyses.studies.walk.weight) of all known runs, and of all ended runs
        self.made = self.seconds = 0.0  # weight and duration of the runs that this process computed
        self.most = 1  # runs at a time
        self.started = clock()

    def take(self, event: Event) -> None:
        spec = event.spec
        if event.kind == "known":
            self.known += int(event.total)
            self.work += event.done
        elif spec is None:
            return
        elif event.kind == "begin":
            self.met.add(spec)
            self.begun[spec] = self.clock()
            self.most = max(self.most, len(self.begun))
        elif event.kind == "held":
            self.met.add(spec)
            self.begun.pop(spec, None)
        elif event.kind == "progress":
            self.progress[spec] = (event.text, event.done, event.total)
        else:
            self.done += event.kind == "done"
            self.failed += event.kind == "failed"
            self.over += weight(spec)
            self.progress.pop(spec, None)
            begun = self.begun.pop(spec, None)
            if begun is not None:
                self.made += weight(spec)
                self.seconds += self.clock() - begun

    def left(self) -> float | None:
        """Return the estimated seconds until all known runs have ended, or None before any progress.

        The estimate assumes that the number of runs at a time stays the highest so far, and that durations are proportional to weights. The
        ratio is taken from the runs that this launch computed or began.
        """
        if self.known == self.done + self.failed:
            return 0.0
        made, seconds, partly = self.made, self.seconds, 0.0
        for spec, begun in list(self.begun.items()):
            _, done, total = self.progress.get(spec, ("", 0.0, 0.0))
            share = weight(spec) * min(done / total, 1.0) if total else 0.0
            partly += share
            if share:
                made, seconds = made + share, seconds + self.clock() - begun
        return max(0.0, self.work - self.over - partly) * seconds / made / self.most if made else None

    @property
    def headline(self) -> str:
        """Numbers of finished, running and failed runs, the time so far and the estimated time left."""
        left = self.left()
        counts = f"{self.done} of {self.known} done, {len(self.begun)} running, {self.failed} failed, {_clock(self.clock() - self.started)}"
        return f"{counts} so far, " + ("time left not known yet" if left is None else f"about {_clock(left)} left")

    def __rich__(self) -> Any:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for spec, begun in list(self.begun.items()):
            task, done, total = self.progress.get(spec, ("starting", 0, 0))
            share = f"{done:g} of {total:g}" if total else ""
            table.add_row(spec.title, task, share, _clock(self.clock() - begun))
        return Group(Text(self.headline), table)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
