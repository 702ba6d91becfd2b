"""Run a study on a Ray cluster. The driver walks through the study, and sends the runs that are not over to workers.

Ray places errands (`analyses.studies.cluster_worker`) on nodes with free cores, GPUs and memory, also on nodes that join later. If a
worker or a node dies, its runs are sent again. They resume from their checkpoints if the workers share the folder of results. Otherwise
they start again.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analyses.runs import fail, identify
from analyses.specs import Spec
from analyses.store import Held, Store
from analyses.studies.cluster_connection import connected
from analyses.studies.cluster_worker import ONE_CORE, Errand, Message, Order, Request, compute_errand, errands, facts, parents_of, room
from analyses.studies.signals import terminable
from analyses.studies.study_file import Study
from analyses.studies.walk import PLAIN, Event, Options, Outcome, Settled, Tell, Walk
from apet.errors import ApetError, MissingInput, UsageError

log = logging.getLogger(__name__)
POLL = 0.5  # seconds between looks at the cluster
STOP = 120.0  # seconds in which workers must have saved their runs after Ctrl-C
SEEN = 120.0  # seconds in which a network file system must show the driver what a worker wrote
DEATHS = 2  # a run has failed if its worker died this many times on a node that lives on
AHEAD = 2  # errands that are with Ray at a time, per run that the cluster can compute at a time
PARTS = 4  # errands per run that the cluster can compute at a time, so that all workers end at about the same time
MOST = 16  # runs of an errand


def run_on_cluster(
    study: Study, store: Store, options: Options = PLAIN, tell: Tell = lambda event: None, address: str = "auto",
    request: Request = ONE_CORE,
) -> Outcome:  # fmt: skip
    """Compute the runs that are not done yet on the Ray cluster at `address` ("auto": the cluster of this machine).

    Raises MissingInput without Ray, a cluster, or a run's model or data on a node, and UsageError if no node has what a run reserves.
    Raises KeyboardInterrupt on Ctrl-C and SIGTERM, after the workers have saved their runs.
    """
    device = "cuda" if request.gpus else "cpu"
    with connected(address) as ray, terminable(), store.marked() as marker:
        order = Order(
            study, store.root.resolve(), marker, Path.cwd(), replace(options, device=device), request, tuple(sys.argv), facts()
        )  # fmt: skip
        cluster = _Cluster(ray, order, Walk(study, store, replace(options, device="cpu"), tell, {}))
        try:
            return cluster.walk.through(cluster.settled)
        except BaseException:
            cluster.stop()
            raise


@dataclass
class _Cluster:
    """The errands that are with Ray, and what their workers have reported."""

    ray: Any  # the module
    order: Order
    walk: Walk
    out: dict[Any, list[Spec]] = field(default_factory=dict)  # generator of messages -> runs that are not over
    current: dict[Any, tuple[Spec, str]] = field(default_factory=dict)  # generator -> current run and its node
    queue: deque[tuple[Spec, ...]] = field(default_factory=deque)  # runs that are not with Ray
    held: list[Spec] = field(default_factory=list)  # runs that another launch computes
    deaths: Counter[Spec] = field(default_factory=Counter)
    slots: int = 0  # runs that the cluster can compute at a time
    apart: bool = False  # whether some workers do not see the driver's folder of results
    looked: float = -math.inf

    def __post_init__(self) -> None:
        request = self.order.request
        memory = {"memory": int(request.memory * 1e9)} if request.memory else {}
        reserve = self.ray.remote(num_returns="streaming", max_retries=0, num_cpus=request.cpus, num_gpus=request.gpus, **memory)
        self._errand, self._order = reserve(_errand), self.ray.put(self.order)
        self._bell = self.ray.remote(num_cpus=0)(_Bell).options(scheduling_strategy=_on_this_node(self.ray)).remote()
        self._look()
        if not self.slots:
            raise UsageError(f"no node of the cluster has what a run reserves ({request})")

    def settled(self, specs: list[Spec]) -> Iterator[Settled]:
        """Yield (spec, run id, error) of every run once it is over."""
        rest = []
        for spec in specs:
            ended = self.walk.ended(spec)
            if ended is None:
                rest.append(spec)
            else:
                yield spec, *ended
        size = math.ceil(len(rest) / (PARTS * max(1, self.slots)))
        self.queue.extend(errands(rest, max(1, min(MOST, size))))
        while self.queue or self.out or self.held:
            self._look()
            self._send()
            for generator in self._ready():
                message = self._receive(generator)
                if message is not None:
                    yield from self._heard(generator, message)

    def stop(self) -> None:
        """Ask all workers to save their current run, wait until they have, and keep the runs that they sent in the meantime."""
        for generator in self.out:
            with suppress(Exception):  # a worker that is gone
                self.ray.cancel(generator, force=False)
        until = time.monotonic() + STOP
        while self.out and time.monotonic() < until:
            for generator in self._ready():
                try:
                    self._keep(self.ray.get(next(generator)))
                except (StopIteration, self.ray.exceptions.RayError):
                    del self.out[generator]

    def _look(self) -> None:
        """Look at the nodes, at the runs that other launches computed, and at the progress of runs, every POLL seconds."""
        if time.monotonic() - self.looked < POLL:
            return
        before, self.looked = self.slots, time.monotonic()
        self.slots = sum(room(node, self.order.request) for node in self.ray.nodes() if node["Alive"])
        if before and not self.slots:
            log.warning("no node of the cluster has what a run reserves (%s): waiting for one", self.order.request)
        free = [spec for spec in self.held if self._is_free(spec)]
        self.held = [spec for spec in self.held if spec not in free]
        self.queue.extend(errands(free, 1))
        with suppress(self.ray.exceptions.RayError):  # progress is not worth an error
            for event in self.ray.get(self._bell.take.remote(), timeout=POLL):
                self.walk.tell(event)

    def _is_free(self, spec: Spec) -> bool:
        """Return whether no process holds the claim of a run."""
        try:
            with self.walk.store.claim(self._name(spec)):
                return True
        except Held:
            return False

    def _send(self) -> None:
        """Hand errands to Ray, as many as keep all workers busy."""
        while self.queue and len(self.out) < AHEAD * max(1, self.slots):
            specs = self.queue.popleft()
            parents = {name for spec in specs for name in parents_of(spec)} if self.apart else set()
            errand = Errand(specs, {name: self.ray.put(self.walk.store.files(name)) for name in parents})
            self.out[self._errand.remote(self._order, errand, self._bell)] = list(specs)

    def _ready(self) -> list[Any]:
        """Return the generators that have a message or have ended. Waits at most POLL seconds."""
        if not self.out:
            time.sleep(POLL)
            return []
        out = list(self.out)
        ready, _ = self.ray.wait(out, num_returns=len(out), timeout=0, fetch_local=False)
        return ready or self.ray.wait(out, num_returns=1, timeout=POLL, fetch_local=False)[0]

    def _receive(self, generator: Any) -> Message | None:
        """Return the next message of a worker, or None if the errand has ended. The runs of a dead worker are sent again."""
        try:
            return self.ray.get(next(generator))
        except StopIteration:
            self.current.pop(generator, None)
            del self.out[generator]
            return None
        except self.ray.exceptions.RayTaskError as error:  # an error of the worker's code, such as a full disk
            raise _told(error.cause if isinstance(error.cause, Exception) else error) from None
        except self.ray.exceptions.RayError as error:
            return self._bury(generator, error)

    def _bury(self, generator: Any, error: Exception) -> Message | None:
        """Send the runs of a dead worker again. The run that killed it for the DEATHS-th time has failed."""
        rest, (spec, node) = self.out.pop(generator), self.current.pop(generator, (None, ""))
        lives = any(each["NodeID"] == node and each["Alive"] for each in self.ray.nodes())
        if spec is not None and lives and not isinstance(error, self.ray.exceptions.NodeDiedError):
            self.deaths[spec] += 1
        if spec is not None and self.deaths[spec] >= DEATHS:
            rest.remove(spec)
            self._fail(spec, f"the worker died {DEATHS} times in this run ({type(error).__name__}; often memory ran out)")
        self.queue.extendleft(errands(rest, MOST))
        ended = None if spec is None or spec in rest else self.walk.ended(spec)
        if spec is None or ended is None:
            return None
        return Message("over", spec, *ended)

    def _fail(self, spec: Spec, reason: str) -> None:
        """Store a run as failed, unless it is over or another launch computes it."""
        name = self._name(spec)
        try:
            with self.walk.store.claim(name):
                if self.walk.ended(spec) is None:
                    fail(spec, name, self.walk.store, reason)
        except Held:
            self.held.append(spec)

    def _heard(self, generator: Any, message: Message) -> Iterator[Settled]:
        """Handle a message. Yield the run if it is over."""
        spec = message.spec
        if spec is None:
            raise UsageError(message.error or "")
        if message.kind == "begin":
            self.current[generator] = spec, message.node
            return self.walk.tell(Event("begin", spec))
        if self.current.pop(generator, None):
            self.out[generator].remove(spec)
        if message.kind == "held":
            self.held.append(spec)
            return self.walk.tell(Event("held", spec))
        if message.kind == "apart":
            self.apart = True
            self.queue.append((spec,))
            return self.walk.tell(Event("held", spec))
        if not message.name:
            raise MissingInput(f"{message.error}: models and data must be on every node")
        self._keep(message)
        yield spec, message.name, message.error

    def _keep(self, message: Message) -> None:
        """Store a run whose files were sent, or wait until a run that was stored elsewhere is seen here."""
        if message.kind != "over" or message.spec is None:
            return
        if message.files is not None and self.walk.ended(message.spec) is None:
            self.walk.store.adopt(message.name, message.files)
        until = time.monotonic() + SEEN
        while self.walk.ended(message.spec) is None:
            if time.monotonic() > until:
                raise ApetError(f"a worker has stored run {message.name}, and it is not in {self.walk.store.root} on this machine")
            time.sleep(POLL)

    def _name(self, spec: Spec) -> str:
        return identify(spec, self.order.study.data.get(spec.task_name))


class _Bell:
    """A Ray actor that collects reports of progress until the driver takes them."""

    def __init__(self) -> None:
        self.events: dict[Spec | None, Event] = {}

    def tell(self, event: Event) -> None:
        self.events[event.spec] = event

    def take(self) -> list[Event]:
        events, self.events = list(self.events.values()), {}
        return events


def _errand(order: Order, errand: Errand, bell: Any) -> Iterator[Message]:
    ray: Any = importlib.import_module("ray")

    yield from compute_errand(order, errand, ray.get, bell.tell.remote)


def _on_this_node(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _told(error: Exception) -> ApetError:
    """Return the error of a worker in one line."""
    if isinstance(error, ApetError):
        return error
    if "No module named" in str(error):
        return MissingInput(f"a worker of the cluster cannot load this program ({_line(error)}): install it on every node")
    return ApetError(f"a worker of the cluster failed: {_line(error)}")


def _line(error: Exception) -> str:
    """Return the last line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
