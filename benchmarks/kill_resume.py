"""Test whether a study that is killed and restarted repeatedly is bitwise equal to an uninterrupted study.

The study has eleven runs on generated sentences: full fine-tuning, a search in two rounds that follows from it, curvature at the search's
result, and a prediction. It uses one thread per run and checkpoints four times a second. The study is killed (SIGKILL) at random moments
and restarted from its stored state. A third of the times its runs are in the parent process, a third of the times in two jobs, and a third
of the times on two workers of a Ray cluster. Every second time only the parent is killed. On the cluster a worker is killed, and then the
driver.

The last line is {"figures": {...}}: `rows_lost` and `rows_different` against the uninterrupted study, `runs_recomputed` that had been
finished before a kill, and the number of kills that met a run with a checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
RAY = 0  # in place of a number of jobs
RAY_STARTS = 10.0  # seconds until a worker has imported everything
STUDY = """
name: killed
defaults: {model: mini-t5-240k, task: mini-sentiment, examples: 32, early_stop: false, steps: 60, batch: 8}
stages:
  full: {grid: [{kind: train, method: full}, {kind: predict}]}
  search:
    search: {fraction: 0.3, of: full, runs: 7, from: 4, to: 64}
    grid: [{kind: train, method: apet}]
  curvature: {at: search, grid: [{kind: spectrum, lanczos_steps: 3, probes: 1}]}
"""


def run(file: Path, root: Path, jobs: int) -> None:
    """Run the study to its end, resuming from its stored state: in `jobs` processes, which inherit this process's imports, or on Ray."""
    import torch

    import analyses.studies.workers
    import apet.training.loop
    from analyses.store import Store
    from analyses.studies import read_study, run_on_cluster
    from analyses.thresholds import finished, thresholds

    os.setsid()
    torch.set_num_threads(1)
    analyses.studies.workers.START = "fork"
    apet.training.loop.train.__kwdefaults__["checkpoint_every"] = 0.25
    study, store = read_study(file), Store(root)
    if jobs == RAY:
        run_on_cluster(study, store, address="auto")
    else:
        analyses.studies.workers.run_study(study, store, jobs=jobs)
    for target in study.targets:
        thresholds(store, finished(store), target)


def start(*arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    process.start()
    return process


def finish(*arguments: Any) -> float:
    """Run to the end, and return the seconds."""
    began, process = time.monotonic(), start(*arguments)
    process.join()
    if process.exitcode:
        raise SystemExit(f"the study ended with exit code {process.exitcode}")
    return time.monotonic() - began


def killed(seconds: float, alone: bool, random: Any, *arguments: Any) -> bool:
    """Start a study and kill all its processes, or only the parent (`alone`), after `seconds`. Return whether it was still running."""
    import psutil

    process = start(*arguments)
    if arguments[2] == RAY:
        process.join(seconds * random.random())
        for worker in ray_workers()[:1]:
            worker.kill()
    process.join(seconds)
    alive = process.is_alive()
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)] if alive else []
    for member in family[:1] if alone else family:
        member.kill()
    psutil.wait_procs(family)  # orphans save their state and end
    process.join()
    return alive


def ray_workers() -> list[Any]:
    import psutil

    family = psutil.Process().children(recursive=True)
    return [process for process in family if (process.cmdline() or [""])[0].startswith("ray::_errand")]


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Start a Ray cluster with two cores on this machine, for the block."""
    program = str(Path(sys.executable).with_name("ray"))
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen([program, "start", "--head", "--block", "--port=6391", "--num-cpus=2", "--include-dashboard=false"], **quiet)
    time.sleep(RAY_STARTS)
    try:
        yield
    finally:
        head.terminate()
        head.wait()


def rows(root: Path) -> dict[str, list[str]]:
    from analyses.store import Store

    store = Store(root)
    return {name: (store.folder(name) / "rows.jsonl").read_text().splitlines() for name in store.run_ids()}


def finished_at(root: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("*/DONE")}


def torture(kills: int, whole: dict, seconds: float, random: Any, say: Any, *arguments: Any) -> dict[str, int]:
    """Kill one study at most `kills` times, restart it each time until it is finished, and compare it with `whole`."""
    root = arguments[1]
    figures = {"kills": 0, "runs_recomputed": 0, "kills_with_checkpoint": 0}
    while figures["kills"] < kills and len(finished_at(root)) < len(whole):
        before = finished_at(root)
        alive = killed(seconds * random.random(), figures["kills"] % 2 == 1, random, *arguments)
        after = finished_at(root)
        figures["runs_recomputed"] += sum(after.get(name) != stamp for name, stamp in before.items())
        if alive:
            checkpoints = len(list(root.glob("*/checkpoint*.safetensors")))
            figures["kills"] += 1
            figures["kills_with_checkpoint"] += checkpoints > 0
            say(f"{len(before):6} {len(after):6} {checkpoints:12}")
    before = finished_at(root)
    finish(*arguments)
    figures["runs_recomputed"] += sum(finished_at(root).get(name) != stamp for name, stamp in before.items())
    return figures | compared(whole, rows(root))


def compared(whole: dict[str, list[str]], resumed: dict[str, list[str]]) -> dict[str, int]:
    """Return the numbers of missing rows and of different or additional rows."""
    lost = sum(len(lines) for name, lines in whole.items() if name not in resumed)
    extra = sum(len(lines) for name, lines in resumed.items() if name not in whole)
    both = whole.keys() & resumed.keys()
    different = sum(a != b for name in both for a, b in itertools.zip_longest(whole[name], resumed[name]))
    return {"rows_lost": lost, "rows_different": different + extra}


def measure(kills: int, folder: Path, say: Any) -> dict[str, int]:
    import numpy as np

    file, random = folder / "killed.yaml", np.random.default_rng(0)
    file.write_text(STUDY)
    seconds = finish(file, folder / "whole", 1)
    whole = rows(folder / "whole")
    say(f"uninterrupted: {len(whole)} runs, including thresholds, {seconds:.1f} s")
    total: Counter[str] = Counter()
    for jobs, until, within in ((1, kills // 3, seconds / 3), (2, 2 * kills // 3, seconds / 3), (RAY, kills, RAY_STARTS + seconds / 3)):
        with nullcontext() if jobs else ray_cluster():
            while total["kills"] < until:
                title = f"{jobs} jobs at a time" if jobs else "two workers of a Ray cluster"
                say(f"new study, {title}\n{'before':>6} {'after':>6} {'checkpoints':>12}  (finished runs before and after a kill)")
                root = folder / f"{jobs}-{total['kills']}"
                total.update(torture(until - total["kills"], whole, within, random, say, file, root, jobs))
    return dict(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six kills, 1 to 2 minutes on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    import accelerate  # noqa: F401 (the processes inherit all imports from this one)
    import peft  # noqa: F401
    from machine import describe

    import apet.training.loop  # noqa: F401

    with tempfile.TemporaryDirectory() as root:
        figures = measure(6 if options.quick else 30, Path(root), (lambda line: None) if options.json else print)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
