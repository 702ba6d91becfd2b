"""Times to list 100,000 runs, to find them finished when a study is repeated, and to tabulate them.

The runs are synthetic, and the store is real. Each run is committed like a training run, with 30 scalar rows, 20 rows of a histogram and an
array; only fsync is left out. Each of three questions is then asked in a new process:

- list the finished runs of the store;
- repeat a study of as many runs, which are all finished;
- make the table by model, task and k.

The listing is repeated without the journal, as for a store that was copied without it. The last line is {"figures": {...}}:

- list_s, resume_s and table_s: seconds per question;
- peak_gb: peak memory of the largest of the three processes;
- rebuild_s: seconds of the listing that writes the journal again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
MODELS = [f"model-{i}" for i in range(5)]
TASKS = ["sst2", "rte", "mrpc", "qnli", "cb"]
SEEDS, SCALARS, BINS = 20, 30, 20


def specs(count: int) -> list:
    """Return `count` different runs: models x tasks x k x seeds."""
    from analyses.specs import TrainSpec

    ks = count // (len(MODELS) * len(TASKS) * SEEDS)
    cells = ((m, t, k, s) for m in MODELS for t in TASKS for k in range(1, ks + 1) for s in range(SEEDS))
    return [TrainSpec(model=model, task=task, k=10 * k, position_seed=seed).resolved() for model, task, k, seed in cells]


def identify(spec, data, device="cpu") -> str:
    """Return the run's identity as if all runs had one model and one data set."""
    return spec.run_id("weights", "data")


def fill(root: Path, count: int) -> None:
    import numpy as np

    from analyses.specs import spec_dict
    from analyses.store import QUANTITIES, Row, Store

    os.fsync = lambda descriptor: None
    store, random = Store(root), np.random.default_rng(0)
    scalars = ["chance", "accuracy", *(name for name in QUANTITIES if name not in ("chance", "accuracy"))][:SCALARS]
    for spec in specs(count):
        name, values = identify(spec, None), random.random(SCALARS)
        common = {"run_id": name, "method": "apet", "k": spec.k, "position_seed": spec.position_seed, "train_seed": 0}
        rows = [
            Row(spec.model, 10**6, spec.task, quantity, float(value), split="validation", stderr=0.01, **common)
            for quantity, value in zip(scalars, values, strict=True)
        ]
        rows += [Row(spec.model, 10**6, spec.task, "entries", float(i), series="layer", group=str(i), **common) for i in range(BINS)]
        store.commit(name, spec_dict(spec), rows, {"z": values}, {"seconds": 60.0, "peak_gb": 1.0})


def ask(question: str, root: Path, count: int) -> dict[str, float]:
    """Return the seconds and the peak memory of one question in this process, without imports."""
    import resource

    import analyses.studies.walk
    from analyses.results import table
    from analyses.store import Store
    from analyses.studies import Stage, Study

    analyses.studies.walk.identify = identify
    store, study = Store(root), Study("scale", (Stage("runs", tuple(specs(count))),), (), {})
    questions = {
        "list": lambda: len(store.run_ids()),
        "resume": lambda: len(analyses.studies.walk.work(study, store).done),
        "table": lambda: sum(line["seeds"] for line in table(store)),
    }
    started = time.perf_counter()
    answered = questions[question]()
    seconds = time.perf_counter() - started
    if answered != count:
        raise SystemExit(f"{question} found {answered} of {count} runs")
    return {"seconds": seconds, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def asked(question: str, root: Path, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--ask", question, "--root", str(root), "--runs", str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 runs, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--runs", type=int, default=100_000, help="number of runs, a multiple of 500")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help="keep the store in this folder, and use an existing one")
    options = parser.parse_args()
    count = 2000 if options.quick else options.runs
    if options.ask:
        return print(json.dumps(ask(options.ask, options.root, count)))
    say = (lambda line: None) if options.json else print
    from machine import describe

    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder) / "scale"
        if not root.exists():
            started = time.perf_counter()
            fill(root, count)
            say(f"{count:,} runs made in {time.perf_counter() - started:.0f} s")
        answers = {}
        for question in ("list", "resume", "table"):
            answers[question] = asked(question, root, count)
            say(f"{question:8} {answers[question]['seconds']:7.2f} s {answers[question]['gb']:6.2f} GB")
        (root / "journal.jsonl").unlink()
        rebuild = asked("list", root, count)
        say(f"listing without the journal: {rebuild['seconds']:.2f} s")
    figures = {f"{question}_s": round(answer["seconds"], 3) for question, answer in answers.items()}
    peak = round(max(answer["gb"] for answer in answers.values()), 3)
    print(json.dumps({"figures": {**figures, "peak_gb": peak, "rebuild_s": round(rebuild["seconds"], 2), "runs": count}, **describe()}))


if __name__ == "__main__":
    main()
