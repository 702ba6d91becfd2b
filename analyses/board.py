"""The live table of a study: what is done, what runs and how far it is, what failed, and about when all is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from statistics import mean
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from analyses.spec import Spec
from analyses.workers import Event


class Board:
    """Takes the events of a study and shows where it stands; a renderable of rich."""

    def __init__(self, jobs: int, clock: Callable[[], float] = time.monotonic):
        self.jobs, self.clock = jobs, clock
        self.known = self.done = self.failed = 0
        self.begun: dict[Spec, float] = {}
        self.progress: dict[Spec, tuple[str, float, float]] = {}
        self.seconds: list[float] = []  # of the runs that were made here
        self.started = clock()

    def take(self, event: Event) -> None:
        spec = event.spec
        if event.kind == "known":
            self.known += int(event.total)
        elif spec is None:
            return
        elif event.kind == "begin":
            self.begun[spec] = self.clock()
        elif event.kind == "progress":
            self.progress[spec] = (event.text, event.done, event.total)
        else:
            self.done += event.kind == "done"
            self.failed += event.kind == "failed"
            self.progress.pop(spec, None)
            begun = self.begun.pop(spec, None)
            if begun is not None:
                self.seconds.append(self.clock() - begun)

    def left(self) -> float | None:
        """Seconds until all known runs are over if they take as long as those made here on average; None before the first."""
        remaining = self.known - self.done - self.failed
        if not remaining or not self.seconds:
            return None if remaining else 0.0
        spent = sum(self.clock() - begun for begun in list(self.begun.values()))
        return max(0.0, remaining * mean(self.seconds) - spent) / self.jobs

    def __rich__(self) -> Any:
        left = self.left()
        counts = f"{self.done} of {self.known} done, {len(self.begun)} running, {self.failed} failed"
        head = f"{counts}, {_clock(self.clock() - self.started)} so far"
        table = Table(box=None, show_header=False, padding=(0, 2))
        for spec, begun in list(self.begun.items()):
            what, done, total = self.progress.get(spec, ("begins", 0, 0))
            share = f"{done:g} of {total:g}" if total else ""
            table.add_row(title(spec), what, share, _clock(self.clock() - begun))
        return Group(Text(head + (f", about {_clock(left)} left" if left is not None else "")), table)


def title(spec: Spec) -> str:
    """A run in a few words."""
    k = f" k = {spec.k:,}" if spec.k is not None else ""
    what = f"{spec.method}{k}, seed {spec.position_seed}/{spec.train_seed}" if spec.kind == "train" else f"{spec.kind}{k}"
    return f"{spec.model} {spec.task} {what}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
