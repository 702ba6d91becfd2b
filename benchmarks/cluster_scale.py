"""Simulate a study of 100,000 runs on 1,000 workers: operations on the file system per run, and time and memory of Ray's driver.

Nothing is trained. The store is real, except for fsync. Its operations are counted by wrapping the functions of `os`. The driver is the
program's own; Ray is replaced by a stand-in in this process, whose 1,000 workers report their runs at once. So the seconds are the driver's
alone. The last line is {"figures": {...}}:

- operations_<case>: operations on the file system per run. Cases: checked (whether an unfinished run is over), again (the same for a
  finished run), claimed and leased (a claim and its end), committed (a worker writes a run), adopted (the driver writes a run that a worker
  sent);
- driver_ms and driver_sent_ms: milliseconds of the driver per run, if the workers share the folder of results, and if they send files;
- driver_gb: peak memory of the driver.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from store_scale import identify, specs

COUNTED = ("stat", "open", "scandir", "mkdir", "replace", "rename", "unlink", "utime", "link", "rmdir")
WORKERS = 1000


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the operations on the file system of this process while the block lasts."""
    import builtins
    import io

    counts: Counter[str] = Counter()
    kept = {name: getattr(os, name) for name in COUNTED}
    opened = builtins.open

    def wrapped(name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    for name, function in kept.items():
        setattr(os, name, wrapped(name, function))
    builtins.open = io.open = wrapped("open", opened)
    try:
        yield counts
    finally:
        builtins.open = io.open = opened
        for name, function in kept.items():
            setattr(os, name, function)


class Ray:
    """A stand-in for the module ray. All workers are free at once, and each message of a worker is ready when it is asked for.

    sent: whether the workers send the files of a run, or store them. away: seconds in which the workers stored files.
    """

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def __init__(self, store: Any, files: dict[str, bytes], sent: bool):
        self.store, self.files, self.sent, self.away = store, files, sent, 0.0

    def nodes(self) -> list[dict]:
        return [{"NodeID": str(i), "Alive": True, "Resources": {"CPU": 1.0}} for i in range(WORKERS)]

    def put(self, value: Any) -> Any:
        return value

    def get(self, value: Any, timeout: float = 0) -> Any:
        return value

    def wait(self, out: list, **options: Any) -> tuple[list, list]:
        return out[:WORKERS], []

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        return lambda work: _Errands(self) if options.get("num_returns") else _Actor()


class _Actor:
    def options(self, **options: Any) -> _Actor:
        return self

    def remote(self, *arguments: Any) -> Any:
        return self

    @property
    def take(self) -> Any:
        return _Empty()


class _Empty:
    def remote(self) -> list:
        return []


class _Errands:
    def __init__(self, ray: Ray):
        self.ray = ray

    def remote(self, order: Any, errand: Any, bell: Any) -> Iterator[Any]:
        from analyses.studies.cluster_worker import Message

        for spec in errand.specs:
            name, began = identify(spec, None), time.perf_counter()
            if not self.ray.sent:
                stored(self.ray.store, spec)
            self.ray.away += time.perf_counter() - began
            yield Message("begin", spec, node="0")
            yield Message("over", spec, name, None, self.ray.files if self.ray.sent else None)


def stored(store: Any, spec: Any) -> str:
    """Store a run of `spec`, and return its id."""
    import numpy as np

    from analyses.specs import spec_dict
    from analyses.store import Row

    name = identify(spec, None)
    rows = [Row(spec.model, 10**6, spec.task, "accuracy", 0.5, split="validation", stderr=0.01, run_id=name, k=spec.k)]
    store.commit(name, spec_dict(spec), rows, {"z": np.zeros(10)}, {"seconds": 60.0})
    return name


def drive(root: Path, count: int, sent: bool) -> float:
    """Return the seconds that the driver takes for `count` runs. All of them have the files of one run."""
    import analyses.studies.walk
    from analyses.store import Store
    from analyses.studies import Request, Stage, Study, cluster
    from analyses.studies.cluster_worker import Order
    from analyses.studies.walk import PLAIN, Walk

    analyses.studies.walk.identify = identify
    cluster._on_this_node = lambda ray: None
    store, study = Store(root), Study("scale", (Stage("runs", tuple(specs(count))),), (), {})
    walk = Walk(study, store, PLAIN, lambda event: None, {})
    order = Order(study, root, root / "marker", root, PLAIN, Request(), (), {})
    one = Store(root.with_name("one"))
    ray = Ray(Store(root), one.files(stored(one, specs(500)[0])), sent)
    started = time.perf_counter()
    done = walk.through(cluster._Cluster(ray, order, walk).settled).done
    if len(done) != count:
        raise SystemExit(f"the driver finished {len(done)} of {count} runs")
    return time.perf_counter() - started - ray.away


def operations(root: Path) -> dict[str, float]:
    """Return the number of operations on the file system per run by case."""
    import analyses.studies.walk
    from analyses.store import Store
    from analyses.studies import Stage, Study
    from analyses.studies.walk import PLAIN, Walk

    analyses.studies.walk.identify = identify
    runs = specs(500)[:100]
    store, leased, other = Store(root / "locks"), Store(root / "leases"), Store(root / "other")
    leased.use_leases()
    walk = Walk(Study("scale", (Stage("runs", tuple(runs)),), (), {}), store, PLAIN, lambda event: None, {})
    files = other.files(stored(other, runs[0]))

    def claim(where: Store) -> Callable[[Any], None]:
        def hold(spec: Any) -> None:
            with where.claim(identify(spec, None)):
                pass

        return hold

    cases = {
        "checked": walk.ended, "claimed": claim(store), "leased": claim(leased), "committed": partial(stored, store), "again": walk.ended,
        "adopted": lambda spec: other.adopt(identify(spec, None), files),
    }  # fmt: skip
    counts = {}
    for name, case in cases.items():
        with counted() as count:
            deque(map(case, runs), maxlen=0)
        counts[f"operations_{name}"] = round(count.total() / len(runs), 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 runs, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    count = 2000 if options.quick else 100_000
    say = (lambda line: None) if options.json else print
    from machine import describe

    os.fsync = lambda descriptor: None
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, float] = operations(Path(folder))
        for name, sent in (("driver_ms", False), ("driver_sent_ms", True)):
            figures[name] = round(1e3 * drive(Path(folder) / name, count, sent) / count, 3)
            say(f"{name}: {figures[name]} for each of {count:,} runs")
    figures["driver_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)
    print(json.dumps({"figures": {**figures, "runs": count, "workers": WORKERS}, **describe()}))


if __name__ == "__main__":
    main()
