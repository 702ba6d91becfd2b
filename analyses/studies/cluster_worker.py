"""The worker's side of a study on a Ray cluster: compute the runs of an errand and report each one.

A worker that sees the driver's folder of results computes there. Any other worker computes in a temporary folder and sends the files of
each run to the driver.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analyses.specs import Spec
from analyses.store import Held, Store
from analyses.studies.study_file import Study
from analyses.studies.walk import Event, Options, Tell, Walk

SECONDS = 1.0  # between two reports of a run's progress


@dataclass(frozen=True)
class Request:
    """The share of its node that a run reserves: cores, GPUs (a fraction shares one), and memory in GB (1e9 bytes; 0 reserves none)."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0

    def __str__(self) -> str:
        units = ((self.cpus, "cores"), (self.gpus, "GPUs"), (self.memory, "GB"))
        return ", ".join(f"{amount:g} {unit}" for amount, unit in units if amount)


ONE_CORE = Request()


def room(node: dict[str, Any], request: Request) -> int:
    """Return the number of runs at a time on a node (an entry of ray.nodes())."""
    has = node["Resources"]
    gpus = has.get("GPU", 0.0) * int(1 / request.gpus) if 0 < request.gpus < 1 else has.get("GPU", 0.0) / (request.gpus or 1)
    rooms = [has.get("CPU", 0.0) / request.cpus]
    rooms += [gpus] if request.gpus else []
    rooms += [has.get("memory", 0.0) / (request.memory * 1e9)] if request.memory else []
    return int(min(rooms) + 1e-9)


@dataclass(frozen=True)
class Order:
    """The part that all errands of a launch share.

    marker: a file in the folder of results, by which a worker recognises that it sees this folder. here: the driver's working directory,
    to which paths of models and data may be relative. command: the driver's `sys.argv`. facts: versions that driver and workers must share.
    """

    study: Study
    root: Path
    marker: Path
    here: Path
    options: Options
    request: Request
    command: tuple[str, ...]
    facts: dict[str, str]


@dataclass(frozen=True)
class Errand:
    """Runs of one base model, computed one after the other by one worker.

    parents: references to the files of the finished runs from which these runs start, by run id. A worker that sees the driver's folder
    needs none.
    """

    specs: tuple[Spec, ...]
    parents: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """A worker's report about a run, or (without a run) the reason why it computes nothing.

    begin: a run begins on the node `node`. over: the run `name` is over, with its error, and its files unless the driver sees them. held:
    another launch computes the run. apart: the worker needs the files of the run's parents.
    """

    kind: str
    spec: Spec | None = None
    name: str = ""
    error: str | None = None
    files: dict[str, bytes] | None = None
    node: str = ""


def compute_errand(order: Order, errand: Errand, fetch: Callable[[Any], dict[str, bytes]], tell: Tell) -> Iterator[Message]:
    """Yield messages about the runs of the errand.

    fetch: returns the content of a reference. tell: receives reports of progress. Raises Interrupted after the current run has saved its
    state, and WriteError if results cannot be written.
    """
    import ray

    node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    differing = [f"{name} {mine} (driver: {order.facts.get(name)})" for name, mine in facts().items() if order.facts.get(name) != mine]
    if differing:
        advice = "install the same versions on all nodes"
        yield Message("refused", error=f"the worker on {address} has {', '.join(differing)}: {advice}")
        return
    sys.argv = list(order.command)  # for the record of the command that started a run
    with suppress(OSError):
        os.chdir(order.here)
    _sit(order.request, next(room(each, order.request) for each in ray.nodes() if each["NodeID"] == node))
    shared = order.marker.exists()
    store = Store(order.root if shared else _scratch() / order.root.name)
    walk = Walk(order.study, store, order.options, _seldom(tell), {})
    for spec in errand.specs:
        yield Message("begin", spec, node=node)
        missing = [] if shared else [name for name in parents_of(spec) if not store.done(name)]
        if not set(missing) <= set(errand.parents):
            yield Message("apart", spec)
            continue
        for parent in missing:
            store.adopt(parent, fetch(errand.parents[parent]))
        try:
            name, error = walk.settle(spec)
        except Held:
            yield Message("held", spec)
            continue
        where = f" (on node {address})" if error and not name else ""  # its model or data are missing there
        yield Message("over", spec, name, error and error + where, None if shared or not name else store.files(name))
        if not shared:
            store.forget(name)
    if not shared:
        for parent in errand.parents:
            store.forget(parent)


def parents_of(spec: Spec) -> list[str]:
    """Return the ids of the finished runs from which a run starts."""
    return [run_id for field in ("at", "to") if (run_id := getattr(spec, field, None))]


@cache
def facts() -> dict[str, str]:
    """Return the versions that the driver and all workers must share for equal results: libraries, and a fingerprint of this program."""
    from analyses.runs import versions

    return {name: version for name, version in versions().items() if name not in ("python", "machine")} | {"program": _program()}


def _program() -> str:
    """Return a fingerprint of this program's source files."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for room in ("analyses", "apet", "landscape") for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]


@cache
def _scratch() -> Path:
    """Return a folder for results of this process. The folders of processes that have ended are deleted."""
    import psutil

    folder = Path(tempfile.gettempdir()) / f"apet-workers-{os.getuid()}"  # each user of a node has a folder
    folder.mkdir(mode=0o700, exist_ok=True)
    for other in folder.iterdir():
        if other.name.isdigit() and not psutil.pid_exists(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)
    return folder / str(os.getpid())


def _sit(request: Request, sharers: int) -> None:
    """Limit the process to its share of the cores and of the memory. Ray has chosen its GPU."""
    import torch

    from apet.machine import share_memory

    torch.set_num_threads(max(1, int(request.cpus)))
    share_memory(cpu=max(1, sharers))
    if request.gpus:
        share_memory(cuda=max(1, int(1 / request.gpus)))


def _seldom(tell: Tell) -> Tell:
    """Return a receiver that passes on an event of progress every SECONDS."""
    last = time.monotonic()

    def receive(event: Event) -> None:
        nonlocal last
        if event.kind == "progress" and time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            tell(event)

    return receive


def errands(specs: Sequence[Spec], size: int) -> Iterator[tuple[Spec, ...]]:
    """Yield parts of `specs` with at most `size` runs, which share model, weights and task. The order of the first runs is kept."""
    groups: dict[tuple, list[Spec]] = {}
    for spec in specs:
        groups.setdefault((spec.model, spec.random_init, spec.weights, spec.task), []).append(spec)
    for group in groups.values():
        yield from (tuple(group[start : start + size]) for start in range(0, len(group), size))
