"""Time that Ray adds to a run, against full fine-tuning of mini-bert-120k on mini-review, the shortest run of the ladder's studies.

A study of 60 very short runs is computed in this process and by two Ray workers. A run's overhead is the time between the ends of two runs
of one worker, less the seconds that the run itself took. The start of the workers (imports) is left out; it is paid once per launch.

The last line is {"figures": {...}}: overhead_process_ms and overhead_ray_ms per run, start_s of two Ray workers, shortest_s of a real run,
and share, the overhead with Ray divided by the shortest run. Needs the extra cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
WORKERS = 2
SHORT = {"model": "mini-bert-120k", "task": "mini-review", "examples": 16, "eval_examples": 50, "early_stop": False, "steps": 2, "batch": 8}
REAL = {**SHORT, "examples": None, "eval_examples": 1066, "steps": 300, "batch": 16, "readout": "words", "method": "full"}


def study_of(fields: list[dict[str, Any]]) -> Any:
    from analyses.specs import spec_from
    from analyses.studies import Stage, Study

    return Study("overhead", (Stage("runs", tuple(spec_from({"kind": "train", **each}).resolved() for each in fields)),), (), {})


def timed(launch: Any, study: Any, root: Path) -> tuple[float, list[float], float]:
    """Return (seconds until the first run began, ends of the runs in seconds, mean seconds of a run)."""
    from analyses.store import Store
    from analyses.studies import Options

    store, began, ends, started = Store(root), [], [], time.perf_counter()

    def tell(event: Any) -> None:
        if event.kind in ("begin", "done"):
            (began if event.kind == "begin" else ends).append(time.perf_counter() - started)

    outcome = launch(study, store, Options(), tell)
    if outcome.failed:
        raise SystemExit(f"a run failed: {outcome.failed[0][1]}")
    seconds = [store.env(name)["seconds"] for name in outcome.done]
    return began[0], ends, sum(seconds) / len(seconds)


def overhead(ends: list[float], seconds: float, workers: int) -> float:
    """Return the milliseconds per run without the first ones, which load the model."""
    warm = ends[len(ends) // 4 :]
    return 1e3 * ((warm[-1] - warm[0]) / (len(warm) - 1) * workers - seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 runs, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe
    from ray.cluster_utils import Cluster

    from analyses.studies import Request, run_on_cluster, run_study

    torch.set_num_threads(1)
    short = study_of([{**SHORT, "k": k} for k in range(10, 30 if options.quick else 70)])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _, ends, seconds = timed(partial(run_study, jobs=1), short, root / "process")
        process = overhead(ends, seconds, 1)
        _, _, real = timed(partial(run_study, jobs=1), study_of([REAL]), root / "real")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": WORKERS})
        start, ends, seconds = timed(partial(run_on_cluster, address=cluster.address, request=Request()), short, root / "ray")
        cluster.shutdown()
        ray = overhead(ends, seconds, WORKERS)
    figures = {
        "overhead_process_ms": round(process, 1),
        "overhead_ray_ms": round(ray, 1),
        "start_s": round(start, 1),
        "shortest_s": round(real, 2),
    }
    print(json.dumps({"figures": {**figures, "share": round(ray / 1e3 / real, 4), "runs": len(ends)}, **describe()}))


if __name__ == "__main__":
    main()
