"""Run a study on a Ray cluster. The driver walks through the study, and sends the runs that are not over to workers.

Ray places errands (`analyses.studies.cluster_worker`) on nodes with free cores, GPUs and memory, also on nodes that join later. If a
worker or a node dies, its runs are sent again. They resume from their checkpoints if the workers share the folder of results. Otherwise
they start again.
"""

from __future__ import annotations

import importlib
import math
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from analyses.runs import fail, identify
from analyses.specs import Spec
from analyses.store import Store
from analyses.studies.cluster_worker import Errand, Message, Order, Request, compute_errand, errands, facts, parents_of
from analyses.studies.signals import terminable
from analyses.studies.study_file import Study
from analyses.studies.walk import PLAIN, Event, Options, Outcome, Settled, Tell, Walk
from apet.errors import ApetError, MissingInput, UsageError

POLL = 0.5  # seconds between looks at the cluster
CONNECT = 5.0  # seconds in which the cluster must answer
STOP = 120.0  # seconds in which workers must have saved their runs after Ctrl-C
DEATHS = 2  # a run has failed if its worker died this many times on a node that lives on
AHEAD = 2  # errands that are with Ray at a time, per run that the cluster can compute at a time
PARTS = 4  # errands per run that the cluster can compute at a time, so that all workers end at about the same time
MOST = 16  # runs of an errand
ALONE = Request()


def run_on_cluster(
    study: Study, store: Store, options: Options = PLAIN, tell: Tell = lambda event: None, address: str = "auto", request: Request = ALONE,
) -> Outcome:  # fmt: skip
    """Compute the runs that are not done yet on the Ray cluster at `address` ("auto": the cluster of this machine).

    Raises MissingInput without Ray or a cluster, and UsageError if no node has what a run reserves. Raises KeyboardInterrupt on Ctrl-C and
    SIGTERM, after the workers have saved their runs.
    """
    with terminable(), _connected(address) as ray, store.marked() as marker:
        options = replace(options, device="cuda" if request.gpus else "cpu")
        order = Order(study, store.root.resolve(), marker, options, request, tuple(sys.argv), facts())
        crew = _Cluster(ray, order, Walk(study, store, options, tell, {}))
        try:
            return crew.walk.through(crew.settled)
        except BaseException:
            crew.stop()
            raise


@dataclass
class _Cluster:
    """The errands that are with Ray, and what their workers have reported."""

    ray: Any  # the module
    order: Order
    walk: Walk
    out: dict[Any, list[Spec]] = field(default_factory=dict)  # generator of messages -> runs that are not over
    hand: dict[Any, tuple[Spec, str]] = field(default_factory=dict)  # generator -> current run and its node
    queue: deque[tuple[Spec, ...]] = field(default_factory=deque)  # runs that are not with Ray yet
    held: list[Spec] = field(default_factory=list)  # runs that another launch computes
    deaths: Counter[Spec] = field(default_factory=Counter)
    parents: dict[str, Any] = field(default_factory=dict)  # run id -> reference to its files
    sharers: dict[str, int] = field(default_factory=dict)  # node -> number of runs at a time
    looked: float = -math.inf

    def __post_init__(self) -> None:
        request = self.order.request
        memory = {"memory": int(request.memory * 1e9)} if request.memory else {}
        self._bell = self.ray.remote(num_cpus=0)(_Bell).options(scheduling_strategy=_on_this_node(self.ray)).remote()
        self._remote = self.ray.remote(num_returns="streaming", max_retries=0, num_cpus=request.cpus, num_gpus=request.gpus, **memory)(
            _errand
        )
        self._shared = self.ray.put(self.order)
        self._look()
        if not self.slots:
            raise UsageError(f"no node of the cluster has what a run reserves ({_words(self.order.request)})")

    @property
    def slots(self) -> int:
        """The number of runs that the cluster can compute at a time."""
        return sum(self.sharers.values())

    def settled(self, specs: list[Spec]) -> Iterator[Settled]:
        """Yield (spec, run id, error) of every run once it is over."""
        rest = []
        for spec in specs:
            ended = self.walk.ended(spec)
            if ended is None:
                rest.append(spec)
            else:
                yield spec, *ended
        self.queue.extend(errands(rest, max(1, min(MOST, math.ceil(len(rest) / (PARTS * self.slots))))))
        while self.queue or self.out or self.held:
            self._send()
            for generator in self._ready():
                message = self._receive(generator)
                if message is not None:
                    yield from self._heard(generator, message)

    def stop(self) -> None:
        """Ask all workers to save their current run, and wait until they have."""
        for generator in self.out:
            with suppress(Exception):  # a worker that is gone
                self.ray.cancel(generator, force=False)
        until = time.monotonic() + STOP
        while self.out and time.monotonic() < until:
            for generator in self._ready():
                try:
                    self.ray.get(next(generator))
                except (StopIteration, self.ray.exceptions.RayError):
                    del self.out[generator]

    def _look(self) -> None:
        """Count the runs that each living node can compute at a time, and pass on the progress of runs, every POLL seconds."""
        if time.monotonic() - self.looked < POLL:
            return
        self.looked = time.monotonic()
        needed = {"CPU": self.order.request.cpus, "GPU": self.order.request.gpus, "memory": self.order.request.memory * 1e9}
        self.sharers = {
            node["NodeID"]: min(int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in needed.items() if amount)
            for node in self.ray.nodes()
            if node["Alive"]
        }
        self.queue.extend(errands(self.held, 1))
        self.held.clear()
        with suppress(self.ray.exceptions.RayError):  # progress is not worth an error
            for event in self.ray.get(self._bell.take.remote(), timeout=POLL):
                self.walk.tell(event)

    def _send(self) -> None:
        """Hand errands to Ray, as many as keep all workers busy."""
        self._look()
        while self.queue and len(self.out) < AHEAD * max(1, self.slots):
            specs = self.queue.popleft()
            errand = Errand(specs, {name: self._files(name) for spec in specs for name in parents_of(spec)}, self.sharers)
            self.out[self._remote.remote(self._shared, errand, self._bell)] = list(specs)

    def _files(self, name: str) -> Any:
        """Return a reference to the files of a finished run."""
        if name not in self.parents:
            self.parents[name] = self.ray.put(self.walk.store.files(name))
        return self.parents[name]

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
            self.hand.pop(generator, None)
            del self.out[generator]
            return None
        except self.ray.exceptions.RayTaskError as error:  # an error of the worker's code, such as a full disk
            raise ApetError(_cause(error)) from None
        except self.ray.exceptions.RayError as error:
            return self._bury(generator, error)

    def _bury(self, generator: Any, error: Exception) -> Message | None:
        """Send the runs of a dead worker again. The run that killed it for the DEATHS-th time has failed."""
        rest, (spec, node) = self.out.pop(generator), self.hand.pop(generator, (None, ""))
        if "No module named" in str(error):
            raise MissingInput(f"a worker of the cluster cannot load this program ({_line(error)}): install it on every node")
        if spec is not None and any(each["NodeID"] == node and each["Alive"] for each in self.ray.nodes()):
            self.deaths[spec] += 1
        failed = spec is not None and self.deaths[spec] >= DEATHS
        self.queue.extendleft(errands([each for each in rest if not failed or each != spec], MOST))
        if spec is None or not failed:
            return None
        name = identify(spec, self.order.study.data.get(spec.task_name))
        reason = f"the worker died {DEATHS} times in this run ({type(error).__name__}; often memory ran out)"
        fail(spec, name, self.walk.store, reason)
        return Message("over", spec, name, reason)

    def _heard(self, generator: Any, message: Message) -> Iterator[Settled]:
        """Handle a message: pass on the beginning of a run, keep a run that was computed elsewhere, and yield a run that is over."""
        spec = message.spec
        if message.kind == "refused":
            raise UsageError(message.error or "")
        assert spec is not None
        if message.kind == "begin":
            self.hand[generator] = spec, message.node
            return self.walk.tell(Event("begin", spec))
        self.hand.pop(generator, None)
        if generator in self.out:
            self.out[generator].remove(spec)
        if message.kind == "held":
            self.held.append(spec)
            return None
        if message.files is not None:
            self.walk.store.adopt(message.name, message.files)
        yield spec, message.name, message.error


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


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect to the cluster while the block lasts, and yield the module ray."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise MissingInput("--ray needs the package ray: install the extra 'cluster' (pip install apet-landscape[cluster])") from None
    if address.startswith("ray://"):
        raise UsageError("the driver must run on a node of the cluster: start the command there, with --ray auto")
    if address not in ("auto", "local"):
        _answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
    except ConnectionError as error:
        ray.shutdown()
        known = f"at {address} ({_line(error)})" if address != "auto" else "on this machine: start one with 'ray start --head'"
        raise MissingInput(f"no Ray cluster was found {known}") from None
    except (RuntimeError, ValueError) as error:  # for instance another version of Ray or Python
        ray.shutdown()
        raise UsageError(f"the Ray cluster at {address} cannot be joined: {' '.join(str(error).split())}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Raise UsageError or MissingInput unless a program accepts connections at HOST:PORT. Ray itself waits for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(f"--ray takes auto, local or HOST:PORT (got: {address})")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise MissingInput(f"no Ray cluster answers at {address} ({error.strerror or error})") from None


def _on_this_node(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _cause(error: Any) -> str:
    cause = error.cause if isinstance(error.cause, Exception) else error
    return str(cause) if isinstance(cause, ApetError) else f"a worker of the cluster failed: {_line(cause)}"


def _line(error: Exception) -> str:
    """Return the last line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _words(request: Request) -> str:
    parts = [f"{request.cpus:g} cores", f"{request.gpus:g} GPUs" * bool(request.gpus), f"{request.memory:g} GB" * bool(request.memory)]
    return ", ".join(filter(None, parts))
